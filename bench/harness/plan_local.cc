// L: shared memory against what two processes that share memory cannot beat.

#include "absl/strings/str_cat.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr size_t kMebibyte = PlanBuilder::kMebibyte;
constexpr int kPipelined = 32;
constexpr int kActive = 64;
constexpr int kTogether = 4;  // threads, or processes
// Throughput does not fall: what two runs of the same differ by is no fall.
constexpr double kNoFall = 1.05;

size_t AddPayload(PlanBuilder& plan, const char* subject, size_t bytes, Call call) {
  Cell cell = plan.Calls(subject, "shm", Waiting::kSpinning, 1);
  cell.workload.call = call;
  cell.workload.payload_bytes = bytes;
  return plan.AddCell(cell);
}

void AddLatency(PlanBuilder& plan) {
  const size_t lines = plan.AddNumber("raw_shm", "shm", Waiting::kSpinning, 1);
  const size_t two_lines = plan.AddEcho("raw_shm", "shm", Waiting::kSpinning, 1, 64);
  const size_t spinning = plan.AddNumber("mi7", "shm", Waiting::kSpinning, 1);
  const size_t adaptive = plan.AddNumber("mi7", "shm", Waiting::kDefault, 1);
  const size_t prebuilt_1 = AddPayload(plan, "mi7", kMebibyte, Call::kPrebuilt);
  const size_t prebuilt_16 = AddPayload(plan, "mi7", 16 * kMebibyte, Call::kPrebuilt);
  const size_t futex = plan.AddNumber("raw_shm", "shm", Waiting::kBlocking, 1);
  const size_t eventfd = plan.AddNumber("raw_eventfd", "shm", Waiting::kBlocking, 1);
  const size_t blocking = plan.AddNumber("mi7", "shm", Waiting::kBlocking, 1);
  plan.Show("raw.shm.spinning", "a line each way, 56 B inline", lines);
  plan.Show("raw.shm.two_lines", "two lines each way, 64 B", two_lines);
  plan.Promise("L1", "mi7 shm unary, spinning / lines", spinning, lines, 1.5).stretch = 1.25;
  plan.Promise("L1.p99", "its p99 / theirs", spinning, lines, 2.0, Quantity::kP99);
  plan.Show("raw.shm.futex", "lines, asleep in a futex", futex);
  plan.Show("raw.shm.eventfd", "lines, asleep in an eventfd", eventfd);
  plan.Promise("L2", "mi7 shm unary, blocking / futex", blocking, futex, 1.10);
  plan.Promise("L3", "mi7 shm unary, adaptive / spinning", adaptive, spinning, 1.10);
  plan.Promise("L5", "mi7 shm, 1 MiB prebuilt / L1", prebuilt_1, spinning, 1.3);
  plan.Promise("L5.16MiB", "mi7 shm, 16 MiB prebuilt / L1", prebuilt_16, spinning, 1.3);
}

void AddRing(PlanBuilder& plan) {
  const size_t ring = plan.AddNumber("raw_shm", "shm", Waiting::kSpinning, kPipelined);
  const size_t many = plan.AddNumber("mi7", "shm", Waiting::kSpinning, kPipelined);
  const size_t many_adaptive = plan.AddNumber("mi7", "shm", Waiting::kDefault, kPipelined);
  plan.Show("raw.shm.ring", "raw ring x32, spinning", ring);
  plan.Promise("L4", "mi7 shm x32, spinning / raw ring", many, ring, 3.0).stretch = 2.0;
  plan.Show("L4.adaptive", "mi7 shm x32, adaptive / raw ring", many_adaptive).limit = ring;
  plan.PromiseValue("L7", "CPU: mi7 shm x32, a call, the side with more", many, 150,
                    Quantity::kCpuPerSide)
      .stretch = 80;
}

void AddInPlace(PlanBuilder& plan) {
  for (size_t bytes : {kMebibyte, 16 * kMebibyte}) {
    const bool small = bytes == kMebibyte;
    const size_t raw = AddPayload(plan, "raw_shm", bytes, Call::kTouched);
    const size_t mi7 = AddPayload(plan, "mi7", bytes, Call::kTouched);
    plan.Show(small ? "raw.shm.1MiB" : "raw.shm.16MiB",
              absl::StrCat(SizeName(bytes), " written and read in place"), raw);
    plan.Promise(small ? "L6" : "L6.16MiB",
                 absl::StrCat("mi7 shm, ", SizeName(bytes), " touched / in place"), mi7, raw, 1.10)
        .stretch = 1.05;
  }
}

void AddMany(PlanBuilder& plan) {
  const int idle = plan.options().local_connections;
  Cell active = plan.Calls("mi7", "shm", Waiting::kDefault, 1);
  active.workload.connections = kActive;
  active.standing = true;  // warm, as the crowd's server is
  Cell among = active;
  among.idle_connections = idle;
  const size_t alone = plan.AddCell(active);
  const size_t crowd = plan.AddCell(among);
  Cell idle_only = plan.Calls("mi7", "shm", Waiting::kDefault, 1);
  idle_only.kind = Cell::Kind::kIdleConnections;
  idle_only.idle_connections = idle;
  idle_only.rounds_max = MemoryRounds(plan);
  const size_t memory = plan.AddCell(idle_only);
  const size_t watched = plan.AddCell(Watched(plan, idle_only));
  const std::string what = absl::StrCat("64 among ", idle, " idle clients");
  for (Row* row : {&plan.Promise("L8", what + " / the 64 alone", crowd, alone, 1.05),
                   &plan.Promise("L8.p99", what + ", p99", crowd, alone, 1.2, Quantity::kP99)}) {
    row->placements = {Placement::kDifferentCpus, Placement::kUnpinned};
  }
  plan.PromiseValue("L8.idle", "memory of an idle client, both sides", memory, 8192,
                    Quantity::kIdleTogether)
      .placements = {Placement::kUnpinned};
  plan.PromiseValue("L8.wakeups", "wakeups of idle clients", watched, 0, Quantity::kIdleWakeups)
      .placements = {Placement::kUnpinned};
}

// Several clients against one. Only over shared memory something is promised. Without a
// `processes_id` there are only threads.
void AddTogether(PlanBuilder& plan, const char* transport, const std::string& threads_id,
                 const std::string& processes_id, bool promised) {
  const size_t one =
      plan.AddCopy(plan.AddNumber("mi7", transport, Waiting::kDefault, 1), threads_id);
  Cell several = plan.Calls("mi7", transport, Waiting::kDefault, 1);
  several.workload.measure_ns *= kSharedTimes;
  const auto add = [&](const std::string& id, const std::string& who, size_t cell) {
    const std::string what = absl::StrCat("mi7 ", transport, ", ", who);
    Row& rate = plan.Show(id, what + " / 1", cell, Quantity::kPerCall);
    Row& fair = plan.Show(id + ".fair", what + ", max/min", cell, Quantity::kUnfairness);
    rate.limit = one;
    if (promised) {
      rate.target = kNoFall;
      fair.target = 2;
    }
    rate.placements = fair.placements = {Placement::kDifferentCpus, Placement::kUnpinned};
  };
  Cell threads = several;
  threads.workload.threads = kTogether;
  add(threads_id, "4 threads on one channel", plan.AddCell(threads));
  if (processes_id.empty()) return;
  Cell processes = several;
  processes.clients = kTogether;
  add(processes_id, "4 client processes", plan.AddCell(processes));
}

// Each way to wait where no row with a target has it. Over inproc with one outstanding the caller
// runs the handler and waits for nobody, whatever the policy; with many, two event loops do.
void AddOtherWaits(PlanBuilder& plan) {
  constexpr int kMany = 64;
  const auto add = [&](const char* transport, Waiting waiting, int outstanding, const char* id) {
    Cell cell = plan.Calls("mi7", transport, waiting, outstanding);
    cell.rounds_max = kCountedRounds;
    const std::string many = outstanding > 1 ? absl::StrCat(" x", outstanding) : "";
    const std::string way =
        waiting == Waiting::kDefault ? "adaptive" : std::string(WaitingName(waiting));
    return &plan.Show(id, absl::StrCat("mi7 ", transport, many, ", ", way), plan.AddCell(cell));
  };
  add("shm", Waiting::kBlocking, kMany, "shm.64.blocking");
  for (Row* row : {add("inproc", Waiting::kDefault, 1, "inproc.adaptive"),
                   add("inproc", Waiting::kBlocking, 1, "inproc.blocking"),
                   add("inproc", Waiting::kSpinning, 1, "inproc.spinning"),
                   add("inproc", Waiting::kDefault, kMany, "inproc.64.adaptive"),
                   add("inproc", Waiting::kBlocking, kMany, "inproc.64.blocking"),
                   add("inproc", Waiting::kSpinning, kMany, "inproc.64.spinning")}) {
    row->placements = {Placement::kUnpinned};
  }
}

}  // namespace

void AddLocal(PlanBuilder& plan) {
  AddLatency(plan);
  AddRing(plan);
  AddInPlace(plan);
  AddMany(plan);
  AddTogether(plan, "shm", "L9", "L9.processes", true);
  if (plan.options().all_rows) {
    AddTogether(plan, "tcp", "threads.tcp", "processes.tcp", false);
    AddTogether(plan, "unix", "threads.unix", "processes.unix", false);
    AddTogether(plan, "inproc", "threads.inproc", "", false);
    AddOtherWaits(plan);
  }
}

}  // namespace mi7::bench
