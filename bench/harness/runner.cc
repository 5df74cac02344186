#include "bench/harness/runner.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "bench/harness/build_costs.h"
#include "bench/harness/machine.h"

namespace mi7::bench {
namespace {

// The cells that some row or chart needs at a placement, in the plan's order.
std::vector<size_t> CellsAt(const Plan& plan, Placement placement) {
  std::set<size_t> cells;
  for (const Row& row : plan.rows) {
    for (Placement wanted : row.placements) {
      if (wanted != placement) continue;
      cells.insert(row.cell);
      if (row.limit.has_value()) cells.insert(*row.limit);
    }
  }
  for (const Chart& chart : plan.charts) {
    if (chart.placement != placement) continue;
    for (const Chart::Series& series : chart.series) {
      for (const Chart::Point& point : series.points) cells.insert(point.cell);
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

std::string Describe(const Cell& cell, Placement placement) {
  const Workload& workload = cell.workload;
  std::string text =
      absl::StrCat(cell.subject, " ", workload.transport, " ",
                   std::string(WaitingName(workload.waiting)), " x", workload.outstanding);
  if (workload.payload_bytes != 0) absl::StrAppend(&text, ", ", workload.payload_bytes, " B");
  return absl::StrCat(text, ", ", std::string(PlacementName(placement)));
}

// Runs cells. Servers with idle connections live as long as it does, because opening thousands of
// connections takes longer than all rounds, and with them what they are compared with; nothing else
// of theirs runs meanwhile.
class CellRunner {
 public:
  CellRunner(const Plan& plan, const RunOptions& options, const Scratch& scratch)
      : plan_(plan), options_(options), scratch_(scratch) {}

  absl::StatusOr<Sample> Run(size_t index, Placement placement, const CpuSets& cpus) {
    const MachineLoad load;
    absl::StatusOr<Sample> sample = RunByKind(index, placement, cpus);
    if (sample.ok()) sample->others_share = load.OthersShare();
    return sample;
  }

 private:
  absl::StatusOr<Sample> RunByKind(size_t index, Placement placement, const CpuSets& cpus) {
    const Cell& cell = plan_.cells[index];
    const std::string program = absl::StrCat(options_.program_directory, "/", cell.subject);
    Sample sample;
    switch (cell.kind) {
      case Cell::Kind::kCalls: {
        const absl::StatusOr<CallFigures> calls = RunCalls(index, placement, program, cpus);
        if (!calls.ok()) return calls.status();
        sample.calls = *calls;
        return sample;
      }
      case Cell::Kind::kIdleConnections: {
        const absl::StatusOr<IdleFigures> idle =
            cell.standing ? WatchIdle(index, placement, program)
                          : MeasureIdleMemory(program, cell.workload, cell.idle_connections);
        if (!idle.ok()) return idle.status();
        sample.idle = *idle;
        return sample;
      }
      case Cell::Kind::kProgram:
      case Cell::Kind::kCompile: {
        const absl::StatusOr<double> built =
            cell.kind == Cell::Kind::kProgram ? LoadedBytes(program)
                                              : CompileNanos(options_.compile_roots, cell.subject);
        if (!built.ok()) return built.status();
        sample.built = *built;
        return sample;
      }
    }
    return absl::InternalError("a kind of cell that nobody runs");
  }

  // Of connections that are idle since the last round, and through all of them.
  absl::StatusOr<IdleFigures> WatchIdle(size_t index, Placement placement,
                                        const std::string& program) {
    const Cell& cell = plan_.cells[index];
    auto idle = idle_.find({index, placement});
    if (idle == idle_.end()) {
      absl::StatusOr<IdleConnections> opened =
          IdleConnections::Open(program, cell.workload, cell.idle_connections);
      if (!opened.ok()) return opened.status();
      idle = idle_.emplace(std::pair(index, placement), *std::move(opened)).first;
    }
    const absl::StatusOr<double> wakeups = idle->second.WakeupsPerSecond(cell.watch_ms);
    if (!wakeups.ok()) return wakeups.status();
    return IdleFigures{.connections = cell.idle_connections, .wakeups_per_s = *wakeups};
  }

  absl::StatusOr<CallFigures> RunCalls(size_t index, Placement placement,
                                       const std::string& program, const CpuSets& cpus) {
    const Cell& cell = plan_.cells[index];
    const CallSetup setup = {.program = program,
                             .workload = cell.workload,
                             .clients = cell.clients,
                             .servers = cell.servers,
                             .idle_connections = cell.idle_connections,
                             .trace_system_calls = cell.trace_system_calls};
    if (cell.idle_connections == 0 && !cell.standing) {
      absl::StatusOr<ServerGroup> servers = ServerGroup::Start(setup, cpus, scratch_);
      return servers.ok() ? MeasureCalls(setup, cpus, *servers, scratch_) : servers.status();
    }
    auto standing = standing_.find({index, placement});
    if (standing == standing_.end()) {
      absl::StatusOr<ServerGroup> servers = ServerGroup::Start(setup, cpus, scratch_);
      if (!servers.ok()) return servers.status();
      standing = standing_.emplace(std::pair(index, placement), *std::move(servers)).first;
    }
    return MeasureCalls(setup, cpus, standing->second, scratch_);
  }

  const Plan& plan_;
  const RunOptions& options_;
  const Scratch& scratch_;
  std::map<std::pair<size_t, Placement>, ServerGroup> standing_;
  std::map<std::pair<size_t, Placement>, IdleConnections> idle_;
};

}  // namespace

absl::StatusOr<RunResult> RunPlan(const Plan& plan, const RunOptions& options) {
  const absl::StatusOr<Scratch> scratch = Scratch::Create();
  if (!scratch.ok()) return scratch.status();
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
  CellRunner runner(plan, options, *scratch);
  Progress progress(options.progress, options.rounds, steps);
  for (int round = 0; round < options.rounds; ++round) {
    for (Placement placement : placements) {
      std::vector<size_t> cells = CellsAt(plan, placement);
      // There and back again: of two neighbours, each goes first in half of the rounds.
      if (round % 2 == 1) std::reverse(cells.begin(), cells.end());
      for (size_t index : cells) {
        const Cell& cell = plan.cells[index];
        CellResult& kept = result.cells[{index, placement}];
        progress.Step(round, Describe(cell, placement));
        kept.rounds.emplace_back();
        if (!kept.failure.ok() || (cell.rounds_max != 0 && round >= cell.rounds_max)) continue;
        absl::StatusOr<Sample> sample = runner.Run(index, placement, result.cpus[placement]);
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
