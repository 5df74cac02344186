#pragma once

// What a client process hands back to the bench: memory they share, so that a million latencies
// cost no copying and no parsing.
//
//   0        ResultHeader
//   64       uint32_t latencies_ns[kLatenciesMax], of which header.stored are valid

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace mi7::bench {

struct ResultHeader {
  uint64_t calls;         // answered in the measured stretch
  uint64_t stored;        // latencies
  int64_t elapsed_ns;     // the measured stretch
  int64_t client_cpu_ns;  // CPU time of all threads of either process during it
  int64_t server_cpu_ns;
  uint64_t reserved[3];
};
static_assert(sizeof(ResultHeader) == 64);

// Latencies one run can keep (4 MiB); a run with more calls keeps the first.
inline constexpr size_t kLatenciesMax = size_t{1} << 20;

// A mapping of such memory. Not thread-safe.
class ResultMemory {
 public:
  // The bench: new memory, passed to a client by its descriptor.
  static absl::StatusOr<ResultMemory> Create();
  // The client: what it was passed.
  static absl::StatusOr<ResultMemory> Open(int fd);

  ResultMemory(ResultMemory&& other) noexcept;
  ResultMemory(const ResultMemory&) = delete;
  ResultMemory& operator=(const ResultMemory&) = delete;
  ResultMemory& operator=(ResultMemory&&) = delete;
  ~ResultMemory();

  int fd() const { return fd_; }
  ResultHeader& header() const;
  std::span<uint32_t> latencies() const;

 private:
  ResultMemory(int fd, void* base) : fd_(fd), base_(base) {}
  static absl::StatusOr<ResultMemory> Map(int fd);

  int fd_ = -1;
  void* base_ = nullptr;
};

}  // namespace mi7::bench
