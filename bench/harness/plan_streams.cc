// Messages that nobody answers one by one: streams over every transport, and against the one-way
// messages of what users would pick instead.

#include <optional>
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
// Up to here the time of a message counts, from here on the bandwidth.
constexpr size_t kBulk = 64 * 1024;
constexpr size_t kSizes[] = {kSmall, 1024, kBulk, kMebibyte};
constexpr const char* kTransports[] = {"shm", "unix", "tcp", "inproc"};
constexpr int kPipelined = 64;
constexpr int64_t kCountedNs = 300'000'000;
constexpr Peer kPeers[] = {kGrpcSync, kGrpcCallback, kCapnp, kThrift, kZeromq, kNng};

Cell Stream(const PlanBuilder& plan, const std::string& subject, const char* transport,
            Waiting waiting, size_t bytes, Call call = Call::kStream) {
  Cell cell = plan.Calls(subject, transport, waiting, 1);
  cell.workload.call = call;
  cell.workload.payload_bytes = bytes;
  return cell;
}

// Of a peer's own row.
std::string PeersId(const Peer& peer, const char* over, size_t bytes) {
  return absl::StrCat(peer.program, ".", over, ".stream.", SizeId(bytes));
}

bool IsInproc(const char* transport) { return std::string(transport) == "inproc"; }
bool IsShm(const char* transport) { return std::string(transport) == "shm"; }

// Where a program whose two sides are one process, or two, is measured.
std::vector<Placement> PlacesOf(const char* transport) {
  if (IsInproc(transport)) return {Placement::kUnpinned};
  return {Placement::kDifferentCpus, Placement::kUnpinned};
}

// What cannot be beaten: where the kernel carries the bytes, a socket with nothing on it; in memory
// of one's own, one copy of a large message, and a ring for the smallest (`raw_shm` knows no
// other).
std::optional<size_t> LimitOf(PlanBuilder& plan, const char* transport, size_t bytes) {
  if (IsShm(transport) && bytes == kSmall) {
    return plan.AddCell(Stream(plan, "raw_shm", "shm", Waiting::kSpinning, bytes));
  }
  if (!IsShm(transport) && !IsInproc(transport)) {
    const size_t raw =
        plan.AddCell(Stream(plan, "raw_tcp_batch", transport, Waiting::kBlocking, bytes));
    plan.Show(absl::StrCat("streams.raw.", transport, ".", SizeId(bytes)),
              absl::StrCat("raw ", transport, " one way, batched, ", SizeName(bytes)), raw)
        .placements = PlacesOf(transport);
    return raw;
  }
  if (bytes < kBulk) return std::nullopt;
  return plan.AddMemcpy(bytes);
}

// mi7's rows for one transport and size of messages.
void AddStream(PlanBuilder& plan, const char* transport, size_t bytes) {
  const std::string id = absl::StrCat("streams.", transport, ".", SizeId(bytes));
  const std::string what = absl::StrCat("mi7 ", transport, " stream, ", SizeName(bytes));
  const std::optional<size_t> limit = LimitOf(plan, transport, bytes);
  const size_t stream = plan.AddCell(Stream(plan, "mi7", transport, Waiting::kDefault, bytes));
  const auto show = [&](const std::string& row_id, const std::string& row_what, size_t cell,
                        std::optional<size_t> against, Quantity quantity) {
    Row& row = plan.Show(row_id, row_what, cell, quantity);
    row.limit = against;
    row.placements = PlacesOf(transport);
  };
  if (bytes >= kBulk) {
    show(id, absl::StrCat(what, IsShm(transport) || IsInproc(transport) ? " / memcpy" : " / raw"),
         stream, limit, Quantity::kPerCall);
    show(id + ".cpu", "CPU: " + what, stream, std::nullopt, Quantity::kCpuPerCall);
    return;
  }
  const size_t unary = plan.AddEcho("mi7", transport, Waiting::kDefault, kPipelined, bytes);
  show(id, what + " / echo x64", stream, unary, Quantity::kPerCall);
  show(id + ".cpu", absl::StrCat("CPU: ", what, " / echo x64"), stream, unary,
       Quantity::kCpuPerCall);
  if (limit.has_value()) show(id + ".raw", what + " / raw", stream, limit, Quantity::kPerCall);
}

// The other forms that a stream has, each against the first.
void AddForms(PlanBuilder& plan, const char* transport) {
  const size_t stream = plan.AddCell(Stream(plan, "mi7", transport, Waiting::kDefault, kSmall));
  const auto add = [&](const char* form, const char* name, Call call) {
    const size_t cell =
        plan.AddCell(Stream(plan, "mi7", transport, Waiting::kDefault, kSmall, call));
    Row& row = plan.Show(absl::StrCat("streams.", transport, ".", form),
                         absl::StrCat("mi7 ", transport, " ", name, ", 64 B / stream"), cell);
    row.limit = stream;
    row.placements = PlacesOf(transport);
  };
  add("callbacks", "stream by callbacks", Call::kStreamCallbacks);
  add("calls", "-> stream calls", Call::kStreamCalls);
  add("back", "server stream", Call::kStreamBack);
}

// A message and its answer on one stream, beside a unary call that carries as much.
void AddEchoes(PlanBuilder& plan, const char* transport) {
  for (int outstanding : {1, kPipelined}) {
    Cell cell = plan.Calls("mi7", transport, Waiting::kDefault, outstanding);
    cell.workload.call = Call::kStreamEcho;
    cell.workload.payload_bytes = kSmall;
    cell.rounds_max = kCountedRounds;
    const std::string many = outstanding > 1 ? absl::StrCat(" x", outstanding) : "";
    Row& row =
        plan.Show(absl::StrCat("streams.", transport, ".echo", outstanding > 1 ? ".64" : ""),
                  absl::StrCat("mi7 ", transport, " echo over a stream", many, ", 64 B / unary"),
                  plan.AddCell(std::move(cell)));
    row.limit = plan.AddEcho("mi7", transport, Waiting::kDefault, outstanding, kSmall);
    row.placements = {Placement::kUnpinned};
  }
}

void AddCounted(PlanBuilder& plan, const char* transport) {
  const auto add = [&](const char* name, const std::string& what, Cell cell, Quantity quantity) {
    cell.rounds_max = kCountedRounds;
    plan.Show(absl::StrCat("streams.", transport, ".", name), what, plan.AddCell(std::move(cell)),
              quantity)
        .placements = {Placement::kUnpinned};
  };
  const std::string what = absl::StrCat("mi7 ", transport, " stream");
  // Long enough that what the stream's start allocates is nothing.
  Cell small = Stream(plan, "mi7_counting", transport, Waiting::kDefault, kSmall);
  small.workload.measure_ns = kCountedNs;
  add("allocations", what + ", 64 B", small, Quantity::kAllocations);
  // One copy is the sender's own: it fills a message from other memory.
  add("copied", what + ", 1 MiB, copied",
      Stream(plan, "mi7_counting", transport, Waiting::kDefault, kMebibyte),
      Quantity::kCopiedBytes);
  add("syscalls", what + ", 64 B", small, Quantity::kSystemCalls);
}

// mi7 over `transport` against what each peer has for it, over `peers_transport`.
void AddSinks(PlanBuilder& plan, const char* transport, const char* peers_transport, size_t bytes) {
  const size_t mi7 = plan.AddCell(Stream(plan, "mi7", transport, Waiting::kDefault, bytes));
  const std::string what = absl::StrCat("mi7 ", transport, " stream, ", SizeName(bytes));
  const auto add = [&](const Peer& peer, const char* over) {
    const size_t cell = plan.AddCell(Stream(plan, peer.program, over, Waiting::kDefault, bytes));
    plan.Show(PeersId(peer, over, bytes),
              absl::StrCat(peer.name, " ", over, " one way, ", SizeName(bytes)), cell)
        .placements = {Placement::kUnpinned};
    const std::string id = absl::StrCat("sink.", transport, ".", SizeId(bytes), peer.suffix);
    // No target names these; lower than every peer is the least.
    plan.Promise(id, absl::StrCat(what, " / ", peer.name), mi7, cell, 1.0).placements = {
        Placement::kUnpinned};
    plan.Promise(id + ".cpu", absl::StrCat("CPU: ", what, " / ", peer.name), mi7, cell, 1.0,
                 Quantity::kCpuPerCall)
        .placements = {Placement::kUnpinned};
  };
  for (const Peer& peer : kPeers) add(peer, peers_transport);
  if (IsShm(transport)) add(kBoost, "shm");
}

void AddCharts(PlanBuilder& plan) {
  for (Chart::Kind kind : {Chart::Kind::kRate, Chart::Kind::kBandwidth}) {
    plan.AddChart(kind,
                  kind == Chart::Kind::kRate ? "Messages per second, one way, unpinned"
                                             : "Bandwidth of messages, one way, unpinned",
                  "payload bytes", Placement::kUnpinned);
    // Each point is a row that is there already.
    const auto add = [&](const std::string& series, const char* subject, const char* transport,
                         Waiting waiting, size_t bytes, const std::string& id) {
      plan.AddPoint(series, static_cast<double>(bytes),
                    plan.AddCell(Stream(plan, subject, transport, waiting, bytes)), id);
    };
    for (const char* transport : kTransports) {
      for (size_t bytes : kSizes) {
        add(absl::StrCat("mi7 ", transport), "mi7", transport, Waiting::kDefault, bytes,
            absl::StrCat("streams.", transport, ".", SizeId(bytes)));
      }
    }
    for (size_t bytes : kSizes) {
      add("raw tcp", "raw_tcp_batch", "tcp", Waiting::kBlocking, bytes,
          absl::StrCat("streams.raw.tcp.", SizeId(bytes)));
    }
    add("raw ring", "raw_shm", "shm", Waiting::kSpinning, kSmall, "raw.shm.stream");
    const auto add_peer = [&](const Peer& peer, const char* over) {
      for (size_t bytes : {kSmall, kMebibyte}) {
        add(absl::StrCat(peer.name, " ", over), peer.program, over, Waiting::kDefault, bytes,
            PeersId(peer, over, bytes));
      }
    };
    for (const Peer& peer : kPeers) add_peer(peer, "tcp");
    add_peer(kBoost, "shm");
  }
}

}  // namespace

void AddStreams(PlanBuilder& plan) {
  if (!plan.options().all_rows) {
    AddStream(plan, "shm", kSmall);
    AddStream(plan, "tcp", kSmall);
    return;
  }
  for (const char* transport : kTransports) {
    for (size_t bytes : kSizes) AddStream(plan, transport, bytes);
    AddForms(plan, transport);
    AddEchoes(plan, transport);
    AddCounted(plan, transport);
  }
  for (size_t bytes : {kSmall, kMebibyte}) {
    AddSinks(plan, "shm", "unix", bytes);
    AddSinks(plan, "tcp", "tcp", bytes);
  }
  AddCharts(plan);
}

}  // namespace mi7::bench
