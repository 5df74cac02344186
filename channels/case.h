#pragma once

// Case: one of the things that a select waits for. Made by the functions of select.h and
// pipe_cases.h.

#include "absl/status/status.h"
#include "base/deadline.h"
#include "channels/channel_state.h"
#include "channels/wait.h"

namespace mi7::slot_pipe_internal {
class PipePoll;
}  // namespace mi7::slot_pipe_internal

namespace mi7::channels_internal {

// Used by one select at a time, on one thread at a time. What it refers to outlives the select.
class Case {
 public:
  Case() = default;
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  // Does it now, if that is possible. With a wait: claims the wait before it does it, and when it
  // is not yet possible, enters the wait, so that it is finished when it is: with `index` when it
  // was done for the wait, with kLookAgain when it is to be attempted again. Does not fail then.
  virtual Outcome Attempt(Wait* wait, int index) = 0;
  // The wait is over, and entered no more. Without a wait, nothing.
  virtual void Leave() {}
  // Calls the handler. After Attempt was done, or the wait was finished with this case's index.
  virtual void Run() = 0;
  // Instead of Run, when the coroutine that waited was destroyed: as if it had not been done.
  virtual void Undo() {}

  // Why it has failed, after Outcome::kFailed.
  virtual absl::Status error() const { return absl::OkStatus(); }
  // When it is to be attempted again.
  virtual Deadline deadline() const { return Deadline::Infinite(); }
  // Whether it keeps a select from ending when all else is closed.
  virtual bool counts() const { return true; }
  // Whether a wait for it is finished by nobody: a thread looks at poll() itself.
  virtual bool needs_thread() const { return false; }
  // Null when there is nothing to look at, because it is closed.
  virtual slot_pipe_internal::PipePoll* poll() { return nullptr; }

 protected:
  ~Case() = default;
};

}  // namespace mi7::channels_internal
