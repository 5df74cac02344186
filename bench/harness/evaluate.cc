#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/report.h"

namespace mi7::bench {
namespace {

constexpr double kStableSpread = 0.25;
// Of the machine. With more a figure is not one of what was measured alone.
constexpr double kOthersShareMost = 0.10;

// What counts as none. Allocations below it are of a run's start. System calls are not: they are
// made by the clock, or in a thousand waits, whatever the calls are (bench/README.md).
constexpr double kNone = 0.01;

const MemoryUse& MemoryOf(const Sample& sample, Quantity quantity) {
  return quantity == Quantity::kIdleClient ? sample.idle.client : sample.idle.server;
}

double PrivateBytes(const MemoryUse& use) {
  return static_cast<double>(std::max(use.heap_bytes, use.anonymous_bytes));
}

// A call is one message of either side.
double MessagesPerSend(const CountFigures& counts) {
  return counts.sends > 0 ? 1 / counts.sends : 0;
}

double ValueOf(const Sample& sample, const Cell& cell, Quantity quantity) {
  const CallFigures& calls = sample.calls;
  const CountFigures& client = calls.client_counts;
  const CountFigures& server = calls.server_counts;
  switch (quantity) {
    case Quantity::kP50:
      return calls.p50_ns();
    case Quantity::kP99:
      return calls.p99_ns();
    case Quantity::kPerCall:
      return calls.per_call_ns;
    case Quantity::kCpuPerCall:
      return calls.client_cpu_ns + calls.server_cpu_ns;
    case Quantity::kCpuPerSide:
      return std::max(calls.client_cpu_ns, calls.server_cpu_ns);
    case Quantity::kUnfairness:
      return calls.unfairness;
    case Quantity::kAllocations:
      return client.allocations + server.allocations;
    case Quantity::kCopiedBytes:
      return client.copied_bytes + server.copied_bytes;
    case Quantity::kSystemCalls:
      return client.system_calls + server.system_calls;
    case Quantity::kReceives:
      return client.receives + server.receives;
    case Quantity::kSends:
      return client.sends + server.sends;
    case Quantity::kPolls:
      return client.polls + server.polls;
    case Quantity::kCpuQuestions:
      return client.cpu_questions + server.cpu_questions;
    case Quantity::kCpuOffers:
      return client.cpu_offers + server.cpu_offers;
    case Quantity::kClientSystemCalls:
      return client.system_calls;
    case Quantity::kServerSystemCalls:
      return server.system_calls;
    case Quantity::kClientBatch:
      return MessagesPerSend(client);
    case Quantity::kServerBatch:
      return MessagesPerSend(server);
    case Quantity::kBurstWakes:
      return client.wakes * cell.workload.burst;
    case Quantity::kBurstFutexWakes:
      return client.futex_wakes * cell.workload.burst;
    case Quantity::kStartUp:
      // Within a process, its other one has nothing to do with it.
      if (cell.workload.transport == "inproc") return calls.client_start_ns;
      return calls.server_start_ns + calls.client_start_ns;
    case Quantity::kIdleClient:
    case Quantity::kIdleServer:
      return PrivateBytes(MemoryOf(sample, quantity));
    case Quantity::kIdleTogether:
      // Pss: what both map is halved in each.
      return PrivateBytes(sample.idle.client) + PrivateBytes(sample.idle.server) +
             static_cast<double>(sample.idle.client.shared_bytes) +
             static_cast<double>(sample.idle.server.shared_bytes);
    case Quantity::kIdleWakeups:
      return sample.idle.wakeups_per_s;
    case Quantity::kProgramBytes:
    case Quantity::kCompileTime:
      return sample.built;
  }
  return 0;
}

const char* UnitOf(Quantity quantity) {
  switch (quantity) {
    case Quantity::kP50:
    case Quantity::kP99:
    case Quantity::kPerCall:
    case Quantity::kCpuPerCall:
    case Quantity::kCpuPerSide:
    case Quantity::kStartUp:
    case Quantity::kCompileTime:
      return "ns";
    case Quantity::kCopiedBytes:
    case Quantity::kIdleClient:
    case Quantity::kIdleServer:
    case Quantity::kIdleTogether:
    case Quantity::kProgramBytes:
      return "bytes";
    case Quantity::kAllocations:
    case Quantity::kSystemCalls:
    case Quantity::kReceives:
    case Quantity::kSends:
    case Quantity::kPolls:
    case Quantity::kCpuQuestions:
    case Quantity::kCpuOffers:
    case Quantity::kClientSystemCalls:
    case Quantity::kServerSystemCalls:
    case Quantity::kClientBatch:
    case Quantity::kServerBatch:
    case Quantity::kBurstWakes:
    case Quantity::kBurstFutexWakes:
      return "count";
    case Quantity::kIdleWakeups:
      return "1/s";
    case Quantity::kUnfairness:
      return "x";
  }
  return "?";
}

bool Meets(double value, double target) { return value <= target + (target == 0 ? kNone : 0); }

// `get` of every sample there is.
template <typename Get>
std::vector<double> Collect(const CellResult& cell, Get get) {
  std::vector<double> values;
  for (const std::optional<Sample>& sample : cell.rounds) {
    if (sample.has_value()) values.push_back(get(*sample));
  }
  return values;
}

// The parts of a memory figure: of one end of an idle connection, or of both.
void AddMemoryParts(const CellResult& cell, Quantity quantity, Figure& figure) {
  const bool together = quantity == Quantity::kIdleTogether;
  if (!together && quantity != Quantity::kIdleClient && quantity != Quantity::kIdleServer) return;
  const auto median = [&](int64_t MemoryUse::*part) {
    return Quantile(
        Collect(cell,
                [&](const Sample& s) {
                  return static_cast<double>(together ? s.idle.client.*part + s.idle.server.*part
                                                      : MemoryOf(s, quantity).*part);
                }),
        0.5);
  };
  figure.heap_bytes = median(&MemoryUse::heap_bytes);
  figure.resident_bytes = median(&MemoryUse::anonymous_bytes);
  if (together) figure.shared_bytes = median(&MemoryUse::shared_bytes);
}

// `get` of each round up to the last one that was run.
template <typename Get>
std::vector<std::optional<double>> ByRound(const CellResult& cell, Get get) {
  std::vector<std::optional<double>> values;
  for (size_t round = 0; round < cell.rounds.size(); ++round) {
    if (!cell.rounds[round].has_value()) continue;
    values.resize(round);
    values.push_back(get(round, *cell.rounds[round]));
  }
  return values;
}

// The id of the row that shows cell `wanted` as it is; a cell that is measured once more beside
// others is what its first is.
std::string RowOf(const Plan& plan, size_t wanted, Placement placement) {
  Cell first = plan.cells[wanted];
  first.copy_for.clear();
  for (const Row& row : plan.rows) {
    const Cell& cell = plan.cells[row.cell];
    if (row.detail || row.quantity != UsualQuantity(cell)) continue;
    if (row.cell != wanted && !SameCell(cell, first)) continue;
    if (std::find(row.placements.begin(), row.placements.end(), placement) !=
        row.placements.end()) {
      return row.id;
    }
  }
  return "";
}

Figure EvaluateRow(const Plan& plan, const Row& row, Placement placement, const RunResult& result) {
  Figure figure;
  figure.id = row.id;
  figure.subject = plan.cells[row.cell].subject;
  if (row.limit.has_value()) figure.limit_row = RowOf(plan, *row.limit, placement);
  figure.what = row.what;
  figure.placement = placement;
  figure.unit = UnitOf(row.quantity);
  figure.detail = row.detail;
  const bool own_target = placement == Placement::kOneCpu && row.target_one_cpu.has_value();
  figure.target = own_target ? row.target_one_cpu : row.target;
  figure.stretch = own_target ? row.stretch_one_cpu : row.stretch;
  figure.absolute = !row.limit.has_value();
  if (const auto impossible = result.impossible.find(placement);
      impossible != result.impossible.end()) {
    figure.missing = std::string(impossible->second.message());
    return figure;
  }
  const auto found = result.cells.find({row.cell, placement});
  if (found == result.cells.end()) {
    figure.missing = "not asked for";
    return figure;
  }
  const CellResult& cell = found->second;
  const auto value_of = [&](const Sample& sample) {
    return ValueOf(sample, plan.cells[row.cell], row.quantity);
  };
  const std::vector<double> values = Collect(cell, value_of);
  if (values.empty()) {
    figure.missing =
        absl::StrCat(plan.cells[row.cell].subject, ": ", std::string(cell.failure.message()));
    return figure;
  }
  figure.value = Summarize(values);
  figure.round_values = ByRound(cell, [&](size_t, const Sample& s) { return value_of(s); });
  figure.others_share =
      Quantile(Collect(cell, [](const Sample& s) { return s.others_share; }), 0.5);
  figure.disturbed = figure.others_share > kOthersShareMost;
  figure.stable = !figure.disturbed && figure.value.relative() <= kStableSpread;
  const bool time = row.quantity == Quantity::kP50 || row.quantity == Quantity::kPerCall;
  if (time) {
    figure.p99 = Quantile(Collect(cell, [](const Sample& s) { return s.calls.p99_ns(); }), 0.5);
  }
  if (time || row.quantity == Quantity::kP99 || row.quantity == Quantity::kCpuPerCall ||
      row.quantity == Quantity::kCpuPerSide) {
    figure.client_cpu_ns =
        Quantile(Collect(cell, [](const Sample& s) { return s.calls.client_cpu_ns; }), 0.5);
    figure.server_cpu_ns =
        Quantile(Collect(cell, [](const Sample& s) { return s.calls.server_cpu_ns; }), 0.5);
  }
  const Workload& workload = plan.cells[row.cell].workload;
  const bool has_bandwidth =
      IsStream(workload.call) || plan.cells[row.cell].subject == "raw_memcpy";
  if (has_bandwidth && row.quantity == Quantity::kPerCall && figure.value.median > 0) {
    figure.bytes_per_s = 1e9 * static_cast<double>(workload.payload_bytes) / figure.value.median;
  }
  AddMemoryParts(cell, row.quantity, figure);
  if (!row.limit.has_value()) {
    if (figure.target.has_value()) {
      figure.met = Meets(figure.value.median, *figure.target);
    }
    return figure;
  }
  const auto limit = result.cells.find({*row.limit, placement});
  if (limit == result.cells.end()) return figure;
  if (!limit->second.failure.ok()) {
    figure.limit_missing = absl::StrCat(plan.cells[*row.limit].subject, ": ",
                                        std::string(limit->second.failure.message()));
    return figure;
  }
  figure.round_ratios =
      ByRound(cell, [&](size_t round, const Sample& sample) -> std::optional<double> {
        const std::optional<Sample>& held_against = limit->second.rounds[round];
        const double is = held_against.has_value() ? value_of(*held_against) : 0;
        return is > 0 ? std::optional(value_of(sample) / is) : std::nullopt;
      });
  std::vector<double> ratios;
  for (const std::optional<double>& ratio : figure.round_ratios) {
    if (ratio.has_value()) ratios.push_back(*ratio);
  }
  if (ratios.empty()) return figure;
  figure.limit = Quantile(Collect(limit->second, value_of), 0.5);
  figure.ratio = Summarize(ratios);
  figure.stable = !figure.disturbed && figure.ratio->relative() <= kStableSpread;
  if (figure.target.has_value()) figure.met = Meets(figure.ratio->median, *figure.target);
  return figure;
}

}  // namespace

std::vector<Figure> Evaluate(const Plan& plan, const RunResult& result) {
  std::vector<Figure> figures;
  for (Placement placement :
       {Placement::kDifferentCpus, Placement::kOneCpu, Placement::kUnpinned}) {
    if (!result.cpus.contains(placement) && !result.impossible.contains(placement)) continue;
    for (const Row& row : plan.rows) {
      if (std::find(row.placements.begin(), row.placements.end(), placement) ==
          row.placements.end()) {
        continue;
      }
      figures.push_back(EvaluateRow(plan, row, placement, result));
    }
  }
  return figures;
}

}  // namespace mi7::bench
