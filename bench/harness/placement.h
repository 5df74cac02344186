#pragma once

// Where the two processes of a measurement run. A latency means nothing without it: on one CPU the
// peers take turns, on two they wake or watch each other, and unpinned is what a user gets.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mi7::bench {

enum class Placement {
  kDifferentCpus,  // client and server each pinned to its own CPU (own core where there are two)
  kOneCpu,         // both pinned to the same CPU
  kUnpinned,       // every CPU this process may use; the scheduler decides
};

// "different", "one" or "unpinned": the names of the command line and of JSON.
std::string_view PlacementName(Placement placement);
std::optional<Placement> ParsePlacement(std::string_view name);

// The CPUs of either process; an empty list leaves the affinity as it is.
struct CpuSets {
  std::vector<int> client;
  std::vector<int> server;

  std::string ToString() const;
};

// The CPUs for `placement` out of those this process may use. FAILED_PRECONDITION when different
// CPUs are asked for and there is only one.
absl::StatusOr<CpuSets> ChooseCpus(Placement placement);

// Pins the calling thread, and what it will fork or start, to `cpus`. Makes only system calls, so
// it may be used between fork and exec; false (with errno) when the system refuses.
bool PinToCpus(const std::vector<int>& cpus);

}  // namespace mi7::bench
