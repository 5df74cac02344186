#include "base/allocation_hook.h"

#include <errno.h>

#include <cstddef>

namespace mi7 {
constinit std::atomic<void (*)()> allocation_hook = nullptr;
}  // namespace mi7

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
namespace {
void Tell() {
  if (auto* const hook = mi7::allocation_hook.load(std::memory_order_relaxed)) hook();
}
}  // namespace

extern "C" {
// glibc's own names of what is replaced here.
void* __libc_malloc(size_t);            // NOLINT
void* __libc_calloc(size_t, size_t);    // NOLINT
void* __libc_realloc(void*, size_t);    // NOLINT
void* __libc_memalign(size_t, size_t);  // NOLINT

void* malloc(size_t bytes) {
  Tell();
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  Tell();
  return __libc_calloc(count, bytes);
}
void* realloc(void* block, size_t bytes) {
  Tell();
  return __libc_realloc(block, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  Tell();
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  Tell();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** block, size_t alignment, size_t bytes) {
  Tell();
  *block = __libc_memalign(alignment, bytes);
  return *block != nullptr ? 0 : ENOMEM;
}
}  // extern "C"
#endif
