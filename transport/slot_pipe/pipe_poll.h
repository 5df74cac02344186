#pragma once

// PipePoll and PipeListener: what a wait for several pipes and other things at once
// (channels/select.h) needs of each pipe. The wait makes its attempts by TryHold and TryFetch.

#include <atomic>
#include <cstdint>

#include "transport/slot_pipe/slot_pipe.h"

namespace mi7::slot_pipe_internal {

// What is waited for.
enum class Direction { kHold, kFetch };

// For a thread, which sleeps on the words of all its pipes at once. The labels are those of
// event.h:
//
//   Declare (S1), MayHave (S2), then a sleep while word() is what Declare returned (S3), for
//   kLookAgainNs at most; after it PassOn, when something was found.
//
// Thread-safe; the pipe outlives it.
class PipePoll {
 public:
  PipePoll(SlotPipe* pipe, Direction direction) : pipe_(pipe), direction_(direction) {}

  bool cancelled() const { return pipe_->cancelled(); }
  // Whether an attempt may succeed now. False may be wrong about an empty slot that a crash has
  // hidden (free_hints.h): attempts find it.
  bool MayHave() const;
  uint32_t Declare();
  const Atomic<uint32_t>& word() const;
  // The wake that ended the sleep may have been meant for two.
  void PassOn();

 private:
  SlotPipe* const pipe_;
  const Direction direction_;
};

// For a coroutine: see AsyncSlotPipe::Watch.
class PipeListener {
 public:
  // An attempt may succeed now, or it is time to make one. On a thread of the AsyncSlotPipe, with
  // its lock held: does not call it.
  virtual void OnMayHave() = 0;

 protected:
  ~PipeListener() = default;
};

}  // namespace mi7::slot_pipe_internal
