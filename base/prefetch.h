#pragma once

// PrefetchForWriting: asks for a cache line that will be written soon.

namespace mi7 {

// Hides, where there is other work meanwhile, that another CPU has the line. Without it the next
// atomic read-modify-write after a store waits for that store's line, however far apart the two
// are.
inline void PrefetchForWriting(const void* line) {
#ifdef __x86_64__
  // What the compiler makes of __builtin_prefetch(line, 1) for x86-64 in general asks for a copy to
  // read only.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
  __builtin_prefetch(line, 1);
#endif
}

}  // namespace mi7
