#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/report.h"

namespace mi7::bench {
namespace {

constexpr double kStableSpread = 0.25;

const MemoryUse& MemoryOf(const Sample& sample, Quantity quantity) {
  return quantity == Quantity::kIdleClient ? sample.idle.client : sample.idle.server;
}

double ValueOf(const Sample& sample, Quantity quantity) {
  switch (quantity) {
    case Quantity::kP50:
      return sample.calls.p50_ns;
    case Quantity::kP99:
      return sample.calls.p99_ns;
    case Quantity::kPerCall:
      return sample.calls.per_call_ns;
    case Quantity::kCpuPerCall:
      return sample.calls.client_cpu_ns + sample.calls.server_cpu_ns;
    case Quantity::kCpuPerSide:
      return (sample.calls.client_cpu_ns + sample.calls.server_cpu_ns) / 2;
    case Quantity::kIdleClient:
    case Quantity::kIdleServer: {
      const MemoryUse& use = MemoryOf(sample, quantity);
      return static_cast<double>(std::max(use.heap_bytes, use.anonymous_bytes));
    }
  }
  return 0;
}

bool IsMemory(Quantity quantity) {
  return quantity == Quantity::kIdleClient || quantity == Quantity::kIdleServer;
}

// `get` of every sample there is.
template <typename Get>
std::vector<double> Collect(const CellResult& cell, Get get) {
  std::vector<double> values;
  for (const std::optional<Sample>& sample : cell.rounds) {
    if (sample.has_value()) values.push_back(get(*sample));
  }
  return values;
}

Figure EvaluateRow(const Plan& plan, const Row& row, Placement placement, const RunResult& result) {
  Figure figure;
  figure.id = row.id;
  figure.what = row.what;
  figure.placement = placement;
  figure.unit = IsMemory(row.quantity) ? "bytes" : "ns";
  figure.target = row.target;
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
  const auto value_of = [&](const Sample& sample) { return ValueOf(sample, row.quantity); };
  const std::vector<double> values = Collect(cell, value_of);
  if (values.empty()) {
    figure.missing =
        absl::StrCat(plan.cells[row.cell].subject, ": ", std::string(cell.failure.message()));
    return figure;
  }
  figure.value = Summarize(values);
  figure.stable = figure.value.relative() <= kStableSpread;
  figure.others_share =
      Quantile(Collect(cell, [](const Sample& s) { return s.others_share; }), 0.5);
  if (row.quantity == Quantity::kP50 || row.quantity == Quantity::kPerCall) {
    figure.p99 = Quantile(Collect(cell, [](const Sample& s) { return s.calls.p99_ns; }), 0.5);
    figure.client_cpu_ns =
        Quantile(Collect(cell, [](const Sample& s) { return s.calls.client_cpu_ns; }), 0.5);
    figure.server_cpu_ns =
        Quantile(Collect(cell, [](const Sample& s) { return s.calls.server_cpu_ns; }), 0.5);
  }
  if (IsMemory(row.quantity)) {
    figure.heap_bytes =
        Quantile(Collect(cell,
                         [&](const Sample& s) {
                           return static_cast<double>(MemoryOf(s, row.quantity).heap_bytes);
                         }),
                 0.5);
    figure.resident_bytes =
        Quantile(Collect(cell,
                         [&](const Sample& s) {
                           return static_cast<double>(MemoryOf(s, row.quantity).anonymous_bytes);
                         }),
                 0.5);
  }
  if (!row.limit.has_value()) {
    if (row.target.has_value()) figure.met = figure.value.median <= *row.target;
    return figure;
  }
  const auto limit = result.cells.find({*row.limit, placement});
  if (limit == result.cells.end()) return figure;
  std::vector<double> limits;
  std::vector<double> ratios;
  for (size_t round = 0; round < cell.rounds.size(); ++round) {
    const std::optional<Sample>& held_against = limit->second.rounds[round];
    if (!held_against.has_value()) continue;
    limits.push_back(value_of(*held_against));
    if (cell.rounds[round].has_value() && limits.back() > 0) {
      ratios.push_back(value_of(*cell.rounds[round]) / limits.back());
    }
  }
  if (ratios.empty()) return figure;
  figure.limit = Quantile(limits, 0.5);
  figure.ratio = Summarize(ratios);
  figure.stable = figure.ratio->relative() <= kStableSpread;
  if (row.target.has_value()) figure.met = figure.ratio->median <= *row.target;
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
