#pragma once

// AsyncSlotPipe: Hold, Fetch and SendBytes of a SlotPipe for coroutines that run on an event loop.
//
//   mi7::AsyncSlotPipe async(&pipe, loop.get());
//   absl::StatusOr<mi7::ReadSlot> message = co_await async.Fetch();
//
// What is ready is taken at once, without suspending. Else the coroutine waits in a queue, first
// come, first served, and is resumed on the loop's thread. A pipe wakes its sleepers through a word
// in shared memory, on which a loop cannot wait; so a thread of this object does, one for each
// direction in which somebody has ever waited, and asleep while nobody does. The threads are joined
// by the destructor.

#include <coroutine>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/deadline.h"
#include "transport/event_loop.h"
#include "transport/slot_pipe/pipe_poll.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7 {

namespace slot_pipe_internal {

// What one direction waits for: takes within the deadline, or says why not.
template <typename Slot>
class AsyncQueue;

// One coroutine that waits. Lives in its frame.
template <typename Slot>
class SlotAwaiter {
 public:
  SlotAwaiter(AsyncQueue<Slot>* queue, Deadline deadline) : queue_(queue), deadline_(deadline) {}
  // Ends the wait, when the coroutine is destroyed while it waits; on the loop's thread.
  ~SlotAwaiter();
  SlotAwaiter(const SlotAwaiter&) = delete;
  SlotAwaiter& operator=(const SlotAwaiter&) = delete;

  bool await_ready();
  void await_suspend(std::coroutine_handle<> coroutine);
  absl::StatusOr<Slot> await_resume() { return *std::move(result_); }

 private:
  friend class AsyncQueue<Slot>;
  AsyncQueue<Slot>* const queue_;
  const Deadline deadline_;
  std::optional<absl::StatusOr<Slot>> result_;
  std::coroutine_handle<> coroutine_;
  std::shared_ptr<SlotAwaiter*> self_;  // null inside once destroyed; while it waits
  // Where it is in its queue, until its result is on its way. Guarded by the queue's lock.
  std::optional<typename std::list<SlotAwaiter*>::iterator> place_;
};

// What SendBytes makes: a hold, then what SlotPipe::SendBytes does with the slot.
class SendAwaiter {
 public:
  SendAwaiter(absl::Status fits, AsyncQueue<WriteSlot>* queue, absl::string_view bytes,
              Deadline deadline)
      : fits_(std::move(fits)), bytes_(bytes), slot_(queue, deadline) {}

  bool await_ready() { return !fits_.ok() || slot_.await_ready(); }
  void await_suspend(std::coroutine_handle<> coroutine) { slot_.await_suspend(coroutine); }
  absl::Status await_resume();

 private:
  const absl::Status fits_;
  const absl::string_view bytes_;
  SlotAwaiter<WriteSlot> slot_;
};

}  // namespace slot_pipe_internal

// `co_await` on any thread; whoever had to wait goes on on the loop's thread. The pipe and the loop
// outlive this object, and nobody waits when it is destroyed: SlotPipe::Cancel ends all waits with
// CANCELLED, which resumes the coroutines on the loop. A slot for a coroutine that waited is on its
// way in what was posted to the loop, so the loop is destroyed, or has run that, before the pipe.
// In a forked child, which has neither the threads nor the loop's, each wait fails at once with
// FAILED_PRECONDITION, and what its parent had begun can be destroyed.
class AsyncSlotPipe {
 public:
  AsyncSlotPipe(SlotPipe* pipe, transport::EventLoop* loop);
  ~AsyncSlotPipe();
  AsyncSlotPipe(const AsyncSlotPipe&) = delete;
  AsyncSlotPipe& operator=(const AsyncSlotPipe&) = delete;

  // As SlotPipe::Hold, Fetch and SendBytes, to be awaited once, at once. Errors as there: what is
  // wrong with one message is told to one coroutine, the first that waits. A message that was
  // fetched for a coroutine that is gone meanwhile is returned, and its attempt not counted.
  // `bytes` stay until SendBytes has ended.
  slot_pipe_internal::SlotAwaiter<WriteSlot> Hold(Deadline deadline = Deadline::Infinite());
  slot_pipe_internal::SlotAwaiter<ReadSlot> Fetch(Deadline deadline = Deadline::Infinite());
  slot_pipe_internal::SendAwaiter SendBytes(absl::string_view bytes,
                                            Deadline deadline = Deadline::Infinite());

  // For a wait for several things at once (channels/select.h), which makes the attempts itself:
  // tells `listener` once that one may succeed, or after a while that it is time for one. Unwatch
  // before that it is to be forgotten; after it returns, `listener` is not told any more.
  void Watch(slot_pipe_internal::Direction direction, slot_pipe_internal::PipeListener* listener);
  void Unwatch(slot_pipe_internal::Direction direction, slot_pipe_internal::PipeListener* listener);
  SlotPipe* pipe() const { return pipe_; }

 private:
  SlotPipe* const pipe_;
  std::unique_ptr<slot_pipe_internal::AsyncQueue<WriteSlot>> hold_;
  std::unique_ptr<slot_pipe_internal::AsyncQueue<ReadSlot>> fetch_;
};

}  // namespace mi7
