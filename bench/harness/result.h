#pragma once

// What the processes of a measurement hand back to the bench: memory they share, so that a million
// latencies cost no copying and no parsing. A client has such memory together with
// one server.
//
//   0        ResultHeader
//   320      uint32_t latencies_ns[kLatenciesMax], of which header.stored are valid

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace mi7::bench {

// What a program of the kind that counts counts (subjects/counting.cc), since it started.
struct Counts {
  std::atomic<uint64_t> allocations;   // malloc and its like, operator new
  std::atomic<uint64_t> copied_bytes;  // by memcpy and memmove, in pieces of at least 64 bytes
  std::atomic<uint64_t> system_calls;  // through the C library's functions
  std::atomic<uint64_t> wakes;         // those of them that wake somebody
  std::atomic<uint64_t> futex_wakes;   // by a futex
  std::atomic<uint64_t> receives;      // that take from a socket, or look in vain
  std::atomic<uint64_t> sends;         // that give to one
  std::atomic<uint64_t> polls;         // that look whether anything can be received, or wait for it
  std::atomic<uint64_t> cpu_questions;  // getrusage: whether somebody else wants the CPU
  std::atomic<uint64_t> cpu_offers;     // sched_yield
};

// The same during the measured stretch; 0 in programs that do not count.
struct Counted {
  uint64_t allocations;
  uint64_t copied_bytes;
  uint64_t system_calls;
  uint64_t wakes;
  uint64_t futex_wakes;
  uint64_t receives;
  uint64_t sends;
  uint64_t polls;
  uint64_t cpu_questions;
  uint64_t cpu_offers;
};

// Written by the client, but for what is said to be the server's. Plain fields are valid once the
// client has said that it is done.
struct ResultHeader {
  uint64_t calls;        // answered in the measured stretch, of all threads together
  uint64_t calls_least;  // of the thread that made the fewest
  uint64_t calls_most;
  uint64_t stored;        // latencies
  int64_t elapsed_ns;     // the measured stretch
  int64_t begun_ns;       // when it began, monotonic time
  int64_t client_cpu_ns;  // CPU time of all threads of either process during it
  int64_t server_cpu_ns;
  Counted client_counted;
  Counted server_counted;
  // Live.
  std::atomic<uint32_t> measuring;  // 1 during the measured stretch, for who watches from outside
  std::atomic<uint32_t> damaged;    // 1 by a server that gave up because of what it was sent
  Counts client_counts;
  Counts server_counts;
  std::atomic<uint64_t> served;  // by the server, where it counts: subject.h
  uint64_t reserved_words[2];
};
static_assert(sizeof(ResultHeader) == 416);
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

// Latencies one run can keep (4 MiB), more than are made in its time; a run with more calls keeps
// the first.
inline constexpr size_t kLatenciesMax = size_t{1} << 20;

// A mapping of such memory. Not thread-safe.
class ResultMemory {
 public:
  // The bench: new memory, passed to a process by its descriptor.
  static absl::StatusOr<ResultMemory> Create();
  // The process: what it was passed.
  static absl::StatusOr<ResultMemory> Open(int fd);

  ResultMemory(ResultMemory&& other) noexcept;
  ResultMemory(const ResultMemory&) = delete;
  ResultMemory& operator=(const ResultMemory&) = delete;
  ResultMemory& operator=(ResultMemory&&) = delete;
  ~ResultMemory();

  int fd() const { return fd_; }
  ResultHeader& header() const;
  // Makes the header as it is in new memory.
  void Clear() const;
  std::span<uint32_t> latencies() const;

 private:
  ResultMemory(int fd, void* base) : fd_(fd), base_(base) {}
  static absl::StatusOr<ResultMemory> Map(int fd);

  int fd_ = -1;
  void* base_ = nullptr;
};

}  // namespace mi7::bench
