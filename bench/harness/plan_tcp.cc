// T: TCP and Unix sockets against the bare system calls.

#include "absl/strings/str_cat.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr int kPipelined = 64;
constexpr int kActive = 64;
// To open thousands of connections takes seconds.
constexpr int kIdleShownRounds = 3;

class Frames {
 public:
  explicit Frames(PlanBuilder& plan) : plan_(plan) {}
  size_t Add(const char* subject, const char* transport, Waiting waiting, int outstanding,
             size_t bytes = PlanBuilder::kTypedFrameBytes) {
    Cell cell = plan_.Calls(subject, transport, waiting, outstanding);
    cell.workload.payload_bytes = bytes;
    return plan_.AddCell(cell);
  }

 private:
  PlanBuilder& plan_;
};

void AddOneOutstanding(PlanBuilder& plan, Frames& frames) {
  const size_t raw_64 = frames.Add("raw_tcp", "tcp", Waiting::kBlocking, 1, 64);
  const size_t raw = frames.Add("raw_tcp", "tcp", Waiting::kBlocking, 1);
  const size_t blocking = plan.AddNumber("mi7", "tcp", Waiting::kBlocking, 1);
  Cell in_epoll = plan.Calls("raw_tcp", "tcp", Waiting::kBlocking, 1);
  in_epoll.workload.payload_bytes = PlanBuilder::kTypedFrameBytes;
  in_epoll.workload.scale = 1;
  const size_t raw_epoll = plan.AddCell(in_epoll);
  const size_t adaptive = plan.AddNumber("mi7", "tcp", Waiting::kDefault, 1);
  const size_t raw_spinning_64 = frames.Add("raw_tcp", "tcp", Waiting::kSpinning, 1, 64);
  const size_t raw_spinning = frames.Add("raw_tcp", "tcp", Waiting::kSpinning, 1);
  const size_t spinning = plan.AddNumber("mi7", "tcp", Waiting::kSpinning, 1);
  plan.Show("raw.tcp.blocking.64B", "raw framed TCP 64 B, blocking", raw_64);
  plan.Show("raw.tcp.blocking", "raw framed TCP 56 B, blocking", raw);
  plan.Promise("T1", "mi7 unary, blocking / raw", blocking, raw, 1.10).stretch = 1.05;
  plan.Show("raw.tcp.epoll", "raw framed TCP 56 B, blocking, the server in epoll", raw_epoll);
  // No target of its own: how much of T1 is the system call that an event loop has more.
  plan.Show("T1.epoll", "mi7 unary, blocking / raw, the server in epoll", blocking).limit =
      raw_epoll;
  plan.Show("tcp.adaptive", "mi7 unary, adaptive", adaptive);
  plan.Show("raw.tcp.spinning.64B", "raw framed TCP 64 B, spinning", raw_spinning_64);
  plan.Show("raw.tcp.spinning", "raw framed TCP 56 B, spinning", raw_spinning);
  plan.Promise("T2", "mi7 unary, spinning / raw", spinning, raw_spinning, 1.15).stretch = 1.08;
}

void AddManyOutstanding(PlanBuilder& plan, Frames& frames) {
  const size_t raw_spinning = frames.Add("raw_tcp_batch", "tcp", Waiting::kSpinning, kPipelined);
  const size_t spinning = plan.AddNumber("mi7", "tcp", Waiting::kSpinning, kPipelined);
  const size_t raw = frames.Add("raw_tcp_batch", "tcp", Waiting::kBlocking, kPipelined);
  const size_t blocking = plan.AddNumber("mi7", "tcp", Waiting::kBlocking, kPipelined);
  const size_t adaptive = plan.AddNumber("mi7", "tcp", Waiting::kDefault, kPipelined);
  plan.Show("raw.tcp.batch.blocking", "raw batched x64, blocking", raw);
  plan.Promise("T3", "mi7 x64, blocking / raw", blocking, raw, 1.6).stretch = 1.3;
  plan.Show("raw.tcp.batch.spinning", "raw batched x64, spinning", raw_spinning);
  plan.Promise("T3.spinning", "mi7 x64, spinning / raw", spinning, raw_spinning, 1.6).stretch = 1.3;
  plan.Promise("T3.adaptive", "mi7 x64, adaptive / raw blocking", adaptive, raw, 1.6).stretch = 1.3;
}

// Nobody looks at the payload; the answer is small.
void AddPayloads(PlanBuilder& plan) {
  for (size_t bytes : {PlanBuilder::kMebibyte, 16 * PlanBuilder::kMebibyte}) {
    const auto add = [&](const char* subject) {
      Cell cell = plan.Calls(subject, "tcp", Waiting::kBlocking, 1);
      cell.workload.call = Call::kPrebuilt;
      cell.workload.payload_bytes = bytes;
      return plan.AddCell(cell);
    };
    const bool small = bytes == PlanBuilder::kMebibyte;
    const size_t raw = add("raw_tcp");
    const size_t mi7 = add("mi7");
    plan.Show(small ? "raw.tcp.1MiB" : "raw.tcp.16MiB",
              absl::StrCat("raw framed TCP, ", SizeName(bytes), " one way"), raw);
    plan.Promise(small ? "T4" : "T4.16MiB", absl::StrCat("mi7, ", SizeName(bytes), " / raw"), mi7,
                 raw, 1.10);
  }
}

void AddUnix(PlanBuilder& plan, Frames& frames) {
  const size_t raw = frames.Add("raw_tcp", "unix", Waiting::kBlocking, 1);
  const size_t blocking = plan.AddNumber("mi7", "unix", Waiting::kBlocking, 1);
  const size_t raw_spinning = frames.Add("raw_tcp", "unix", Waiting::kSpinning, 1);
  const size_t spinning = plan.AddNumber("mi7", "unix", Waiting::kSpinning, 1);
  const size_t adaptive = plan.AddNumber("mi7", "unix", Waiting::kDefault, 1);
  const size_t many = plan.AddNumber("mi7", "unix", Waiting::kBlocking, kPipelined);
  plan.Show("raw.unix.blocking", "raw framed Unix socket, blocking", raw);
  plan.Show("raw.unix.spinning", "raw framed Unix socket, spinning", raw_spinning);
  // No target of its own: the limit is for the eye.
  plan.Show("unix.blocking", "mi7 unix unary, blocking / raw", blocking).limit = raw;
  plan.Show("unix.spinning", "mi7 unix unary, spinning / raw", spinning).limit = raw_spinning;
  plan.Show("unix.adaptive", "mi7 unix unary, adaptive", adaptive);
  plan.Show("unix.64", "mi7 unix x64, blocking", many);
  if (!plan.options().all_rows) return;
  Cell many_spinning = plan.Calls("mi7", "unix", Waiting::kSpinning, kPipelined);
  many_spinning.rounds_max = kCountedRounds;
  plan.Show("unix.64.spinning", "mi7 unix x64, spinning", plan.AddCell(many_spinning))
      .placements = {Placement::kDifferentCpus};
}

void AddManyConnections(PlanBuilder& plan) {
  const int idle = plan.options().idle_connections;
  Cell active = plan.Calls("mi7", "tcp", Waiting::kDefault, 1);
  active.workload.connections = kActive;
  active.standing = true;  // warm, as the crowd's server is
  Cell among = active;
  among.idle_connections = idle - kActive;
  const size_t alone = plan.AddCell(active);
  const size_t crowd = plan.AddCell(among);
  const std::string what = absl::StrCat("64 of ", idle, " connections");
  for (Row* row : {&plan.Promise("T5", what + " / the 64 alone", crowd, alone, 1.05),
                   &plan.Promise("T5.p99", what + ", p99", crowd, alone, 1.2, Quantity::kP99)}) {
    row->placements = {Placement::kDifferentCpus, Placement::kUnpinned};
  }
  Cell idle_only = plan.Calls("mi7", "tcp", Waiting::kDefault, 1);
  idle_only.kind = Cell::Kind::kIdleConnections;
  idle_only.idle_connections = idle;
  idle_only.rounds_max = MemoryRounds(plan);
  const size_t memory = plan.AddCell(idle_only);
  const size_t watched = plan.AddCell(Watched(plan, idle_only));
  Cell over_unix = plan.Calls("mi7", "unix", Waiting::kDefault, 1);
  over_unix.kind = Cell::Kind::kIdleConnections;
  over_unix.idle_connections = plan.options().local_connections;
  over_unix.rounds_max = kIdleShownRounds;
  Cell peer = idle_only;
  peer.subject = "capnp_rpc";
  peer.rounds_max = kIdleShownRounds;
  const size_t capnp = plan.AddCell(peer);
  const auto show = [&](const char* id, const char* text, size_t cell, Quantity quantity,
                        std::optional<double> target) {
    Row& row = plan.Show(id, text, cell, quantity);
    row.target = target;
    row.placements = {Placement::kUnpinned};
  };
  show("T5.idle.server", "mi7 idle connection, server", memory, Quantity::kIdleServer, 1024);
  show("T5.idle.client", "mi7 idle connection, client", memory, Quantity::kIdleClient, 1024);
  show("T5.wakeups", "wakeups of idle connections", watched, Quantity::kIdleWakeups, 0);
  if (plan.options().all_rows) {
    const size_t unix_memory = plan.AddCell(over_unix);
    show("unix.idle.server", "mi7 idle Unix connection, server", unix_memory, Quantity::kIdleServer,
         std::nullopt);
    show("unix.idle.client", "mi7 idle Unix connection, client", unix_memory, Quantity::kIdleClient,
         std::nullopt);
  }
  show("capnp.idle.server", "Cap'n Proto idle connection, server", capnp, Quantity::kIdleServer,
       std::nullopt);
  show("capnp.idle.client", "Cap'n Proto idle connection, client", capnp, Quantity::kIdleClient,
       std::nullopt);
}

}  // namespace

void AddTcp(PlanBuilder& plan) {
  Frames frames(plan);
  AddOneOutstanding(plan, frames);
  AddManyOutstanding(plan, frames);
  AddPayloads(plan);
  AddUnix(plan, frames);
  AddManyConnections(plan);
}

}  // namespace mi7::bench
