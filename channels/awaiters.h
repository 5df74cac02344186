#pragma once

// How a thread or a coroutine waits for one channel: BlockingSend, BlockingReceive, SendAwaiter and
// ReceiveAwaiter. For several see select.h.

#include <coroutine>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "channels/channel_state.h"
#include "channels/wait.h"
#include "transport/event_loop.h"

namespace mi7::channels_internal {

// A wait for one channel ends with its deadline, with what was waited for, or because the channel
// was closed, which is final: there is nothing to look at again.

template <typename T>
absl::Status BlockingSend(ChannelState<T>& state, T& value, Deadline deadline) {
  Outcome outcome = state.Push(value, nullptr);
  if (outcome == Outcome::kNotYet) {
    ThreadWait wait;
    Entry entry{.wait = &wait, .value = &value};
    outcome = state.Push(value, &entry);
    if (outcome == Outcome::kNotYet) {
      const int ended = wait.Await(deadline);
      state.RemoveSender(entry);
      if (ended == Wait::kDeadline) return SendTimeoutError();
      outcome = ended == entry.index ? Outcome::kDone : Outcome::kClosed;
    }
  }
  return outcome == Outcome::kDone ? absl::OkStatus() : ClosedToSendersError();
}

template <typename T>
absl::StatusOr<T> BlockingReceive(ChannelState<T>& state, Deadline deadline) {
  std::optional<T> value;
  if (state.Pop(value, nullptr) == Outcome::kNotYet) {
    ThreadWait wait;
    Entry entry{.wait = &wait, .value = &value};
    if (state.Pop(value, &entry) == Outcome::kNotYet) {
      const int ended = wait.Await(deadline);
      state.RemoveReceiver(entry);
      if (ended == Wait::kDeadline) return ReceiveTimeoutError();
    }
  }
  if (!value.has_value()) return ClosedToReceiversError();
  return *std::move(value);
}

// What both awaiters share: a coroutine's wait in one list.
class Awaiter : private Suspended {
 public:
  Awaiter(const Awaiter&) = delete;
  Awaiter& operator=(const Awaiter&) = delete;

 protected:
  Awaiter(transport::EventLoop* loop, void* value) : loop_(loop) { entry_.value = value; }
  ~Awaiter() = default;

  // To be listed when the wait begins.
  Entry* BeginWait(std::coroutine_handle<> coroutine) {
    coroutine_ = coroutine;
    wait_ = std::make_shared<CoroutineWait>(loop_, static_cast<Suspended*>(this));
    entry_.wait = wait_.get();
    return &entry_;
  }
  // When it was listed: true when the coroutine is suspended, and nothing of it may be touched.
  bool Suspend(Deadline deadline) {
    // The coroutine may go on, and destroy this object, before Suspend returns.
    const std::shared_ptr<CoroutineWait> wait = wait_;
    wait->EndAt(deadline);
    return wait->Suspend();
  }
  // Whether it was suspended and has not gone on.
  bool waiting() const { return wait_ != nullptr; }
  int EndWait() { return std::exchange(wait_, nullptr)->outcome(); }
  void AbandonWait() { wait_->Abandon(); }
  Entry& entry() { return entry_; }

 private:
  void OnFinished() override { coroutine_.resume(); }

  transport::EventLoop* const loop_;
  std::coroutine_handle<> coroutine_;
  std::shared_ptr<CoroutineWait> wait_;
  Entry entry_;
};

// What Sender::SendOn makes.
template <typename T>
class [[nodiscard]] SendAwaiter final : Awaiter {
 public:
  SendAwaiter(ChannelState<T>& state, transport::EventLoop* loop, T& value, Deadline deadline)
      : Awaiter(loop, &value), state_(state), value_(value), deadline_(deadline) {}
  ~SendAwaiter() {
    if (!waiting()) return;
    AbandonWait();
    state_.RemoveSender(entry());
  }

  bool await_ready() {
    outcome_ = state_.Push(value_, nullptr);
    return outcome_ != Outcome::kNotYet;
  }
  bool await_suspend(std::coroutine_handle<> coroutine) {
    outcome_ = state_.Push(value_, BeginWait(coroutine));
    return outcome_ == Outcome::kNotYet && Suspend(deadline_);
  }
  absl::Status await_resume() {
    if (outcome_ == Outcome::kNotYet) {
      state_.RemoveSender(entry());
      const int ended = EndWait();
      if (ended == Wait::kDeadline) return SendTimeoutError();
      outcome_ = ended == entry().index ? Outcome::kDone : Outcome::kClosed;
    } else if (waiting()) {
      EndWait();
    }
    return outcome_ == Outcome::kDone ? absl::OkStatus() : ClosedToSendersError();
  }

 private:
  ChannelState<T>& state_;
  T& value_;
  const Deadline deadline_;
  Outcome outcome_ = Outcome::kNotYet;
};

// What Receiver::ReceiveOn makes.
template <typename T>
class [[nodiscard]] ReceiveAwaiter final : Awaiter {
 public:
  ReceiveAwaiter(ChannelState<T>& state, transport::EventLoop* loop, Deadline deadline)
      : Awaiter(loop, &value_), state_(state), deadline_(deadline) {}
  ~ReceiveAwaiter() {
    if (!waiting()) return;
    AbandonWait();
    state_.RemoveReceiver(entry());
    if (value_.has_value()) state_.PutBack(*std::move(value_), entry());
  }

  bool await_ready() {
    outcome_ = state_.Pop(value_, nullptr);
    return outcome_ != Outcome::kNotYet;
  }
  bool await_suspend(std::coroutine_handle<> coroutine) {
    outcome_ = state_.Pop(value_, BeginWait(coroutine));
    return outcome_ == Outcome::kNotYet && Suspend(deadline_);
  }
  absl::StatusOr<T> await_resume() {
    if (outcome_ == Outcome::kNotYet) {
      state_.Arrive(entry());
      if (EndWait() == Wait::kDeadline) return ReceiveTimeoutError();
    } else if (waiting()) {
      EndWait();
    }
    if (!value_.has_value()) return ClosedToReceiversError();
    return *std::move(value_);
  }

 private:
  ChannelState<T>& state_;
  const Deadline deadline_;
  std::optional<T> value_;
  Outcome outcome_ = Outcome::kNotYet;
};

}  // namespace mi7::channels_internal
