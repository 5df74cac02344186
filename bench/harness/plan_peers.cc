// V: mi7 as it is by itself (adaptive) against what users would pick instead: the same payloads,
// echoed, between two processes.

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/peers.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr size_t kSmall = 64;
constexpr size_t kMebibyte = PlanBuilder::kMebibyte;
constexpr int kPipelined = 64;

// How one target holds mi7 against several peers: in the same way, each with a bound of its own.
class Contest {
 public:
  // `id` and `what` are of the rows; `target` is what V7 calls the row.
  Contest(PlanBuilder& plan, std::string id, std::string what, const char* transport,
          int outstanding, size_t bytes, Waiting waiting = Waiting::kDefault)
      : plan_(plan),
        id_(std::move(id)),
        what_(std::move(what)),
        transport_(transport),
        outstanding_(outstanding),
        bytes_(bytes),
        mi7_(plan.AddEcho("mi7", transport, waiting, outstanding, bytes)) {}

  // `over`: what the peer's call goes over; nullptr: the same as mi7's. V7 looks at the same
  // `placements`.
  Row& Against(const Peer& peer, double target, const char* over = nullptr,
               const std::vector<Placement>& placements = {Placement::kUnpinned}) {
    const char* const transport = over != nullptr ? over : transport_;
    const size_t cell = AddCalls(peer, transport);
    const std::string many = outstanding_ > 1 ? absl::StrCat(" x", outstanding_) : "";
    AddOnce(absl::StrCat(peer.program, ".", transport, outstanding_ > 1 ? ".64" : "",
                         bytes_ == kSmall      ? ""
                         : bytes_ == kMebibyte ? ".1MiB"
                                               : ".16MiB"),
            absl::StrCat(peer.name, " ", transport, ", ", SizeName(bytes_), many), cell,
            placements);
    const std::string what = absl::StrCat(what_, " / ", peer.name);
    Row& row = plan_.Promise(id_ + peer.suffix, what, mi7_, cell, target);
    row.placements = placements;
    plan_
        .Promise(absl::StrCat("V7.", id_, peer.suffix), "CPU: " + what, mi7_, cell, 1.0,
                 Quantity::kCpuPerCall)
        .placements = placements;
    return row;
  }
  size_t mi7() const { return mi7_; }

 private:
  size_t AddCalls(const Peer& peer, const char* transport) {
    Cell cell = plan_.Calls(peer.program, transport, Waiting::kDefault, outstanding_);
    cell.workload.call = Call::kEcho;
    cell.workload.payload_bytes = bytes_;
    if (peer.blocks && outstanding_ > 1) {
      std::swap(cell.workload.threads, cell.workload.outstanding);
      cell.workload.measure_ns *= kSharedTimes;
    }
    return plan_.AddCell(std::move(cell));
  }
  // The peer's own figure, which several contests share.
  void AddOnce(const std::string& id, const std::string& what, size_t cell,
               const std::vector<Placement>& placements) {
    if (!plan_.Has(id)) plan_.Show(id, what, cell).placements = placements;
  }

  PlanBuilder& plan_;
  const std::string id_;
  const std::string what_;
  const char* const transport_;
  const int outstanding_;
  const size_t bytes_;
  const size_t mi7_;
};

// V3: both spin.
void AddSpinningPeers(PlanBuilder& plan) {
  // The best untyped messaging over shared memory is what the raw subject does.
  const size_t lines =
      plan.AddCopy(plan.AddEcho("raw_shm", "shm", Waiting::kSpinning, 1, kSmall), "V3");
  const size_t spinning = plan.AddEcho("mi7", "shm", Waiting::kSpinning, 1, kSmall);
  const size_t peer = plan.AddEcho(kIceoryx.program, "shm", Waiting::kSpinning, 1, kSmall);
  const auto prebuilt = [&](const char* subject) {
    Cell cell = plan.Calls(subject, "shm", Waiting::kSpinning, 1);
    cell.workload.call = Call::kPrebuilt;
    cell.workload.payload_bytes = kMebibyte;
    cell.copy_for = "V3.1MiB";
    return plan.AddCell(cell);
  };
  const size_t in_place = prebuilt("mi7");
  const size_t peer_in_place = prebuilt(kIceoryx.program);
  plan.Promise("V3", "mi7 shm 64 B, spinning / two lines", spinning, lines, 1.3).placements = {
      Placement::kDifferentCpus};
  // Nobody looks at the payload, so the best that can be done is to signal it: the same lines.
  plan.Promise("V3.1MiB", "mi7 shm 1 MiB in place / two lines", in_place, lines, 1.3).placements = {
      Placement::kDifferentCpus};
  const auto against = [&](const char* size_id, const char* what, size_t mi7, size_t other) {
    const std::vector<Placement> placements = {Placement::kDifferentCpus, Placement::kUnpinned};
    const std::string id = absl::StrCat("V3", kIceoryx.suffix, size_id);
    const std::string versus = absl::StrCat("mi7 shm ", what, ", spinning / ", kIceoryx.name);
    plan.Show(absl::StrCat(kIceoryx.program, ".shm.spinning", size_id),
              absl::StrCat(kIceoryx.name, " shm, spinning, ", what), other)
        .placements = placements;
    plan.Promise(id, versus, mi7, other, 1.0 / 5).placements = placements;
    plan.Promise("V7." + id, "CPU: " + versus, mi7, other, 1.0, Quantity::kCpuPerCall).placements =
        placements;
  };
  against("", "64 B", spinning, peer);
  against(".1MiB", "1 MiB in place", in_place, peer_in_place);
}

void AddLocalPeers(PlanBuilder& plan) {
  Contest v1(plan, "V1", "mi7 shm 64 B", "shm", 1, kSmall);
  const auto everywhere = [&](const Peer& peer, double target, double stretch, double one_cpu) {
    Row& row = v1.Against(peer, target, "unix",
                          {Placement::kDifferentCpus, Placement::kUnpinned, Placement::kOneCpu});
    row.stretch = stretch;
    row.target_one_cpu = row.stretch_one_cpu = one_cpu;
  };
  everywhere(Mainly(kGrpcSync), 1.0 / 50, 1.0 / 100, 1.0 / 10);
  everywhere(kGrpcCallback, 1.0 / 50, 1.0 / 100, 1.0 / 10);
  everywhere(kCapnp, 1.0 / 25, 1.0 / 50, 1.0 / 6);
  // No promise names these; lower than every peer is the least.
  for (const Peer& peer : {kThrift, kZeromq, kNng}) v1.Against(peer, 1.0, "unix");
  v1.Against(kBoost, 1.0);
  v1.Against(kIceoryx, 1.0);
  if (plan.options().all_rows) {
    Contest large(plan, "V1.1MiB", "mi7 shm 1 MiB", "shm", 1, kMebibyte);
    for (const Peer& peer : {Mainly(kGrpcSync), kGrpcCallback, kCapnp, kThrift, kZeromq, kNng}) {
      large.Against(peer, 1.0, "unix");
    }
    large.Against(kBoost, 1.0);
    large.Against(kIceoryx, 1.0);
  }

  Contest v2(plan, "V2", "mi7 shm 64 B x64", "shm", kPipelined, kSmall);
  v2.Against(Mainly(kGrpcCallback), 1.0 / 50, "unix");
  v2.Against(kGrpcSync, 1.0 / 50, "unix");
  v2.Against(kCapnp, 1.0 / 25, "unix");
  // Five times the fastest queue that does not spin, whichever that is.
  for (const Peer& peer : {kThrift, kZeromq, kNng}) v2.Against(peer, 1.0 / 5, "unix");
  v2.Against(kBoost, 1.0 / 5);
}

void AddTcpPeers(PlanBuilder& plan) {
  constexpr Peer kTcpPeers[] = {Mainly(kGrpcSync), kGrpcCallback, kCapnp, kBrpc,
                                kThrift,           kZeromq,       kNng};
  Contest blocking(plan, "V4", "mi7 tcp 64 B, blocking", "tcp", 1, kSmall, Waiting::kBlocking);
  for (const Peer& peer : kTcpPeers) blocking.Against(peer, 1.0);
  Contest adaptive(plan, "V4.adaptive", "mi7 tcp 64 B", "tcp", 1, kSmall);
  for (const Peer& peer : kTcpPeers) adaptive.Against(peer, 0.2).stretch = 1.0 / 8;

  Contest many(plan, "V5", "mi7 tcp 64 B x64", "tcp", kPipelined, kSmall);
  many.Against(Mainly(kGrpcCallback), 1.0 / 4);
  many.Against(kGrpcSync, 1.0 / 4);
  many.Against(kCapnp, 1.0 / 4);
  many.Against(kBrpc, 1.0 / 4);
  many.Against(kZeromq, 1.0 / 1.2);
  many.Against(kThrift, 1.0);
  many.Against(kNng, 1.0);
  const size_t unbatched = plan.AddEcho("raw_tcp", "tcp", Waiting::kBlocking, kPipelined, kSmall);
  plan.Show("raw.tcp.64", "raw framed TCP x64, not batched", unbatched).placements = {
      Placement::kUnpinned};
  plan.Promise("V5.raw", "mi7 tcp 64 B x64 / raw, not batched", many.mi7(), unbatched, 1.0)
      .placements = {Placement::kUnpinned};

  for (size_t bytes : {kMebibyte, 16 * kMebibyte}) {
    Contest large(plan, bytes == kMebibyte ? "V6" : "V6.16MiB",
                  absl::StrCat("mi7 tcp ", SizeName(bytes)), "tcp", 1, bytes);
    for (const Peer& peer : kTcpPeers) large.Against(peer, 1.0);
  }
}

// V6 against ZeroMQ once more, with both ends where they cannot choose. Ends that sleep and wake
// one another come to one CPU, ends that poll stay on a CPU each: what V6.zeromq has of that is
// here.
void AddPinned(PlanBuilder& plan) {
  const auto add = [&](const char* subject) {
    Cell cell = plan.Calls(subject, "tcp", Waiting::kDefault, 1);
    cell.workload.call = Call::kEcho;
    cell.workload.payload_bytes = kMebibyte;
    cell.rounds_max = kCountedRounds;
    return plan.AddCell(std::move(cell));
  };
  const size_t mi7 = add("mi7");
  const size_t peer = add(kZeromq.program);
  const std::string id = absl::StrCat("V6", kZeromq.suffix, ".pinned");
  const std::string what = absl::StrCat("mi7 tcp 1 MiB / ", kZeromq.name);
  for (Row* row :
       {&plan.Show("zeromq.tcp.1MiB.pinned", "ZeroMQ tcp, 1 MiB", peer), &plan.Show(id, what, mi7),
        &plan.Show("V7." + id, "CPU: " + what, mi7, Quantity::kCpuPerCall)}) {
    if (row->cell == mi7) row->limit = peer;
    row->placements = {Placement::kDifferentCpus, Placement::kOneCpu};
  }
}

}  // namespace

void AddPeers(PlanBuilder& plan) {
  AddLocalPeers(plan);
  AddSpinningPeers(plan);
  AddTcpPeers(plan);
  if (plan.options().all_rows) AddPinned(plan);
  // V7 by its plain id: its rows are beside those that they are about.
  const size_t mi7 = plan.AddEcho("mi7", "tcp", Waiting::kDefault, 1, kSmall);
  const size_t grpc = plan.AddEcho("grpc_sync", "tcp", Waiting::kDefault, 1, kSmall);
  plan.Promise("V7", "CPU: mi7 tcp 64 B / gRPC sync", mi7, grpc, 1.0, Quantity::kCpuPerCall)
      .placements = {Placement::kUnpinned};
}

}  // namespace mi7::bench
