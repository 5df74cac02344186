// The charts of the report. Many of their points are cells of rows already.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr size_t kMebibyte = PlanBuilder::kMebibyte;
constexpr size_t kSmall = 64;

struct Peer {
  const char* program;
  const char* transport;
  const char* name;
};
constexpr Peer kPeers[] = {{"grpc_callback", "unix", "gRPC callback unix"},
                           {"capnp_rpc", "unix", "Cap'n Proto unix"},
                           {"thrift", "unix", "Thrift unix"},
                           {"zeromq", "unix", "ZeroMQ unix"},
                           {"nng", "unix", "nng unix"},
                           {"boost_queue", "shm", "Boost queue"}};
constexpr Peer kTcpPeers[] = {{"grpc_sync", "tcp", "gRPC sync tcp"},
                              {"capnp_rpc", "tcp", "Cap'n Proto tcp"},
                              {"thrift", "tcp", "Thrift tcp"},
                              {"zeromq", "tcp", "ZeroMQ tcp"},
                              {"nng", "tcp", "nng tcp"}};

void AddDistributions(PlanBuilder& plan) {
  const auto add = [&](const char* name, size_t cell) {
    plan.AddPoint(name, 0, cell, absl::StrCat("distribution.", name));
  };
  plan.AddChart(Chart::Kind::kDistribution, "Latency, 8 B each way, a CPU each",
                "share of calls that were faster", Placement::kDifferentCpus);
  add("lines, spinning", plan.AddNumber("raw_shm", "shm", Waiting::kSpinning, 1));
  add("mi7 shm, spinning", plan.AddNumber("mi7", "shm", Waiting::kSpinning, 1));
  add("mi7 shm, adaptive", plan.AddNumber("mi7", "shm", Waiting::kDefault, 1));
  add("futex", plan.AddNumber("raw_shm", "shm", Waiting::kBlocking, 1));
  add("mi7 shm, blocking", plan.AddNumber("mi7", "shm", Waiting::kBlocking, 1));
  add("mi7 tcp, spinning", plan.AddNumber("mi7", "tcp", Waiting::kSpinning, 1));
  add("mi7 tcp, blocking", plan.AddNumber("mi7", "tcp", Waiting::kBlocking, 1));
  plan.AddChart(Chart::Kind::kDistribution, "Latency, 64 B echo, local, unpinned",
                "share of calls that were faster", Placement::kUnpinned);
  add("mi7 shm", plan.AddEcho("mi7", "shm", Waiting::kDefault, 1, kSmall));
  for (const Peer& peer : kPeers) {
    add(peer.name, plan.AddEcho(peer.program, peer.transport, Waiting::kDefault, 1, kSmall));
  }
  plan.AddChart(Chart::Kind::kDistribution, "Latency, 64 B echo, TCP, unpinned",
                "share of calls that were faster", Placement::kUnpinned);
  add("mi7 tcp, adaptive", plan.AddEcho("mi7", "tcp", Waiting::kDefault, 1, kSmall));
  add("mi7 tcp, blocking 64 B", plan.AddEcho("mi7", "tcp", Waiting::kBlocking, 1, kSmall));
  for (const Peer& peer : kTcpPeers) {
    add(peer.name, plan.AddEcho(peer.program, peer.transport, Waiting::kDefault, 1, kSmall));
  }
}

void AddOutstanding(PlanBuilder& plan) {
  const bool quick = plan.options().quick;
  const std::vector<int> many =
      quick ? std::vector<int>{1, 16, 64, 256} : std::vector<int>{1, 2, 4, 8, 16, 32, 64, 128, 256};
  plan.AddChart(Chart::Kind::kRate, "Calls per second, 64 B echo, unpinned", "calls outstanding",
                Placement::kUnpinned);
  for (const char* transport : {"shm", "unix", "tcp", "inproc"}) {
    for (int outstanding : many) {
      plan.AddPoint(absl::StrCat("mi7 ", transport), outstanding,
                    plan.AddEcho("mi7", transport, Waiting::kDefault, outstanding, kSmall),
                    absl::StrCat("rate.mi7.", transport, ".", outstanding));
    }
  }
  const auto peers = [&](const Peer& peer) {
    for (int outstanding : {1, 64}) {
      plan.AddPoint(
          peer.name, outstanding,
          plan.AddEcho(peer.program, peer.transport, Waiting::kDefault, outstanding, kSmall),
          absl::StrCat("rate.", peer.program, ".", peer.transport, ".", outstanding));
    }
  };
  for (const Peer& peer : kPeers) peers(peer);
}

void AddPayloads(PlanBuilder& plan) {
  const bool quick = plan.options().quick;
  const std::vector<size_t> sizes =
      quick ? std::vector<size_t>{8, 64, 4096, 65536, kMebibyte, 16 * kMebibyte}
            : std::vector<size_t>{8,      64,        512,           4096,          32768,
                                  262144, kMebibyte, 4 * kMebibyte, 16 * kMebibyte};
  for (Chart::Kind kind : {Chart::Kind::kTime, Chart::Kind::kBandwidth}) {
    const bool time = kind == Chart::Kind::kTime;
    plan.AddChart(kind,
                  time ? "Time of an echo, one outstanding, unpinned"
                       : "Payload bandwidth of an echo (each way), one outstanding, unpinned",
                  "payload bytes", Placement::kUnpinned);
    const auto add = [&](const std::string& name, const char* subject, const char* transport,
                         Waiting waiting, size_t bytes) {
      plan.AddPoint(name, static_cast<double>(bytes),
                    plan.AddEcho(subject, transport, waiting, 1, bytes),
                    absl::StrCat("payload.", subject, ".", transport, ".", bytes));
    };
    for (const char* transport : {"shm", "unix", "tcp", "inproc"}) {
      for (size_t bytes : sizes) {
        add(absl::StrCat("mi7 ", transport), "mi7", transport, Waiting::kDefault, bytes);
      }
    }
    for (size_t bytes : sizes) {
      plan.AddPoint("memcpy", static_cast<double>(bytes), plan.AddMemcpy(bytes), "");
    }
    for (size_t bytes : sizes) add("raw TCP", "raw_tcp", "tcp", Waiting::kBlocking, bytes);
    for (const Peer& peer : kTcpPeers) {
      for (size_t bytes : {kSmall, kMebibyte, 16 * kMebibyte}) {
        add(peer.name, peer.program, peer.transport, Waiting::kDefault, bytes);
      }
    }
  }
  if (quick) return;
  plan.AddChart(Chart::Kind::kBandwidth, "Payload bandwidth of echoes, 16 outstanding, unpinned",
                "payload bytes", Placement::kUnpinned);
  for (const char* transport : {"shm", "unix", "tcp"}) {
    for (size_t bytes : {size_t{64}, size_t{4096}, size_t{65536}, kMebibyte}) {
      plan.AddPoint(absl::StrCat("mi7 ", transport), static_cast<double>(bytes),
                    plan.AddEcho("mi7", transport, Waiting::kDefault, 16, bytes),
                    absl::StrCat("payload.mi7.", transport, ".", bytes, ".16"));
    }
  }
}

void AddConnections(PlanBuilder& plan, Chart::Kind kind, const char* figure) {
  plan.AddChart(kind,
                absl::StrCat(figure, " by connections open, up to 64 of them active, a CPU each"),
                "connections", Placement::kDifferentCpus);
  const auto add = [&](const char* transport, int connections) {
    Cell cell = plan.Calls("mi7", transport, Waiting::kDefault, 1);
    cell.workload.connections = connections < 64 ? connections : 64;
    cell.idle_connections = connections - cell.workload.connections;
    cell.standing = true;  // as those of L8 and T5
    // L8 has so many idle ones beside the 64.
    if (std::string(transport) == "shm" && connections == plan.options().local_connections) {
      cell.idle_connections = connections;
    }
    plan.AddPoint(absl::StrCat("mi7 ", transport), connections, plan.AddCell(cell),
                  absl::StrCat("connections.", transport, ".", connections));
  };
  for (int connections : {1, 8, 64, 256, 1000}) add("tcp", connections);
  add("tcp", plan.options().idle_connections);
  for (int connections : {1, 8, 64, 256}) add("unix", connections);
  add("unix", plan.options().local_connections);
  for (int connections : {1, 8, 64, 256}) add("shm", connections);
  add("shm", plan.options().local_connections);
}

// What a call costs by how many methods its server has.
void AddMethods(PlanBuilder& plan) {
  plan.AddChart(Chart::Kind::kTime, "Latency of a call by methods of its server, shm, a CPU each",
                "methods registered", Placement::kDifferentCpus);
  for (int methods : {1, 10, 100, 1'000, 10'000}) {
    Cell cell = plan.Calls("mi7", "shm", Waiting::kDefault, 1);
    cell.workload.scale = methods;
    plan.AddPoint("mi7 shm", methods, plan.AddCell(cell), "");  // rows methods.*
  }
}

}  // namespace

void AddCurves(PlanBuilder& plan) {
  AddDistributions(plan);
  AddOutstanding(plan);
  AddPayloads(plan);
  AddConnections(plan, Chart::Kind::kTime, "Latency of a call");
  AddConnections(plan, Chart::Kind::kTail, "99th percentile of latency");
  AddConnections(plan, Chart::Kind::kCpu, "CPU time of a call");
  if (plan.options().all_rows) AddMethods(plan);
}

}  // namespace mi7::bench
