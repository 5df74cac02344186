#pragma once

// Counts the system calls of this program that mi7 makes: what links this has, instead of the C
// library's functions that mi7 calls, some that count. On x86-64.

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace mi7::conformance {

#if defined(__x86_64__)
inline constexpr bool kCountsSystemCalls = true;
#else
inline constexpr bool kCountsSystemCalls = false;
#endif

struct Counts {
  std::atomic<uint64_t> futex_wakes{0};
  std::atomic<uint64_t> bytes_sent{0};   // to wake the peer's loop
  std::atomic<uint64_t> loop_calls{0};   // by this process, of a loop that sleeps
  std::atomic<uint64_t> sleeps{0};       // in a futex, or in epoll with time to wait
  std::atomic<uint64_t> bell_sleeps{0};  // those of who drives, until the peer rings
  std::atomic<uint64_t> looks{0};        // at descriptors, without waiting
  std::atomic<uint64_t> yields{0};
  std::atomic<uint64_t> asks{0};  // whether others took the CPU
  std::atomic<uint64_t> others{0};

  void Clear() {
    for (auto* count : {&futex_wakes, &bytes_sent, &loop_calls, &sleeps, &bell_sleeps, &looks,
                        &yields, &asks, &others}) {
      *count = 0;
    }
  }
  uint64_t wakes() const { return futex_wakes + bytes_sent; }
  std::string ToString() const {
    return absl::StrCat(futex_wakes.load(), " futex wakes, ", bytes_sent.load(), " bytes, ",
                        loop_calls.load(), " loop calls, ", sleeps.load(), " sleeps, ",
                        looks.load(), " looks, ", yields.load(), " yields, ", asks.load(),
                        " asks, ", others.load(), " others");
  }
};

// Of all threads, and of those that are watched.
extern Counts counts, watched_counts;
// Whether this thread is. It then learns each time it asks that somebody took its CPU.
extern thread_local bool watched;

}  // namespace mi7::conformance
