#pragma once

// BiasedMutex: a lock for what one thread uses over and over and others hardly ever.
//
// An atomic read-modify-write takes as long as 70 plain instructions, and a Mutex takes two. Most
// connections are used by one thread: the one that calls, or the event loop. So a thread that came
// kStreak times in a row is *granted* the lock: from then on it locks and unlocks with plain loads
// and stores. The first other thread that wants the lock revokes the grant, which costs it a system
// call, and from then on both use an ordinary Mutex. Every grant of a lock takes a longer streak
// than the one before, and there are no more than kGrantsMax, so a lock that threads share in
// earnest is soon an ordinary one for good.
//
// Why it excludes. All slow ways hold `mutex_`, so they exclude each other, and nobody but the
// granted thread goes the fast way. Between that and a slow way:
//   granted thread:  F1 inside = true    LightFence    F2 reads grant, goes in if it is still ours
//   any other:       S1 grant = none     HeavyFence    S2 reads inside, goes in once it is false
// Either F2 sees S1, or S2 sees F1 (asymmetric_fence.h). Each grant has an `inside` of its own, so
// that a thread that lost its grant between reading it and F1 disturbs no later one.
//
// Memory ordering. `inside` is cleared with release and S2 acquires, so the revoker sees what the
// granted thread wrote. A grant is given by the thread itself while it holds `mutex_`, so it sees
// what others wrote before.

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/asymmetric_fence.h"
#include "base/mutex.h"

namespace mi7 {

// Not recursive, not fair. 20 bytes. Without asymmetric fences nothing is ever granted.
class ABSL_LOCKABLE BiasedMutex {
 public:
  static constexpr uint32_t kStreak = 64;  // for the first grant; four times as many for each next
  static constexpr uint32_t kGrantsMax = 4;

  BiasedMutex() = default;
  BiasedMutex(const BiasedMutex&) = delete;
  BiasedMutex& operator=(const BiasedMutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    const uint32_t grant = grant_.load(std::memory_order_relaxed);
    if (grant / kGrantsMax == thread_id_) [[likely]] {
      std::atomic<bool>& inside = inside_[grant % kGrantsMax];
      inside.store(true, std::memory_order_relaxed);  // F1
      LightFence();
      if (grant_.load(std::memory_order_relaxed) == grant) [[likely]] {  // F2
        way_ = static_cast<uint8_t>(grant % kGrantsMax);
        return;
      }
      inside.store(false, std::memory_order_release);
    }
    LockSlow();
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (way_ != kSlow) [[likely]] {
      inside_[way_].store(false, std::memory_order_release);
    } else {
      mutex_.Unlock();
    }
  }

  // Whether the calling thread has the lock granted; for tests.
  bool granted() const { return grant_.load(std::memory_order_relaxed) / kGrantsMax == thread_id_; }

 private:
  static constexpr uint8_t kSlow = kGrantsMax;
  // Of threads that never took the slow way, and so have no grant.
  static constexpr uint32_t kNoThread = ~uint32_t{0};
  // Numbered from 1 on. An id that comes again after 2^30 threads belongs to no other living one,
  // for all practical purposes.
  static inline constinit thread_local uint32_t thread_id_ = kNoThread;
  static uint32_t NewThreadId();

  void LockSlow() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void Revoke(uint32_t grant);

  std::atomic<uint32_t> grant_{0};  // the thread's id times kGrantsMax, plus the grant's number
  std::array<std::atomic<bool>, kGrantsMax> inside_{};
  Mutex mutex_;
  uint32_t last_ = 0;      // thread that came last the slow way; guarded by mutex_
  uint16_t in_a_row_ = 0;  // how often it did; guarded by mutex_
  uint8_t grants_ = 0;     // given, ever; guarded by mutex_
  uint8_t way_ = kSlow;    // the holder's, guarded by this lock
};
static_assert(sizeof(BiasedMutex) == 20);

// Holds a BiasedMutex for a scope.
class ABSL_SCOPED_LOCKABLE BiasedLock {
 public:
  explicit BiasedLock(BiasedMutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~BiasedLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  BiasedLock(const BiasedLock&) = delete;
  BiasedLock& operator=(const BiasedLock&) = delete;

 private:
  BiasedMutex* const mutex_;
};

}  // namespace mi7
