#pragma once

// Runs the cells of a plan in rounds and keeps what they gave.

#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "bench/harness/idle_connections.h"
#include "bench/harness/measure.h"
#include "bench/harness/plan.h"

namespace mi7::bench {

struct RunOptions {
  std::string program_directory;  // where the subjects' programs are
  std::vector<Placement> placements;
  std::string compile_roots;  // CompileNanos
  int rounds = 9;
  std::FILE* progress = nullptr;  // where to say how far it is; nullptr: nowhere
};

// What one cell gave in one round.
struct Sample {
  CallFigures calls;
  IdleFigures idle;
  double built = 0;         // bytes of a program, nanoseconds of a compiler
  double others_share = 0;  // of the machine, while it ran
};

// All rounds of one cell at one placement; nullopt where a round gave nothing.
struct CellResult {
  std::vector<std::optional<Sample>> rounds;
  absl::Status failure;  // why it was given up
};

struct RunResult {
  std::map<std::pair<size_t, Placement>, CellResult> cells;  // by index in Plan::cells
  std::map<Placement, CpuSets> cpus;
  std::map<Placement, absl::Status> impossible;  // placements this machine does not have
};

// A cell that fails is given up with its reason and the others go on. UNAVAILABLE when nothing can
// be measured at all.
absl::StatusOr<RunResult> RunPlan(const Plan& plan, const RunOptions& options);

}  // namespace mi7::bench
