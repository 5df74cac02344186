#pragma once

// Timers: what is to happen at a time, on an event loop, for objects that may outlive the loop.

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "transport/event_loop.h"

namespace mi7 {

// For what happens seldom (a retry, a handler that sleeps): an allocation a timer, O(log n). The
// deadlines of calls have a queue of their own (deadline_queue.h). Thread-safe.
class Timers : public std::enable_shared_from_this<Timers> {
 public:
  // One timer. A value type; default-constructed: none.
  struct Handle {
    int64_t at_ns = 0;
    uint64_t number = 0;
    friend auto operator<=>(const Handle&, const Handle&) = default;
  };

  // `loop` must live until Close, or until the last reference is gone.
  static std::shared_ptr<Timers> Create(transport::EventLoop* loop);

  // Runs `fire` once, on the loop's thread and without a lock, when `at` has passed; unless Cancel
  // or Close come before, which destroy it unrun. Nothing happens after Close, or for an infinite
  // `at`.
  Handle Schedule(Deadline at, absl::AnyInvocable<void()> fire);
  // False: it runs at this moment, has run, or never was.
  bool Cancel(Handle timer);
  // From now on whatever waits, or is scheduled, fires at once.
  void Hurry();
  // Before the loop goes.
  void Close();

 private:
  Timers() = default;
  void OnTime();
  void Arm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool hurries_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<Handle, absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  // What the loop's timer is set for. It may fire early (a timer was cancelled), never late.
  Deadline armed_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<transport::EventLoop::Timer> timer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mi7
