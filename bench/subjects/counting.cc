// Makes a subject count (mi7_counting): what is allocated through allocation_hook; what is copied
// by defining the C library's functions for it, which count and go on to the C library's own. Its
// programs are never timed. System calls: counting_system_calls.cc.
//
// Copies that the compiler made inline, which are small, and those of the kernel are not seen.

#include "bench/subjects/counting.h"

#include <dlfcn.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/allocation_hook.h"
#include "bench/harness/subject.h"

namespace {

using mi7::bench::Counts;
using mi7::bench::CountsNow;

// Pieces of fewer bytes are headers and the like, not payload.
constexpr size_t kPieceMin = 64;

void CountAllocation() { CountsNow().allocations.fetch_add(1, std::memory_order_relaxed); }

[[maybe_unused]] void CountCopy(size_t bytes) {
  if (bytes < kPieceMin) return;
  CountsNow().copied_bytes.fetch_add(bytes, std::memory_order_relaxed);
}

using Move = void* (*)(void*, const void*, size_t);

// Looked up once, by whoever copies first; both results would be the same.
Move Find(const char* name, std::atomic<Move>& known) {
  Move found = known.load(std::memory_order_relaxed);
  if (found == nullptr) {
    found = reinterpret_cast<Move>(::dlsym(RTLD_NEXT, name));
    known.store(found, std::memory_order_relaxed);
  }
  return found;
}

// While the real one is looked up, which copies itself.
void* MoveByHand(void* to, const void* from, size_t bytes) {
  auto* target = static_cast<volatile char*>(to);
  const auto* source = static_cast<const volatile char*>(from);
  if (to <= from) {
    for (size_t i = 0; i < bytes; ++i) target[i] = source[i];
  } else {
    for (size_t i = bytes; i > 0; --i) target[i - 1] = source[i - 1];
  }
  return to;
}

[[maybe_unused]] void* FindAndMove(const char* name, std::atomic<Move>& known, void* to,
                                   const void* from, size_t bytes) {
  static thread_local bool looking = false;
  if (looking) return MoveByHand(to, from, bytes);
  looking = true;
  const Move move = Find(name, known);
  looking = false;
  return move != nullptr ? move(to, from, bytes) : MoveByHand(to, from, bytes);
}

[[maybe_unused]] constinit std::atomic<Move> real_memcpy = nullptr;
[[maybe_unused]] constinit std::atomic<Move> real_memmove = nullptr;

[[maybe_unused]] const bool asked = [] {
  mi7::allocation_hook.store(&CountAllocation, std::memory_order_relaxed);
  mi7::bench::count_in = [](Counts* where) {
    mi7::bench::counting_in.store(where, std::memory_order_relaxed);
  };
  return true;
}();

}  // namespace

// The sanitizers bring functions of their own; nothing is counted then.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" {
void* memcpy(void* __restrict to, const void* __restrict from, size_t bytes) {
  CountCopy(bytes);
  const Move known = real_memcpy.load(std::memory_order_relaxed);
  return known != nullptr ? known(to, from, bytes)
                          : FindAndMove("memcpy", real_memcpy, to, from, bytes);
}
void* memmove(void* to, const void* from, size_t bytes) {
  CountCopy(bytes);
  const Move known = real_memmove.load(std::memory_order_relaxed);
  return known != nullptr ? known(to, from, bytes)
                          : FindAndMove("memmove", real_memmove, to, from, bytes);
}
}  // extern "C"
#endif
