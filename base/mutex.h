#pragma once

// Mutex, MutexLock, CondVar: a lock of 4 bytes with Abseil's thread-safety annotations.
//
// Why not absl::Mutex: Debian builds Abseil without NDEBUG, which leaves the deadlock detector of
// absl::Mutex on, with a spin lock that all mutexes of the process share. An uncontended lock and
// unlock cost 55 ns there, and a call takes several. Why not std::mutex: it is as fast as this one
// but takes 40 bytes, and idle connections by the ten thousand hold six each
// (docs/decisions/0006-own-mutex.md).

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/deadline.h"

namespace mi7 {

// Not recursive, not fair. The algorithm is "mutex2" of Ulrich Drepper, "Futexes Are Tricky"
// (2011): kLockedWithWaiters tells the unlocker that somebody may sleep.
//
// Memory ordering: taking acquires and freeing releases, so what one holder wrote the next one
// sees. No wakeup is lost: a waiter sleeps only while the word still is kLockedWithWaiters, which
// the system checks under its own lock, and who replaces that value by unlocking wakes one.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    uint32_t free = kFree;
    if (!state_.compare_exchange_strong(free, kLocked, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      LockSlow();
    }
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    if (state_.exchange(kFree, std::memory_order_release) == kLockedWithWaiters) WakeOne();
  }

 private:
  enum State : uint32_t { kFree = 0, kLocked = 1, kLockedWithWaiters = 2 };
  void LockSlow();
  void WakeOne();

  std::atomic<uint32_t> state_{kFree};
};
static_assert(sizeof(Mutex) == 4);

// Holds a Mutex for a scope.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// Wakes threads that wait for a change of what a Mutex guards. Whoever makes the change notifies,
// while it holds the Mutex or after. For rare waits.
class CondVar {
 public:
  // Waits, releasing `mutex` meanwhile, until `condition()` holds (true) or `deadline` has passed
  // (false). `condition` runs with `mutex` held.
  template <typename Condition>
  bool WaitUntil(Mutex& mutex, Deadline deadline, Condition condition)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    struct Lockable {
      Mutex& mutex;
      void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex.Lock(); }
      void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex.Unlock(); }
    } lock{mutex};
    if (deadline.infinite()) {
      changed_.wait(lock, condition);
      return true;
    }
    while (!condition()) {
      if (deadline.passed()) return false;
      // steady_clock is CLOCK_MONOTONIC.
      changed_.wait_until(lock, std::chrono::steady_clock::time_point(
                                    std::chrono::nanoseconds(deadline.ForSystem().at_ns())));
    }
    return true;
  }
  void NotifyAll() { changed_.notify_all(); }

 private:
  std::condition_variable_any changed_;
};

}  // namespace mi7
