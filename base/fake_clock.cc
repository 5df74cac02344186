#include "base/fake_clock.h"

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/deadline.h"

namespace mi7 {
namespace {

// How far the time is from the system's. Stays when the clock is gone. Relaxed: it orders nothing
// else.
std::atomic<int64_t> ahead_ns{0};
std::atomic<bool> exists{false};

int64_t Now() { return SystemNanos() + ahead_ns.load(std::memory_order_relaxed); }

}  // namespace

FakeClock::FakeClock() {
  // Relaxed: only notices a mistake.
  MI7_CHECK(!exists.exchange(true, std::memory_order_relaxed), "there is one fake clock at a time");
  clock_internal::fake_clock.store(&Now, std::memory_order_release);
}

FakeClock::~FakeClock() { exists.store(false, std::memory_order_relaxed); }

void FakeClock::Advance(absl::Duration by) {
  MI7_CHECK(by >= absl::ZeroDuration(), "time does not go back");
  ahead_ns.fetch_add(absl::ToInt64Nanoseconds(by), std::memory_order_relaxed);
}

}  // namespace mi7
