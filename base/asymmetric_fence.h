#pragma once

// Two fences that order memory as two sequentially consistent ones would, where one side is passed
// all the time and the other hardly ever: LightFence costs nothing, and HeavyFence pays for both
// (Linux membarrier(2), MEMBARRIER_CMD_PRIVATE_EXPEDITED).
//
//   often:   a = 1; LightFence(); read b          seldom:   b = 1; HeavyFence(); read a
//
// At least one of the two sees the other's 1: HeavyFence makes every thread of the process that
// runs at this moment pass a full barrier, between two of its instructions, before it returns.
// Either that barrier comes after `a = 1`, which is visible then, or before the read of b.

#include <atomic>

namespace mi7 {

namespace base_internal {
extern const bool asymmetric_fences;
}  // namespace base_internal

// Whether there are such fences. Not before static objects are made, nor with Linux before 4.14, in
// a sandbox that forbids the call, or under ThreadSanitizer, which does not know them.
inline bool HaveAsymmetricFences() { return base_internal::asymmetric_fences; }

// No instruction; the compiler moves nothing across.
inline void LightFence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// A system call, about half a microsecond.
void HeavyFence();

}  // namespace mi7
