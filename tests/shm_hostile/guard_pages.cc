#include "tests/shm_hostile/guard_pages.h"

#include <dirent.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "base/check.h"

namespace mi7::shm_hostile {
namespace {

constexpr size_t kGuardBytes = 4096;
// Addresses of guarded mappings; 0: a free place.
std::array<std::atomic<uintptr_t>, 4096> guarded;

void* RawMap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  return reinterpret_cast<void*>(
      ::syscall(SYS_mmap, address, bytes, protection, flags, fd, offset));
}

void* Map(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (address != nullptr || (flags & MAP_SHARED) == 0 || fd < 0) {
    return RawMap(address, bytes, protection, flags, fd, offset);
  }
  const size_t whole = (bytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes + 2 * kGuardBytes;
  void* const reserved =
      RawMap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  void* const inside = static_cast<std::byte*>(reserved) + kGuardBytes;
  if (RawMap(inside, bytes, protection, flags | MAP_FIXED, fd, offset) == MAP_FAILED) {
    const int error = errno;
    ::syscall(SYS_munmap, reserved, whole);
    errno = error;
    return MAP_FAILED;
  }
  for (auto& place : guarded) {
    uintptr_t none = 0;
    if (place.compare_exchange_strong(none, reinterpret_cast<uintptr_t>(inside))) return inside;
  }
  MI7_CHECK(false, "there is room to note every shared mapping of the test");
}

int Unmap(void* address, size_t bytes) {
  for (auto& place : guarded) {
    uintptr_t here = reinterpret_cast<uintptr_t>(address);
    if (!place.compare_exchange_strong(here, 0)) continue;
    const size_t whole = (bytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes + 2 * kGuardBytes;
    return static_cast<int>(
        ::syscall(SYS_munmap, static_cast<std::byte*>(address) - kGuardBytes, whole));
  }
  return static_cast<int>(::syscall(SYS_munmap, address, bytes));
}

}  // namespace

size_t GuardedMappings() {
  size_t count = 0;
  for (const auto& place : guarded) count += place.load() != 0;
  return count;
}

size_t OpenDescriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  MI7_CHECK(folder != nullptr, "/proc is mounted");
  size_t count = 0;
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count - 3;  // ".", "..", and the one of this folder
}

}  // namespace mi7::shm_hostile

// In place of the C library's, for everything that is linked with this.
extern "C" {
void* mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) noexcept {
  return mi7::shm_hostile::Map(address, bytes, protection, flags, fd, offset);
}
void* mmap64(void* address, size_t bytes, int protection, int flags, int fd,
             off64_t offset) noexcept {
  return mi7::shm_hostile::Map(address, bytes, protection, flags, fd, offset);
}
int munmap(void* address, size_t bytes) noexcept { return mi7::shm_hostile::Unmap(address, bytes); }
}
