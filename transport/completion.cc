#include "transport/completion.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "transport/callback_scope.h"

namespace mi7::transport {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

// Sleeps while `word` is `expected`; false when `deadline` passed. May wake for no reason.
bool FutexWait(std::atomic<uint32_t>& word, uint32_t expected, Deadline deadline) {
  timespec at{};
  if (!deadline.infinite()) {
    at.tv_sec = deadline.at_ns() / 1'000'000'000;
    at.tv_nsec = deadline.at_ns() % 1'000'000'000;
    if (deadline.at_ns() < 0) at = {};
  }
  // The bitset form takes an absolute time of CLOCK_MONOTONIC.
  const long result =
      ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                deadline.infinite() ? nullptr : &at, nullptr, FUTEX_BITSET_MATCH_ANY);
  if (result == 0) return true;
  MI7_CHECK(errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT, "futex wait failed");
  return errno != ETIMEDOUT;
}

}  // namespace

void Completion::Signal(State state) {
  uint32_t seen = state_.load(std::memory_order_relaxed);
  do {
    if (seen == kDone || seen == state) return;
  } while (!state_.compare_exchange_weak(seen, state, std::memory_order_acq_rel,
                                         std::memory_order_relaxed));
  if (seen != kSleeping) return;
  // From here on the waiter may be gone: only the address is used, and a wakeup of whoever sleeps
  // there next is one for no reason, which every futex user expects.
  ::syscall(SYS_futex, &state_, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, nullptr, nullptr, 0);
}

bool Completion::AnnounceSleep() {
  uint32_t seen = state_.load(std::memory_order_acquire);
  while (seen != kDone && seen != kSleeping) {
    // An offered turn is of no use to a waiter that has it.
    if (state_.compare_exchange_weak(seen, kSleeping, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      return true;
    }
  }
  return seen != kDone;
}

void Completion::EndSleep() {
  uint32_t seen = kSleeping;
  state_.compare_exchange_strong(seen, kIdle, std::memory_order_acq_rel, std::memory_order_acquire);
}

void Completion::FlushCallbacks() { CallbackScope::FlushAll(); }

Completion::Woken Completion::Sleep(Deadline deadline) {
  FlushCallbacks();
  uint32_t seen = state_.load(std::memory_order_acquire);
  for (;;) {
    if (seen == kDone) return Woken::kDone;
    if (seen == kTurn) {
      if (state_.compare_exchange_weak(seen, kIdle, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        return Woken::kTurn;
      }
      continue;
    }
    if (seen == kIdle && !state_.compare_exchange_weak(seen, kSleeping, std::memory_order_acq_rel,
                                                       std::memory_order_acquire)) {
      continue;
    }
    const bool in_time = FutexWait(state_, kSleeping, deadline.ForSystem()) || !deadline.passed();
    seen = state_.load(std::memory_order_acquire);
    if (!in_time && seen == kSleeping &&
        state_.compare_exchange_strong(seen, kIdle, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      return Woken::kDeadline;
    }
  }
}

}  // namespace mi7::transport
