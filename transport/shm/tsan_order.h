#pragma once

// For ThreadSanitizer, which takes the two mappings of one page for different memory: it sees no
// order between the ends of a connection when both are in one process, as in tests, and reports as
// a race whatever the two ends' threads share otherwise.

namespace mi7::transport::shm {

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);

// One for all rings: it orders more than they do, so that races between connections may stay
// unseen.
inline char tsan_order;

// What came before is seen by whoever calls TsanAfter later.
inline void TsanBefore() { __tsan_release(&tsan_order); }
inline void TsanAfter() { __tsan_acquire(&tsan_order); }
#else
inline void TsanBefore() {}
inline void TsanAfter() {}
#endif

}  // namespace mi7::transport::shm
