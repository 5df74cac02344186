#pragma once

// Where a program that counts does so (mi7_counting): in the memory that it shares with the bench,
// once RunSubject has asked for it.

#include <atomic>

#include "bench/harness/result.h"

namespace mi7::bench {

inline constinit Counts counts_before_anybody_asks = {};
inline constinit std::atomic<Counts*> counting_in = &counts_before_anybody_asks;

// Relaxed, like all counting: the counts are read when the calls that they are about are over.
inline Counts& CountsNow() { return *counting_in.load(std::memory_order_relaxed); }

}  // namespace mi7::bench
