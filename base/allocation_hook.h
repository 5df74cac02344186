#pragma once

// allocation_hook: lets tests and benchmarks count what their program allocates on the heap.
//
// A program that is linked with it has the C library's allocation functions, in which C++'s
// operator new ends too, call the hook first. Under a sanitizer, which brings an allocator of its
// own, nothing calls it.

#include <atomic>

namespace mi7 {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kAllocationHookIsCalled = false;
#else
inline constexpr bool kAllocationHookIsCalled = true;
#endif

// Called before each allocation, on its thread; nullptr: nobody is. It must not throw, and is
// called again when it allocates itself. May be changed at any time; relaxed: what is counted is
// read when the allocations that it is about are over.
extern std::atomic<void (*)()> allocation_hook;

}  // namespace mi7
