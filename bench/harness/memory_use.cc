#include "bench/harness/memory_use.h"

#include <malloc.h>

#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mi7::bench {

std::string MemoryUse::Encode() const { return absl::StrCat(heap_bytes, " ", anonymous_bytes); }

absl::StatusOr<MemoryUse> MemoryUse::Decode(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), ' ');
  MemoryUse use;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &use.heap_bytes) ||
      !absl::SimpleAtoi(parts[1], &use.anonymous_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", std::string(text), "' is not HEAP_BYTES ANONYMOUS_BYTES"));
  }
  return use;
}

absl::StatusOr<MemoryUse> ReadMemoryUse() {
  const struct mallinfo2 heap = ::mallinfo2();
  MemoryUse use;
  use.heap_bytes = static_cast<int64_t>(heap.uordblks + heap.hblkhd);
  std::ifstream rollup("/proc/self/smaps_rollup");
  std::string line;
  while (std::getline(rollup, line)) {
    constexpr std::string_view kField = "Anonymous:";
    if (line.compare(0, kField.size(), kField) != 0) continue;
    int64_t kib = 0;
    const std::string number = line.substr(kField.size(), line.find(" kB") - kField.size());
    if (!absl::SimpleAtoi(number, &kib)) break;
    use.anonymous_bytes = kib * 1024;
    return use;
  }
  return absl::UnavailableError("/proc/self/smaps_rollup has no Anonymous line");
}

}  // namespace mi7::bench
