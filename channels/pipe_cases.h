#pragma once

// Slot pipes in a select:
//
//   Select(OnFetch(pipe, [&](ReadSlot message) { ... }), OnReceive(orders, ...));       // threads
//   co_await SelectOn(loop, OnFetch(async, [&](ReadSlot message) { ... }), ...);        //
//   coroutines
//
// A pipe whose SlotPipe::Cancel was called is as a closed channel. What a pipe cannot do otherwise
// (DATA_LOSS, FAILED_PRECONDITION; slot_pipe.h) ends the select with that status. While it waits
// for pipes, a select wakes every 40 ms to look for the dead, as everybody does who waits for one;
// that of a thread every millisecond where the system cannot wait for several words (futex_waitv).

#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "channels/case.h"
#include "channels/wait.h"
#include "transport/slot_pipe/async_slot_pipe.h"
#include "transport/slot_pipe/pipe_poll.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7::channels_internal {

// What all cases of pipes are made of. Slot: WriteSlot to hold, ReadSlot to fetch.
template <typename Slot>
class PipeCase : public Case {
 public:
  static constexpr slot_pipe_internal::Direction kDirection =
      std::is_same_v<Slot, WriteSlot> ? slot_pipe_internal::Direction::kHold
                                      : slot_pipe_internal::Direction::kFetch;

  absl::Status error() const override { return slot_->status(); }

 protected:
  explicit PipeCase(SlotPipe* pipe) : pipe_(pipe) {}
  ~PipeCase() = default;

  SlotPipe* pipe() const { return pipe_; }
  Outcome Try() {
    if (pipe_->cancelled()) return Outcome::kClosed;
    if constexpr (std::is_same_v<Slot, WriteSlot>) {
      slot_.emplace(pipe_->TryHold());
      if (absl::IsResourceExhausted(slot_->status())) return Outcome::kNotYet;
    } else {
      slot_.emplace(pipe_->TryFetch());
      if (absl::IsUnavailable(slot_->status())) return Outcome::kNotYet;
    }
    return slot_->ok() ? Outcome::kDone : Outcome::kFailed;
  }
  Slot Take() {
    Slot slot = **std::move(slot_);
    slot_.reset();
    return slot;
  }

 private:
  SlotPipe* const pipe_;
  std::optional<absl::StatusOr<Slot>> slot_;
};

// Of a thread, which looks at the pipe itself.
template <typename Slot, typename Handler>
class [[nodiscard]] ThreadPipeCase final : public PipeCase<Slot> {
 public:
  static constexpr bool kNeedsThread = true;

  ThreadPipeCase(SlotPipe* pipe, Handler handler)
      : PipeCase<Slot>(pipe),
        poll_(pipe, PipeCase<Slot>::kDirection),
        handler_(std::move(handler)) {}

  Outcome Attempt(Wait* wait, int) override {
    if (wait == nullptr) return this->Try();
    open_ = !this->pipe()->cancelled();
    return open_ ? Outcome::kNotYet : Outcome::kClosed;
  }
  void Run() override { handler_(this->Take()); }
  bool needs_thread() const override { return true; }
  slot_pipe_internal::PipePoll* poll() override { return open_ ? &poll_ : nullptr; }

 private:
  slot_pipe_internal::PipePoll poll_;
  bool open_ = true;
  Handler handler_;
};

// Of threads and coroutines, told by the AsyncSlotPipe.
template <typename Slot, typename Handler>
class [[nodiscard]] AsyncPipeCase final : public PipeCase<Slot>, slot_pipe_internal::PipeListener {
 public:
  AsyncPipeCase(AsyncSlotPipe* async, Handler handler)
      : PipeCase<Slot>(async->pipe()), async_(async), handler_(std::move(handler)) {}

  Outcome Attempt(Wait* wait, int) override {
    if (wait == nullptr) return this->Try();
    if (this->pipe()->cancelled()) return Outcome::kClosed;
    wait_ = wait;
    async_->Watch(PipeCase<Slot>::kDirection, this);
    return Outcome::kNotYet;
  }
  void Leave() override {
    if (wait_ != nullptr) async_->Unwatch(PipeCase<Slot>::kDirection, this);
    wait_ = nullptr;
  }
  void Run() override { handler_(this->Take()); }

 private:
  void OnMayHave() override {
    if (wait_->ClaimToFinish()) wait_->Finish(Wait::kLookAgain);
  }

  AsyncSlotPipe* const async_;
  Handler handler_;
  Wait* wait_ = nullptr;  // while entered
};

}  // namespace mi7::channels_internal

namespace mi7::channels {

// A message: handler(ReadSlot).
template <typename Handler>
channels_internal::ThreadPipeCase<ReadSlot, Handler> OnFetch(SlotPipe& pipe, Handler handler) {
  return {&pipe, std::move(handler)};
}
template <typename Handler>
channels_internal::AsyncPipeCase<ReadSlot, Handler> OnFetch(AsyncSlotPipe& pipe, Handler handler) {
  return {&pipe, std::move(handler)};
}
// An empty slot: handler(WriteSlot).
template <typename Handler>
channels_internal::ThreadPipeCase<WriteSlot, Handler> OnHold(SlotPipe& pipe, Handler handler) {
  return {&pipe, std::move(handler)};
}
template <typename Handler>
channels_internal::AsyncPipeCase<WriteSlot, Handler> OnHold(AsyncSlotPipe& pipe, Handler handler) {
  return {&pipe, std::move(handler)};
}

}  // namespace mi7::channels
