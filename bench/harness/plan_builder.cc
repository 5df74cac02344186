#include "bench/harness/plan_builder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace mi7::bench {

bool SameCell(const Cell& a, const Cell& b) {
  return a.kind == b.kind && a.subject == b.subject && a.workload == b.workload &&
         a.clients == b.clients && a.servers == b.servers &&
         a.idle_connections == b.idle_connections && a.trace_system_calls == b.trace_system_calls &&
         a.rounds_max == b.rounds_max && a.standing == b.standing && a.watch_ms == b.watch_ms &&
         a.copy_for == b.copy_for;
}

Quantity UsualQuantity(const Cell& cell) {
  const Workload& workload = cell.workload;
  const bool alone = workload.outstanding == 1 && workload.threads == 1 && cell.clients == 1 &&
                     !IsStream(workload.call) && cell.subject != "raw_memcpy";
  return alone ? Quantity::kP50 : Quantity::kPerCall;
}

std::string SizeName(size_t bytes) {
  if (bytes % PlanBuilder::kMebibyte == 0) {
    return absl::StrCat(bytes / PlanBuilder::kMebibyte, " MiB");
  }
  return bytes % 1024 == 0 ? absl::StrCat(bytes / 1024, " KiB") : absl::StrCat(bytes, " B");
}

std::string SizeId(size_t bytes) { return absl::StrReplaceAll(SizeName(bytes), {{" ", ""}}); }

size_t PlanBuilder::AddCell(Cell cell) {
  const auto found = std::find_if(plan_.cells.begin(), plan_.cells.end(),
                                  [&](const Cell& other) { return SameCell(cell, other); });
  if (found != plan_.cells.end()) return static_cast<size_t>(found - plan_.cells.begin());
  plan_.cells.push_back(std::move(cell));
  return plan_.cells.size() - 1;
}

size_t PlanBuilder::AddCopy(size_t cell, const std::string& id) {
  Cell copy = plan_.cells[cell];
  copy.copy_for = id;
  return AddCell(std::move(copy));
}

Cell PlanBuilder::Calls(const std::string& subject, const char* transport, Waiting waiting,
                        int outstanding) const {
  Cell cell = {.subject = subject, .workload = options_.base};
  cell.workload.transport = transport;
  cell.workload.waiting = waiting;
  cell.workload.outstanding = outstanding;
  return cell;
}

size_t PlanBuilder::AddNumber(const std::string& subject, const char* transport, Waiting waiting,
                              int outstanding) {
  return AddCell(Calls(subject, transport, waiting, outstanding));
}

size_t PlanBuilder::AddEcho(const std::string& subject, const char* transport, Waiting waiting,
                            int outstanding, size_t payload_bytes) {
  Cell cell = Calls(subject, transport, waiting, outstanding);
  cell.workload.call = Call::kEcho;
  cell.workload.payload_bytes = payload_bytes;
  return AddCell(std::move(cell));
}

size_t PlanBuilder::AddMemcpy(size_t bytes) {
  const size_t cell = AddEcho("raw_memcpy", "memory", Waiting::kDefault, 1, bytes);
  const std::string id = absl::StrCat("raw.memcpy.", SizeId(bytes));
  if (!Has(id)) {
    // It has one thread, so all placements are the same.
    Show(id, absl::StrCat("memcpy, ", SizeName(bytes)), cell).placements = {Placement::kUnpinned};
  }
  return cell;
}

Row& PlanBuilder::Show(const std::string& id, const std::string& what, size_t cell) {
  return Show(id, what, cell, UsualQuantity(plan_.cells[cell]));
}

Row& PlanBuilder::Show(const std::string& id, const std::string& what, size_t cell,
                       Quantity quantity) {
  Row row = {.id = id, .what = what, .cell = cell, .quantity = quantity};
  row.placements = {Placement::kDifferentCpus, Placement::kUnpinned};
  row.placements.push_back(Placement::kOneCpu);
  plan_.rows.push_back(std::move(row));
  return plan_.rows.back();
}

Row& PlanBuilder::Promise(const std::string& id, const std::string& what, size_t cell, size_t limit,
                          double target) {
  return Promise(id, what, cell, limit, target, UsualQuantity(plan_.cells[cell]));
}

Row& PlanBuilder::Promise(const std::string& id, const std::string& what, size_t cell, size_t limit,
                          double target, Quantity quantity) {
  Row& row = PromiseValue(id, what, cell, target, quantity);
  row.limit = limit;
  return row;
}

Row& PlanBuilder::PromiseValue(const std::string& id, const std::string& what, size_t cell,
                               double target, Quantity quantity) {
  Row& row = Show(id, what, cell, quantity);
  row.target = target;
  return row;
}

Plan PlanBuilder::Take() {
  // Two that spin on one CPU measure the scheduler's time slice and nothing of themselves, nor of
  // what is held against them.
  const auto spins = [&](size_t cell) {
    return plan_.cells[cell].workload.waiting == Waiting::kSpinning;
  };
  for (Row& row : plan_.rows) {
    if (!spins(row.cell) && !(row.limit.has_value() && spins(*row.limit))) continue;
    std::erase(row.placements, Placement::kOneCpu);
  }
  return std::move(plan_);
}

bool PlanBuilder::Has(const std::string& id) const {
  return std::any_of(plan_.rows.begin(), plan_.rows.end(),
                     [&](const Row& row) { return row.id == id; });
}

Chart& PlanBuilder::AddChart(Chart::Kind kind, const std::string& title, const std::string& x_title,
                             Placement placement) {
  plan_.charts.push_back(
      {.kind = kind, .title = title, .x_title = x_title, .placement = placement, .series = {}});
  return plan_.charts.back();
}

void PlanBuilder::AddPoint(const std::string& series, double x, size_t cell,
                           const std::string& id) {
  Chart& chart = plan_.charts.back();
  if (chart.series.empty() || chart.series.back().name != series) {
    chart.series.push_back({.name = series, .points = {}});
  }
  chart.series.back().points.push_back({.x = x, .cell = cell});
  if (id.empty() || Has(id)) return;  // several charts may show the same cell
  Row& row = Show(id, series, cell);
  row.placements = {chart.placement};
  row.detail = true;
}

int MemoryRounds(const PlanBuilder& plan) { return plan.options().quick ? 3 : kCountedRounds; }

Cell Watched(const PlanBuilder& plan, Cell idle) {
  idle.standing = true;
  idle.rounds_max = 0;
  if (!plan.options().quick) idle.watch_ms = 6'500;
  return idle;
}

}  // namespace mi7::bench
