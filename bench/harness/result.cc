#include "bench/harness/result.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mi7::bench {
namespace {

constexpr size_t kBytes = sizeof(ResultHeader) + kLatenciesMax * sizeof(uint32_t);

absl::Status SystemError(const char* call) {
  return absl::UnavailableError(absl::StrCat("result memory: ", call, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<ResultMemory> ResultMemory::Map(int fd) {
  // Populated here, so that no page fault falls into a measurement.
  void* base = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (base == MAP_FAILED) {
    const absl::Status failed = SystemError("mmap");
    ::close(fd);
    return failed;
  }
  return ResultMemory(fd, base);
}

absl::StatusOr<ResultMemory> ResultMemory::Create() {
  const int fd = ::memfd_create("mi7-bench-result", MFD_CLOEXEC);
  if (fd < 0) return SystemError("memfd_create");
  if (::ftruncate(fd, static_cast<off_t>(kBytes)) != 0) {
    const absl::Status failed = SystemError("ftruncate");
    ::close(fd);
    return failed;
  }
  return Map(fd);
}

absl::StatusOr<ResultMemory> ResultMemory::Open(int fd) { return Map(fd); }

ResultMemory::ResultMemory(ResultMemory&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), base_(std::exchange(other.base_, nullptr)) {}

ResultMemory::~ResultMemory() {
  if (base_ != nullptr) ::munmap(base_, kBytes);
  if (fd_ >= 0) ::close(fd_);
}

ResultHeader& ResultMemory::header() const { return *static_cast<ResultHeader*>(base_); }

void ResultMemory::Clear() const { std::memset(base_, 0, sizeof(ResultHeader)); }

std::span<uint32_t> ResultMemory::latencies() const {
  auto* first = reinterpret_cast<uint32_t*>(static_cast<char*>(base_) + sizeof(ResultHeader));
  return {first, kLatenciesMax};
}

}  // namespace mi7::bench
