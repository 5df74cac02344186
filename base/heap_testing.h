#pragma once

// What this process has taken from the heap, for tests of how much memory things take.

#include <malloc.h>

#include <cstddef>

namespace mi7 {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kHeapIsCounted = false;  // a sanitizer brings an allocator of its own
#else
inline constexpr bool kHeapIsCounted = true;
#endif

// Bytes that are allocated now, by whichever thread, large blocks included.
inline size_t HeapBytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace mi7
