#pragma once

// Monotonic time and deadlines. mi7 never compares wall clocks, neither of two machines nor of one
// machine before and after its clock was set.

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

#include "absl/time/time.h"

namespace mi7 {

namespace clock_internal {
// What tells the time instead of the system, in tests (fake_clock.h); nullptr otherwise. Set with
// release, read with acquire: who reads the time sees what the clock is made of.
inline constinit std::atomic<int64_t (*)()> fake_clock{nullptr};
}  // namespace clock_internal

// Nanoseconds of CLOCK_MONOTONIC, the system's. For what is measured in real time, and for system
// calls. Thread-safe.
inline int64_t SystemNanos() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The time that deadlines are in: the system's, or a fake clock's. Costs about 20 ns (vDSO).
// Thread-safe.
inline int64_t MonotonicNanos() {
  int64_t (*const fake)() = clock_internal::fake_clock.load(std::memory_order_acquire);
  return fake == nullptr ? SystemNanos() : fake();
}

// Nanoseconds that the time while the machine was suspended counts for as well (CLOCK_BOOTTIME), or
// a fake clock's. Only for differences: how long ago something was, at the most. Thread-safe.
inline int64_t BootNanos() {
  int64_t (*const fake)() = clock_internal::fake_clock.load(std::memory_order_acquire);
  if (fake != nullptr) return fake();
  timespec now;
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// A point in monotonic time by which something must be done, or never. A value type of 8 bytes.
class Deadline {
 public:
  // No deadline.
  constexpr Deadline() = default;
  static constexpr Deadline Infinite() { return Deadline(); }

  // `timeout` from now. An infinite or unrepresentably long timeout gives no deadline; a negative
  // one a deadline that has passed.
  static Deadline After(absl::Duration timeout) {
    const int64_t timeout_ns = absl::ToInt64Nanoseconds(timeout);  // saturates
    const int64_t now_ns = MonotonicNanos();
    if (timeout_ns >= std::numeric_limits<int64_t>::max() - now_ns) return Deadline();
    return Deadline(now_ns + std::max<int64_t>(timeout_ns, -now_ns));
  }
  // From a value of MonotonicNanos().
  static constexpr Deadline AtNanos(int64_t monotonic_ns) { return Deadline(monotonic_ns); }

  constexpr bool infinite() const { return at_ns_ == std::numeric_limits<int64_t>::max(); }
  // The point in time, as MonotonicNanos() counts; INT64_MAX when infinite.
  constexpr int64_t at_ns() const { return at_ns_; }
  // Reads the clock only when finite.
  bool passed() const { return !infinite() && MonotonicNanos() >= at_ns_; }
  // Time left in nanoseconds, 0 when passed, INT64_MAX when infinite.
  int64_t remaining_ns() const {
    return infinite() ? at_ns_ : std::max<int64_t>(0, at_ns_ - MonotonicNanos());
  }
  absl::Duration remaining() const {
    return infinite() ? absl::InfiniteDuration() : absl::Nanoseconds(remaining_ns());
  }

  // What to give to a system call that waits until then, and that ends at another time than the
  // deadline only with a fake clock: nobody knows when that will be moved, so the wait ends within
  // a millisecond, to look again.
  Deadline ForSystem() const {
    constexpr int64_t kLookAgainNs = 1'000'000;
    if (clock_internal::fake_clock.load(std::memory_order_acquire) == nullptr || infinite()) {
      return *this;
    }
    return Deadline(SystemNanos() + std::min(remaining_ns(), kLookAgainNs));
  }

  friend constexpr bool operator==(Deadline, Deadline) = default;
  friend constexpr auto operator<=>(Deadline, Deadline) = default;

 private:
  explicit constexpr Deadline(int64_t at_ns) : at_ns_(at_ns) {}
  int64_t at_ns_ = std::numeric_limits<int64_t>::max();
};

}  // namespace mi7
