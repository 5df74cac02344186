// System calls, counted by the processes that make them (subjects/counting_system_calls.cc): of
// mi7, of the bare socket that is its limit, and of a peer.

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr int64_t kTracedNs = 30'000'000;
constexpr int kBurst = 16;
constexpr int kPipelined = 64;

struct Way {
  Waiting waiting;
  const char* name;
};
constexpr Way kAdaptive = {Waiting::kDefault, "adaptive"};
constexpr Way kBlocking = {Waiting::kBlocking, "blocking"};
constexpr Way kSpinning = {Waiting::kSpinning, "spinning"};

void AddPromised(PlanBuilder& plan) {
  Cell awake = plan.Calls("mi7_counting", "shm", Waiting::kDefault, 1);
  awake.rounds_max = kCountedRounds;
  const size_t peer_awake = plan.AddCell(awake);
  plan.PromiseValue("L3.syscalls", "mi7 shm, adaptive, peer awake", peer_awake, 0,
                    Quantity::kSystemCalls)
      .placements = {Placement::kDifferentCpus};
  Cell burst = awake;
  burst.workload.burst = kBurst;
  const size_t bursts = plan.AddCell(burst);
  plan.PromiseValue("L3.wakes", "wakes by the caller per burst of 16", bursts, 1,
                    Quantity::kBurstWakes)
      .placements = {Placement::kDifferentCpus};
  if (!plan.options().all_rows) return;
  for (Row* row :
       {&plan.Show("L3.syscalls.polls", "those that look at descriptors", peer_awake,
                   Quantity::kPolls),
        &plan.Show("L3.syscalls.questions", "those that ask whether the CPU is wanted (getrusage)",
                   peer_awake, Quantity::kCpuQuestions),
        &plan.Show("L3.syscalls.offers", "those that offer it (sched_yield)", peer_awake,
                   Quantity::kCpuOffers),
        &plan.Show("L3.wakes.futex", "those by a futex", bursts, Quantity::kBurstFutexWakes)}) {
    row->placements = {Placement::kDifferentCpus};
  }
}

class Shown {
 public:
  explicit Shown(PlanBuilder& plan) : plan_(plan) {}

  // Both sides together.
  size_t Add(const std::string& id, const std::string& what, Cell cell) {
    cell.rounds_max = kCountedRounds;
    const size_t index = plan_.AddCell(std::move(cell));
    Show(id, what, index, Quantity::kSystemCalls);
    return index;
  }
  // And each.
  void AddSides(const std::string& id, const std::string& what, Cell cell) {
    const size_t index = Add(id, what, std::move(cell));
    Show(id + ".client", what + ", client", index, Quantity::kClientSystemCalls);
    Show(id + ".server", what + ", server", index, Quantity::kServerSystemCalls);
  }
  // And those that receive and send.
  size_t AddPieces(const std::string& id, const std::string& what, Cell cell) {
    const size_t index = Add(id, what, std::move(cell));
    Show(id + ".receives", what + ", receives", index, Quantity::kReceives);
    Show(id + ".sends", what + ", sends", index, Quantity::kSends);
    return index;
  }
  // And how many messages one of them carries.
  void AddBatches(const std::string& id, const std::string& what, Cell cell) {
    const size_t index = AddPieces(id, what, std::move(cell));
    Show(id + ".batch.client", what + ", in a client's send", index, Quantity::kClientBatch);
    Show(id + ".batch.server", what + ", in a server's send", index, Quantity::kServerBatch);
  }

 private:
  void Show(const std::string& id, const std::string& what, size_t cell, Quantity quantity) {
    plan_.Show(id, what, cell, quantity).placements = {Placement::kUnpinned};
  }

  PlanBuilder& plan_;
};

// Over inproc both sides are one process, whose counts are all the client's.
void AddMi7(PlanBuilder& plan, Shown& shown) {
  const auto id = [](const char* transport, const Way& way, const char* suffix) {
    return absl::StrCat("syscalls.", transport, ".", way.name, suffix);
  };
  const auto what = [](const char* transport, const Way& way, int outstanding) {
    return absl::StrCat("mi7 ", transport, " x", outstanding, ", ", way.name);
  };
  for (const char* transport : {"shm", "unix", "inproc"}) {
    for (const Way& way : {kAdaptive, kBlocking, kSpinning}) {
      for (int outstanding : {1, kPipelined}) {
        shown.Add(id(transport, way, outstanding == 1 ? "" : ".64"),
                  what(transport, way, outstanding),
                  plan.Calls("mi7_counting", transport, way.waiting, outstanding));
      }
    }
  }
  for (const Way& way : {kAdaptive, kBlocking, kSpinning}) {
    shown.AddSides(id("tcp", way, ""), what("tcp", way, 1),
                   plan.Calls("mi7_counting", "tcp", way.waiting, 1));
    shown.AddBatches(id("tcp", way, ".64"), what("tcp", way, kPipelined),
                     plan.Calls("mi7_counting", "tcp", way.waiting, kPipelined));
  }
  // From outside, where nobody polls: to be the same.
  Cell traced = plan.Calls("mi7", "tcp", Waiting::kBlocking, 1);
  traced.workload.measure_ns = kTracedNs;
  traced.trace_system_calls = true;
  shown.Add("syscalls.tcp.blocking.ptrace", "mi7 tcp x1, blocking, seen by ptrace", traced);
}

// Of who spins most are looks in vain.
void AddRaw(PlanBuilder& plan, Shown& shown) {
  const auto frames = [&](const char* subject, const Way& way, int outstanding) {
    Cell cell = plan.Calls(subject, "tcp", way.waiting, outstanding);
    cell.workload.payload_bytes = PlanBuilder::kTypedFrameBytes;
    return cell;
  };
  for (const Way& way : {kBlocking, kSpinning}) {
    shown.AddSides(absl::StrCat("syscalls.raw.tcp.", way.name),
                   absl::StrCat("raw framed TCP x1, ", way.name),
                   frames("raw_tcp_counting", way, 1));
    shown.AddBatches(absl::StrCat("syscalls.raw.tcp.batch.", way.name),
                     absl::StrCat("raw batched x64, ", way.name),
                     frames("raw_tcp_batch_counting", way, kPipelined));
  }
}

void AddPeers(PlanBuilder& plan, Shown& shown) {
  Cell thrift = plan.Calls("thrift_counting", "tcp", Waiting::kDefault, 1);
  thrift.workload.call = Call::kEcho;
  thrift.workload.payload_bytes = 64;
  shown.AddSides("syscalls.thrift.tcp", "Thrift tcp, 64 B echo", thrift);
  // A large message goes in pieces, of which some have many and some have few.
  const auto large = [&](const char* subject) {
    Cell cell = plan.Calls(subject, "tcp", Waiting::kDefault, 1);
    cell.workload.call = Call::kEcho;
    cell.workload.payload_bytes = PlanBuilder::kMebibyte;
    return cell;
  };
  shown.AddPieces("syscalls.tcp.echo1MiB", "mi7 tcp, 1 MiB echo", large("mi7_counting"));
  shown.AddPieces("syscalls.zeromq.tcp.1MiB", "ZeroMQ tcp, 1 MiB echo", large("zeromq_counting"));
}

}  // namespace

void AddSystemCalls(PlanBuilder& plan) {
  AddPromised(plan);
  if (!plan.options().all_rows) return;
  Shown shown(plan);
  AddMi7(plan, shown);
  AddRaw(plan, shown);
  AddPeers(plan, shown);
}

}  // namespace mi7::bench
