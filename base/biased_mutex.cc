#include "base/biased_mutex.h"

#include <sched.h>
#include <time.h>

namespace mi7 {
namespace {

// Looks at a holder that is inside, before its CPU may be one that we keep from it.
constexpr int kYields = 64;

}  // namespace

uint32_t BiasedMutex::NewThreadId() {
  static std::atomic<uint32_t> last{0};
  for (;;) {
    const uint32_t id = (last.fetch_add(1, std::memory_order_relaxed) + 1) % (1u << 30);
    if (id != 0) return id;
  }
}

void BiasedMutex::LockSlow() {
  if (thread_id_ == kNoThread) thread_id_ = NewThreadId();
  mutex_.Lock();
  const uint32_t grant = grant_.load(std::memory_order_relaxed);
  if (grant != 0) {
    Revoke(grant);
  } else if (last_ == thread_id_ && grants_ < kGrantsMax && HaveAsymmetricFences()) {
    if (++in_a_row_ >= kStreak << (2 * grants_)) {
      grant_.store(thread_id_ * kGrantsMax + grants_, std::memory_order_relaxed);
      ++grants_;
    }
  }
  if (last_ != thread_id_) {
    last_ = thread_id_;
    in_a_row_ = 0;
  }
  way_ = kSlow;
}

void BiasedMutex::Revoke(uint32_t grant) {
  grant_.store(0, std::memory_order_relaxed);  // S1
  HeavyFence();
  // What is done inside is short, and waits for nothing: the wait ends when its thread has run.
  for (int looks = 0; inside_[grant % kGrantsMax].load(std::memory_order_acquire); ++looks) {  // S2
    if (looks < kYields) {
      ::sched_yield();
    } else {
      constexpr timespec kShort{0, 50'000};
      ::nanosleep(&kShort, nullptr);
    }
  }
  in_a_row_ = 0;
}

}  // namespace mi7
