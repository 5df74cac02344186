#include "bench/harness/placement.h"

#include <sched.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mi7::bench {
namespace {

absl::StatusOr<std::vector<int>> AllowedCpus() {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return absl::InternalError(absl::StrCat("sched_getaffinity: ", std::strerror(errno)));
  }
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
  }
  return cpus;
}

// The kernel's name for the set of hardware threads that share a core with `cpu`; empty when it
// does not say.
std::string CoreOf(int cpu) {
  std::ifstream file(
      absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
  std::string core;
  std::getline(file, core);
  return core;
}

}  // namespace

std::string_view PlacementName(Placement placement) {
  switch (placement) {
    case Placement::kDifferentCpus:
      return "different";
    case Placement::kOneCpu:
      return "one";
    case Placement::kUnpinned:
      return "unpinned";
  }
  return "?";
}

std::optional<Placement> ParsePlacement(std::string_view name) {
  for (Placement placement :
       {Placement::kDifferentCpus, Placement::kOneCpu, Placement::kUnpinned}) {
    if (PlacementName(placement) == name) return placement;
  }
  return std::nullopt;
}

std::string CpuSets::ToString() const {
  if (client.empty()) return "any CPU";
  return absl::StrCat("client on ", absl::StrJoin(client, ","), ", server on ",
                      absl::StrJoin(server, ","));
}

absl::StatusOr<CpuSets> ChooseCpus(Placement placement) {
  if (placement == Placement::kUnpinned) return CpuSets{};
  absl::StatusOr<std::vector<int>> cpus = AllowedCpus();
  if (!cpus.ok()) return cpus.status();
  // The last CPU first: the lowest ones take most interrupts.
  const int client = cpus->back();
  if (placement == Placement::kOneCpu) return CpuSets{{client}, {client}};
  if (cpus->size() < 2) {
    return absl::FailedPreconditionError(
        absl::StrCat("placement 'different' needs two CPUs and this process may use only CPU ",
                     client, "; widen its affinity (taskset) or choose --placements=one,unpinned"));
  }
  const std::string client_core = CoreOf(client);
  int server = (*cpus)[cpus->size() - 2];
  for (auto cpu = cpus->rbegin() + 1; cpu != cpus->rend(); ++cpu) {
    if (CoreOf(*cpu) == client_core) continue;
    server = *cpu;
    break;
  }
  return CpuSets{{client}, {server}};
}

bool PinToCpus(const std::vector<int>& cpus) {
  if (cpus.empty()) return true;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(static_cast<unsigned>(cpu), &set);
  return ::sched_setaffinity(0, sizeof(set), &set) == 0;
}

}  // namespace mi7::bench
