#include "base/mutex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mi7 {
namespace {

// Critical sections are a few dozen instructions, so a holder that runs is soon done.
constexpr int kSpins = 64;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// The word of an atomic, for the system call.
uint32_t* Word(std::atomic<uint32_t>& state) {
  static_assert(sizeof(state) == sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free);
  return reinterpret_cast<uint32_t*>(&state);
}

}  // namespace

void Mutex::LockSlow() {
  for (int i = 0; i < kSpins; ++i) {
    Pause();
    uint32_t free = kFree;
    if (state_.load(std::memory_order_relaxed) == kFree &&
        state_.compare_exchange_weak(free, kLocked, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
      return;
    }
  }
  // Whether others sleep is not known from here on, so the lock is taken as if they did.
  while (state_.exchange(kLockedWithWaiters, std::memory_order_acquire) != kFree) {
    // Returns at once when the word has changed; spurious returns are harmless.
    ::syscall(SYS_futex, Word(state_), FUTEX_WAIT_PRIVATE, uint32_t{kLockedWithWaiters}, nullptr);
  }
}

void Mutex::WakeOne() { ::syscall(SYS_futex, Word(state_), FUTEX_WAKE_PRIVATE, 1); }

}  // namespace mi7
