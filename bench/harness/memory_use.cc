#include "bench/harness/memory_use.h"

#include <malloc.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mi7::bench {
namespace {

// The number after `field`, of a line that begins with it.
std::optional<int64_t> NumberAfter(std::string_view field, const std::string& line) {
  if (line.compare(0, field.size(), field) != 0) return std::nullopt;
  std::string number = line.substr(field.size());
  number.erase(0, number.find_first_not_of(" \t"));
  int64_t value = 0;
  if (!absl::SimpleAtoi(number.substr(0, number.find(' ')), &value)) return std::nullopt;
  return value;
}

}  // namespace

std::string MemoryUse::Encode() const {
  return absl::StrCat(heap_bytes, " ", anonymous_bytes, " ", shared_bytes);
}

absl::StatusOr<MemoryUse> MemoryUse::Decode(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), ' ');
  MemoryUse use;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &use.heap_bytes) ||
      !absl::SimpleAtoi(parts[1], &use.anonymous_bytes) ||
      !absl::SimpleAtoi(parts[2], &use.shared_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", std::string(text), "' is not HEAP_BYTES ANONYMOUS_BYTES SHARED_BYTES"));
  }
  return use;
}

absl::StatusOr<MemoryUse> ReadMemoryUse() {
  const struct mallinfo2 heap = ::mallinfo2();
  std::ifstream rollup("/proc/self/smaps_rollup");
  std::optional<int64_t> anonymous_kib;
  std::optional<int64_t> shared_kib;
  std::string line;
  while (std::getline(rollup, line)) {
    if (const auto kib = NumberAfter("Anonymous:", line)) anonymous_kib = kib;
    if (const auto kib = NumberAfter("Pss_Shmem:", line)) shared_kib = kib;
  }
  if (!anonymous_kib.has_value() || !shared_kib.has_value()) {
    return absl::UnavailableError("/proc/self/smaps_rollup has no Anonymous or Pss_Shmem line");
  }
  return MemoryUse{.heap_bytes = static_cast<int64_t>(heap.uordblks + heap.hblkhd),
                   .anonymous_bytes = *anonymous_kib * 1024,
                   .shared_bytes = *shared_kib * 1024};
}

absl::StatusOr<int64_t> CountWakeups(pid_t pid) {
  std::error_code failed;
  const std::filesystem::directory_iterator threads(absl::StrCat("/proc/", pid, "/task"), failed);
  if (failed) return absl::NotFoundError(absl::StrCat("no process ", pid));
  int64_t wakeups = 0;
  for (const std::filesystem::directory_entry& thread : threads) {
    std::ifstream status(thread.path() / "status");
    std::string line;
    while (std::getline(status, line)) {
      wakeups += NumberAfter("voluntary_ctxt_switches:", line).value_or(0);
    }
  }
  return wakeups;
}

}  // namespace mi7::bench
