#pragma once

// The cases of channels and of deadlines. See select.h.

#include <optional>
#include <utility>

#include "base/deadline.h"
#include "channels/case.h"
#include "channels/channel_state.h"
#include "channels/wait.h"

namespace mi7::channels_internal {

// Made by OnReceive.
template <typename T, typename Handler>
class [[nodiscard]] ReceiveCase final : public Case {
 public:
  ReceiveCase(ChannelState<T>* state, Handler handler)
      : state_(state), handler_(std::move(handler)) {}

  Outcome Attempt(Wait* wait, int index) override {
    if (state_ == nullptr) return Outcome::kClosed;
    if (wait == nullptr) return state_->Pop(value_, nullptr);
    entry_ = {.wait = wait, .index = index, .value = &value_};
    return state_->Pop(value_, &entry_);
  }
  void Leave() override {
    if (state_ != nullptr) state_->RemoveReceiver(entry_);
  }
  void Run() override {
    T value = *std::move(value_);
    value_.reset();
    if (entry_.on_the_way) state_->Arrive(entry_);
    handler_(std::move(value));
  }
  void Undo() override {
    if (value_.has_value()) state_->PutBack(*std::exchange(value_, std::nullopt), entry_);
  }

 private:
  ChannelState<T>* const state_;
  Handler handler_;
  std::optional<T> value_;
  Entry entry_;
};

// Made by OnSend.
template <typename T, typename Handler>
class [[nodiscard]] SendCase final : public Case {
 public:
  SendCase(ChannelState<T>* state, T& value, Handler handler)
      : state_(state), value_(value), handler_(std::move(handler)) {}

  Outcome Attempt(Wait* wait, int index) override {
    if (state_ == nullptr) return Outcome::kClosed;
    if (wait == nullptr) return state_->Push(value_, nullptr);
    entry_ = {.wait = wait, .index = index, .value = &value_};
    return state_->Push(value_, &entry_);
  }
  void Leave() override {
    if (state_ != nullptr) state_->RemoveSender(entry_);
  }
  void Run() override { handler_(); }

 private:
  ChannelState<T>* const state_;
  T& value_;
  Handler handler_;
  Entry entry_;
};

// Made by OnClosed.
template <typename T, typename Handler>
class [[nodiscard]] ClosedCase final : public Case {
 public:
  ClosedCase(ChannelState<T>* state, Handler handler)
      : state_(state), handler_(std::move(handler)) {}

  Outcome Attempt(Wait* wait, int index) override {
    if (state_ == nullptr)
      return wait == nullptr || wait->Claim() ? Outcome::kDone : Outcome::kLost;
    if (wait == nullptr) return state_->CheckClosed(nullptr);
    entry_ = {.wait = wait, .index = index};
    return state_->CheckClosed(&entry_);
  }
  void Leave() override {
    if (state_ != nullptr) state_->RemoveCloser(entry_);
  }
  void Run() override { handler_(); }

 private:
  ChannelState<T>* const state_;
  Handler handler_;
  Entry entry_;
};

// Made by OnDeadline.
template <typename Handler>
class [[nodiscard]] DeadlineCase final : public Case {
 public:
  DeadlineCase(Deadline deadline, Handler handler)
      : deadline_(deadline), handler_(std::move(handler)) {}

  Outcome Attempt(Wait* wait, int) override {
    if (!deadline_.passed()) return Outcome::kNotYet;
    return wait == nullptr || wait->Claim() ? Outcome::kDone : Outcome::kLost;
  }
  void Run() override { handler_(); }
  Deadline deadline() const override { return deadline_; }
  bool counts() const override { return false; }

 private:
  const Deadline deadline_;
  Handler handler_;
};

}  // namespace mi7::channels_internal
