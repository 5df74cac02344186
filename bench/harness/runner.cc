#include "bench/harness/runner.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "bench/harness/machine.h"

namespace mi7::bench {
namespace {

// The cells that some row needs at a placement, in the plan's order.
std::vector<size_t> CellsAt(const Plan& plan, Placement placement) {
  std::set<size_t> cells;
  for (const Row& row : plan.rows) {
    for (Placement wanted : row.placements) {
      if (wanted != placement) continue;
      cells.insert(row.cell);
      if (row.limit.has_value()) cells.insert(*row.limit);
    }
  }
  return {cells.begin(), cells.end()};
}

// Says how far a run is: on a terminal one line that overwrites itself, elsewhere a line a round.
class Progress {
 public:
  Progress(std::FILE* out, int rounds, int steps)
      : out_(out),
        terminal_(out != nullptr && ::isatty(::fileno(out)) == 1),
        rounds_(rounds),
        steps_(steps),
        begin_ns_(MonotonicNanos()) {}
  ~Progress() {
    if (terminal_) std::fprintf(out_, "\r\033[K");
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Before each step.
  void Step(int round, const std::string& what) {
    if (terminal_) {
      std::fprintf(out_, "\r\033[Kround %d of %d, %s: %s", round + 1, rounds_, Left().c_str(),
                   what.c_str());
    } else if (out_ != nullptr && round != last_round_) {
      std::fprintf(out_, "round %d of %d, %s\n", round + 1, rounds_, Left().c_str());
    }
    if (out_ != nullptr) std::fflush(out_);
    last_round_ = round;
    ++done_;
  }

 private:
  std::string Left() const {
    if (done_ == 0) return "starting";
    const int64_t spent_ns = MonotonicNanos() - begin_ns_;
    return absl::StrCat(spent_ns / done_ * (steps_ - done_) / 1'000'000'000, " s left");
  }

  std::FILE* const out_;
  const bool terminal_;
  const int rounds_;
  const int steps_;
  const int64_t begin_ns_;
  int done_ = 0;
  int last_round_ = -1;
};

absl::StatusOr<Sample> RunCell(const Cell& cell, const RunOptions& options, const CpuSets& cpus,
                               ResultMemory& memory) {
  const std::string program = absl::StrCat(options.program_directory, "/", cell.subject);
  Sample sample;
  const MachineLoad load;
  if (cell.idle_connections) {
    absl::StatusOr<IdleFigures> idle = MeasureIdleConnections(program, options.idle_connections);
    if (!idle.ok()) return idle.status();
    sample.idle = *idle;
  } else {
    absl::StatusOr<CallFigures> calls = MeasureCalls(program, cell.workload, cpus, memory);
    if (!calls.ok()) return calls.status();
    sample.calls = *calls;
  }
  sample.others_share = load.OthersShare();
  return sample;
}

}  // namespace

absl::StatusOr<RunResult> RunPlan(const Plan& plan, const RunOptions& options) {
  absl::StatusOr<ResultMemory> memory = ResultMemory::Create();
  if (!memory.ok()) return memory.status();
  RunResult result;
  int steps = 0;
  std::vector<Placement> placements;
  for (Placement placement : options.placements) {
    absl::StatusOr<CpuSets> cpus = ChooseCpus(placement);
    if (!cpus.ok()) {
      result.impossible[placement] = cpus.status();
      continue;
    }
    result.cpus[placement] = *cpus;
    placements.push_back(placement);
    steps += options.rounds * static_cast<int>(CellsAt(plan, placement).size());
  }
  if (placements.empty()) return absl::UnavailableError("no placement can be measured here");
  Progress progress(options.progress, options.rounds, steps);
  for (int round = 0; round < options.rounds; ++round) {
    for (Placement placement : placements) {
      std::vector<size_t> cells = CellsAt(plan, placement);
      // There and back again: of two neighbours, each goes first in half of the rounds.
      if (round % 2 == 1) std::reverse(cells.begin(), cells.end());
      for (size_t index : cells) {
        const Cell& cell = plan.cells[index];
        CellResult& kept = result.cells[{index, placement}];
        progress.Step(
            round,
            absl::StrCat(cell.subject, " ", std::string(WaitingName(cell.workload.waiting)), " x",
                         cell.workload.outstanding, ", ", std::string(PlacementName(placement))));
        kept.rounds.emplace_back();
        if (!kept.failure.ok()) continue;
        absl::StatusOr<Sample> sample = RunCell(cell, options, result.cpus[placement], *memory);
        if (sample.ok()) {
          kept.rounds.back() = *sample;
        } else {
          kept.failure = sample.status();
        }
      }
    }
  }
  return result;
}

}  // namespace mi7::bench
