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

  std::string Encode() const;
  static absl::StatusOr<MemoryUse> Decode(std::string_view text);
};

// Of the calling process, now. Thread-safe.
absl::StatusOr<MemoryUse> ReadMemoryUse();

}  // namespace mi7::bench
