#include "bench/harness/plan.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace mi7::bench {
namespace {

constexpr int kPipelined = 64;
constexpr int kPipelinedLocally = 32;
// A typed call of 8 bytes on the wire: header of 32, segment table, root pointer and the value.
constexpr size_t kTypedFrameBytes = 56;
constexpr size_t kRawFrameBytes = 64;

class PlanBuilder {
 public:
  explicit PlanBuilder(const Workload& base) : base_(base) {}

  size_t AddCell(const char* subject, Waiting waiting, int outstanding,
                 size_t frame_bytes = kTypedFrameBytes) {
    Workload workload = base_;
    workload.waiting = waiting;
    workload.outstanding = outstanding;
    workload.frame_bytes = frame_bytes;
    plan_.cells.push_back({.subject = subject, .workload = workload});
    return plan_.cells.size() - 1;
  }
  // A typed subject over another transport than TCP.
  size_t AddCellOver(const char* transport, const char* subject, Waiting waiting, int outstanding) {
    const size_t cell = AddCell(subject, waiting, outstanding);
    plan_.cells[cell].workload.transport = transport;
    return cell;
  }
  size_t AddPayloadCell(const char* transport, const char* subject, size_t bytes, bool touched) {
    const size_t cell = AddCellOver(transport, subject, Waiting::kSpinning, 1);
    plan_.cells[cell].workload.payload_bytes = bytes;
    plan_.cells[cell].workload.payload_touched = touched;
    return cell;
  }
  size_t AddIdleCell(const char* subject) {
    plan_.cells.push_back({.subject = subject, .workload = base_, .idle_connections = true});
    return plan_.cells.size() - 1;
  }
  // A figure to be seen: a limit or a peer.
  void Show(const char* id, const char* what, size_t cell) { AddRow(id, what, cell); }
  // A figure that has to be at most `target` times that of `limit`.
  void Promise(const char* id, const char* what, size_t cell, size_t limit, double target) {
    Row& row = AddRow(id, what, cell);
    row.limit = limit;
    row.target = target;
  }
  // The same for the CPU time of a call.
  void PromiseCpu(const char* id, const char* what, size_t cell, size_t limit, double target) {
    Promise(id, what, cell, limit, target);
    plan_.rows.back().quantity = Quantity::kCpuPerCall;
  }
  void PromiseTail(const char* id, const char* what, size_t cell, size_t limit, double target) {
    Promise(id, what, cell, limit, target);
    plan_.rows.back().quantity = Quantity::kP99;
  }
  // CPU time per call and side, in nanoseconds.
  void PromiseCpuOfASide(const char* id, const char* what, size_t cell, double target_ns) {
    Row& row = AddRow(id, what, cell);
    row.quantity = Quantity::kCpuPerSide;
    row.target = target_ns;
  }
  // User memory of a connection at either end; `target` in bytes.
  void ShowIdle(const char* id, const char* what, size_t cell, std::optional<double> target) {
    for (Quantity end : {Quantity::kIdleServer, Quantity::kIdleClient}) {
      const char* name = end == Quantity::kIdleServer ? "server" : "client";
      plan_.rows.push_back({.id = absl::StrCat(id, ".", name),
                            .what = absl::StrCat(what, ", ", name),
                            .cell = cell,
                            .quantity = end,
                            .target = target,
                            .placements = {Placement::kUnpinned}});
    }
  }
  Plan Take() { return std::move(plan_); }

 private:
  Row& AddRow(const char* id, const char* what, size_t cell) {
    const Workload& workload = plan_.cells[cell].workload;
    Row row = {.id = id, .what = what, .cell = cell};
    row.quantity = workload.outstanding == 1 ? Quantity::kP50 : Quantity::kPerCall;
    row.placements = {Placement::kDifferentCpus, Placement::kUnpinned};
    // Two that spin on one CPU measure the scheduler's time slice and nothing of themselves.
    if (workload.waiting != Waiting::kSpinning) row.placements.push_back(Placement::kOneCpu);
    plan_.rows.push_back(std::move(row));
    return plan_.rows.back();
  }

  const Workload base_;
  Plan plan_;
};

void AddSharedMemory(PlanBuilder& plan) {
  constexpr size_t kMebibyte = 1u << 20;
  const size_t lines = plan.AddCell("raw_shm", Waiting::kSpinning, 1);
  const size_t spinning = plan.AddCellOver("shm", "mi7", Waiting::kSpinning, 1);
  const size_t adaptive = plan.AddCellOver("shm", "mi7", Waiting::kDefault, 1);
  const size_t prebuilt_1 = plan.AddPayloadCell("shm", "mi7", kMebibyte, false);
  const size_t prebuilt_16 = plan.AddPayloadCell("shm", "mi7", 16 * kMebibyte, false);
  const size_t futex = plan.AddCell("raw_shm", Waiting::kBlocking, 1);
  const size_t eventfd = plan.AddCell("raw_eventfd", Waiting::kBlocking, 1);
  const size_t blocking = plan.AddCellOver("shm", "mi7", Waiting::kBlocking, 1);
  const size_t ring = plan.AddCell("raw_shm", Waiting::kSpinning, kPipelinedLocally);
  const size_t many = plan.AddCellOver("shm", "mi7", Waiting::kSpinning, kPipelinedLocally);
  const size_t in_place_1 = plan.AddPayloadCell("shm", "raw_shm", kMebibyte, true);
  const size_t touched_1 = plan.AddPayloadCell("shm", "mi7", kMebibyte, true);
  const size_t in_place_16 = plan.AddPayloadCell("shm", "raw_shm", 16 * kMebibyte, true);
  const size_t touched_16 = plan.AddPayloadCell("shm", "mi7", 16 * kMebibyte, true);

  plan.Show("raw.shm.spinning", "two lines back and forth, spinning", lines);
  plan.Promise("L1", "mi7 shm unary, spinning / two lines", spinning, lines, 1.5);
  plan.PromiseTail("L1.p99", "its p99 / theirs", spinning, lines, 2.0);
  plan.Show("raw.shm.futex", "two lines, asleep in a futex", futex);
  plan.Show("raw.shm.eventfd", "two lines, asleep in an eventfd", eventfd);
  plan.Promise("L2", "mi7 shm unary, blocking / futex", blocking, futex, 1.10);
  plan.Promise("L3", "mi7 shm unary, adaptive / spinning", adaptive, spinning, 1.10);
  plan.Show("raw.shm.ring", "raw ring x32, spinning", ring);
  plan.Promise("L4", "mi7 shm x32, spinning / raw ring", many, ring, 3.0);
  plan.Promise("L5.1MiB", "mi7 shm, 1 MiB prebuilt / L1", prebuilt_1, spinning, 1.3);
  plan.Promise("L5.16MiB", "mi7 shm, 16 MiB prebuilt / L1", prebuilt_16, spinning, 1.3);
  plan.Show("raw.shm.1MiB", "1 MiB written and read in place", in_place_1);
  plan.Promise("L6.1MiB", "mi7 shm, 1 MiB touched / in place", touched_1, in_place_1, 1.10);
  plan.Show("raw.shm.16MiB", "16 MiB written and read in place", in_place_16);
  plan.Promise("L6.16MiB", "mi7 shm, 16 MiB touched / in place", touched_16, in_place_16, 1.10);
  plan.PromiseCpuOfASide("L7", "CPU: mi7 shm x32, per call and side", many, 150);
}

}  // namespace

Plan MakePlan(const Workload& base) {
  PlanBuilder plan(base);
  // Cells that are compared stand next to each other, so that they are measured close in time.
  const size_t raw_blocking_64 = plan.AddCell("raw_tcp", Waiting::kBlocking, 1, kRawFrameBytes);
  const size_t raw_blocking = plan.AddCell("raw_tcp", Waiting::kBlocking, 1);
  const size_t mi7_blocking = plan.AddCell("mi7", Waiting::kBlocking, 1);
  const size_t capnp = plan.AddCell("capnp_rpc", Waiting::kBlocking, 1);
  const size_t mi7_default = plan.AddCell("mi7", Waiting::kDefault, 1);
  const size_t raw_spinning_64 = plan.AddCell("raw_tcp", Waiting::kSpinning, 1, kRawFrameBytes);
  const size_t raw_spinning = plan.AddCell("raw_tcp", Waiting::kSpinning, 1);
  const size_t mi7_spinning = plan.AddCell("mi7", Waiting::kSpinning, 1);
  const size_t batch_spinning = plan.AddCell("raw_tcp_batch", Waiting::kSpinning, kPipelined);
  const size_t mi7_spinning_many = plan.AddCell("mi7", Waiting::kSpinning, kPipelined);
  const size_t batch_blocking = plan.AddCell("raw_tcp_batch", Waiting::kBlocking, kPipelined);
  const size_t mi7_blocking_many = plan.AddCell("mi7", Waiting::kBlocking, kPipelined);
  const size_t mi7_default_many = plan.AddCell("mi7", Waiting::kDefault, kPipelined);
  const size_t capnp_many = plan.AddCell("capnp_rpc", Waiting::kBlocking, kPipelined);
  const size_t unix_blocking = plan.AddCellOver("unix", "mi7", Waiting::kBlocking, 1);
  const size_t unix_default = plan.AddCellOver("unix", "mi7", Waiting::kDefault, 1);
  const size_t unix_many = plan.AddCellOver("unix", "mi7", Waiting::kBlocking, kPipelined);
  const size_t mi7_idle = plan.AddIdleCell("mi7");
  const size_t capnp_idle = plan.AddIdleCell("capnp_rpc");

  plan.Show("raw.tcp.blocking.64B", "raw framed TCP 64 B, blocking", raw_blocking_64);
  plan.Show("raw.tcp.blocking", "raw framed TCP 56 B, blocking", raw_blocking);
  plan.Promise("T1", "mi7 unary, blocking / raw", mi7_blocking, raw_blocking, 1.10);
  plan.Show("raw.tcp.spinning.64B", "raw framed TCP 64 B, spinning", raw_spinning_64);
  plan.Show("raw.tcp.spinning", "raw framed TCP 56 B, spinning", raw_spinning);
  plan.Promise("T2", "mi7 unary, spinning / raw", mi7_spinning, raw_spinning, 1.15);
  plan.Show("capnp.tcp", "Cap'n Proto RPC unary", capnp);
  plan.Promise("V4.capnp", "mi7 unary, blocking / Cap'n Proto", mi7_blocking, capnp, 1.0);
  plan.Promise("V4.capnp.adaptive", "mi7 unary, adaptive / Cap'n Proto", mi7_default, capnp, 0.2);

  plan.Show("raw.tcp.batch.blocking", "raw batched x64, blocking", batch_blocking);
  plan.Promise("T3", "mi7 x64, blocking / raw", mi7_blocking_many, batch_blocking, 1.6);
  plan.Show("raw.tcp.batch.spinning", "raw batched x64, spinning", batch_spinning);
  plan.Promise("T3.spinning", "mi7 x64, spinning / raw", mi7_spinning_many, batch_spinning, 1.6);
  plan.Promise("T3.adaptive", "mi7 x64, adaptive / raw blocking", mi7_default_many, batch_blocking,
               1.6);
  plan.Show("capnp.tcp.64", "Cap'n Proto RPC x64", capnp_many);
  // At least four times the rate.
  plan.Promise("V5.capnp", "mi7 x64, blocking / Cap'n Proto", mi7_blocking_many, capnp_many, 0.25);
  plan.Promise("V5.capnp.adaptive", "mi7 x64, adaptive / Cap'n Proto", mi7_default_many, capnp_many,
               0.25);

  plan.PromiseCpu("V7.capnp", "CPU: mi7, blocking / Cap'n Proto", mi7_blocking, capnp, 1.0);
  plan.PromiseCpu("V7.capnp.adaptive", "CPU: mi7, adaptive / Cap'n Proto", mi7_default, capnp, 1.0);
  plan.PromiseCpu("V7.capnp.64", "CPU: mi7 x64, blocking / Cap'n P.", mi7_blocking_many, capnp_many,
                  1.0);

  plan.Show("unix.blocking", "mi7 unix unary, blocking", unix_blocking);
  plan.Show("unix.adaptive", "mi7 unix unary, adaptive", unix_default);
  plan.Show("unix.64", "mi7 unix x64, blocking", unix_many);
  AddSharedMemory(plan);

  plan.ShowIdle("T5.idle", "mi7 idle connection", mi7_idle, 1024);
  plan.ShowIdle("capnp.idle", "Cap'n Proto idle connection", capnp_idle, std::nullopt);
  return plan.Take();
}

}  // namespace mi7::bench
