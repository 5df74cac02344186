#include "bench/harness/measure.h"

#include <poll.h>

#include "absl/strings/str_cat.h"
#include "bench/harness/child_process.h"
#include "bench/harness/stats.h"

namespace mi7::bench {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(10);
// What a run may take beyond its warm-up and its measured stretch.
constexpr absl::Duration kRunSlack = absl::Seconds(20);
constexpr absl::Duration kIdleTimeout = absl::Seconds(60);
constexpr int kFirstLot = 128;

// The next line `process` says; what it says to be an error is one.
absl::StatusOr<std::string> Listen(ChildProcess& process, absl::Duration timeout) {
  absl::StatusOr<std::string> line = process.ReadLine(Deadline::After(timeout));
  constexpr char kError[] = "error ";
  if (line.ok() && line->rfind(kError, 0) == 0) {
    return absl::UnknownError(line->substr(sizeof(kError) - 1));
  }
  return line;
}

struct Server {
  ChildProcess process;
  std::string address;
};

absl::StatusOr<Server> StartServer(const std::string& program, const char* role,
                                   const Workload& workload, const std::vector<int>& cpus) {
  absl::StatusOr<ChildProcess> process =
      ChildProcess::Start({.argv = {program, role, workload.Encode()}, .cpus = cpus});
  if (!process.ok()) return process.status();
  absl::StatusOr<std::string> line = Listen(*process, kStartTimeout);
  if (!line.ok()) return line.status();
  constexpr char kReady[] = "ready ";
  if (line->rfind(kReady, 0) != 0) {
    return absl::InternalError(absl::StrCat(program, " said '", *line, "' instead of ready"));
  }
  return Server{*std::move(process), line->substr(sizeof(kReady) - 1)};
}

absl::StatusOr<MemoryUse> Ask(ChildProcess& process, const std::string& command) {
  if (absl::Status sent = process.WriteLine(command); !sent.ok()) return sent;
  const absl::StatusOr<std::string> line = Listen(process, kIdleTimeout);
  if (!line.ok()) return line.status();
  return MemoryUse::Decode(*line);
}

// Memory that is given back a moment after the last call is not held while idle: asks until two
// answers are equal, at most two seconds.
absl::StatusOr<MemoryUse> AskUntilStill(ChildProcess& process) {
  absl::StatusOr<MemoryUse> last = Ask(process, "memory");
  for (int i = 0; last.ok() && i < 10; ++i) {
    ::poll(nullptr, 0, 200);
    const absl::StatusOr<MemoryUse> next = Ask(process, "memory");
    if (!next.ok() ||
        (next->heap_bytes == last->heap_bytes && next->anonymous_bytes == last->anonymous_bytes)) {
      return next;
    }
    last = next;
  }
  return last;
}

MemoryUse Share(const MemoryUse& before, const MemoryUse& after, int connections) {
  return {.heap_bytes = (after.heap_bytes - before.heap_bytes) / connections,
          .anonymous_bytes = (after.anonymous_bytes - before.anonymous_bytes) / connections};
}

}  // namespace

absl::StatusOr<CallFigures> MeasureCalls(const std::string& program, const Workload& workload,
                                         const CpuSets& cpus, ResultMemory& memory) {
  absl::StatusOr<Server> server = StartServer(program, "serve", workload, cpus.server);
  if (!server.ok()) return server.status();
  memory.header() = {};
  absl::StatusOr<ChildProcess> client =
      ChildProcess::Start({.argv = {program, "call", workload.Encode(), server->address,
                                    absl::StrCat(server->process.pid())},
                           .cpus = cpus.client,
                           .result_fd = memory.fd()});
  if (!client.ok()) return client.status();
  const absl::Duration limit =
      absl::Nanoseconds(workload.warmup_ns + workload.measure_ns) + kRunSlack;
  const absl::StatusOr<std::string> line = Listen(*client, limit);
  if (!line.ok()) return line.status();
  const ResultHeader& header = memory.header();
  if (*line != "done" || header.calls == 0 || header.stored > kLatenciesMax) {
    return absl::InternalError(absl::StrCat(program, " said '", *line, "' after ", header.calls,
                                            " calls; nothing can be made of that"));
  }
  const auto latencies = memory.latencies().first(header.stored);
  const auto calls = static_cast<double>(header.calls);
  return CallFigures{.calls = header.calls,
                     .p50_ns = static_cast<double>(QuantileInPlace(latencies, 0.5)),
                     .p99_ns = static_cast<double>(QuantileInPlace(latencies, 0.99)),
                     .per_call_ns = static_cast<double>(header.elapsed_ns) / calls,
                     .client_cpu_ns = static_cast<double>(header.client_cpu_ns) / calls,
                     .server_cpu_ns = static_cast<double>(header.server_cpu_ns) / calls};
}

absl::StatusOr<IdleFigures> MeasureIdleConnections(const std::string& program, int connections) {
  absl::StatusOr<Server> server =
      StartServer(program, "serve-watched", {.waiting = Waiting::kDefault}, {});
  if (!server.ok()) return server.status();
  absl::StatusOr<ChildProcess> client =
      ChildProcess::Start({.argv = {program, "idle", server->address}, .cpus = {}});
  if (!client.ok()) return client.status();
  MemoryUse client_use[2];
  MemoryUse server_use[2];
  for (int lot = 0; lot < 2; ++lot) {
    const int count = lot == 0 ? kFirstLot : connections;
    const absl::StatusOr<MemoryUse> opened = Ask(*client, absl::StrCat("open ", count));
    if (!opened.ok()) return opened.status();
    const absl::StatusOr<MemoryUse> at_server = AskUntilStill(server->process);
    if (!at_server.ok()) return at_server.status();
    const absl::StatusOr<MemoryUse> at_client = AskUntilStill(*client);
    if (!at_client.ok()) return at_client.status();
    client_use[lot] = *at_client;
    server_use[lot] = *at_server;
  }
  return IdleFigures{.connections = connections,
                     .client = Share(client_use[0], client_use[1], connections),
                     .server = Share(server_use[0], server_use[1], connections)};
}

}  // namespace mi7::bench
