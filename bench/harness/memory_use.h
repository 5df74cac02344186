#pragma once

// How much user memory this process holds. Kernel memory (socket buffers, page tables) is not in
// it.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mi7::bench {

struct MemoryUse {
  int64_t heap_bytes = 0;       // handed out by malloc and not freed (mallinfo2, all arenas)
  int64_t anonymous_bytes = 0;  // resident private memory: heap, its waste, stacks, mappings
  int64_t shared_bytes = 0;     // this process's part of resident shared memory (Pss)

  std::string Encode() const;
  static absl::StatusOr<MemoryUse> Decode(std::string_view text);

  friend bool operator==(const MemoryUse&, const MemoryUse&) = default;
};

// Of the calling process, now. Thread-safe.
absl::StatusOr<MemoryUse> ReadMemoryUse();

// How often the threads of process `pid` went to sleep by themselves since they started, which is
// how often they woke up; only threads that live are counted. NOT_FOUND when it is gone.
absl::StatusOr<int64_t> CountWakeups(pid_t pid);

}  // namespace mi7::bench
