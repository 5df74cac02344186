#include "bench/harness/measure.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "bench/harness/conversation.h"
#include "bench/harness/stats.h"

namespace mi7::bench {
namespace {

// What a run may take beyond its warm-up and its measured stretch.
constexpr absl::Duration kRunSlack = absl::Seconds(20);

uint64_t Served(const ResultMemory& memory) {
  return memory.header().served.load(std::memory_order_relaxed);  // a count
}

double Unfairness(uint64_t most, uint64_t least) {
  return static_cast<double>(most) / static_cast<double>(std::max<uint64_t>(least, 1));
}

CountFigures PerCall(const Counted& counted, double calls) {
  const auto per_call = [calls](uint64_t count) { return static_cast<double>(count) / calls; };
  return {.allocations = per_call(counted.allocations),
          .copied_bytes = per_call(counted.copied_bytes),
          .system_calls = per_call(counted.system_calls),
          .wakes = per_call(counted.wakes),
          .futex_wakes = per_call(counted.futex_wakes),
          .receives = per_call(counted.receives),
          .sends = per_call(counted.sends),
          .polls = per_call(counted.polls),
          .cpu_questions = per_call(counted.cpu_questions),
          .cpu_offers = per_call(counted.cpu_offers)};
}

// The figures of a run that is over.
absl::StatusOr<CallFigures> Figures(const CallSetup& setup, const Scratch& scratch) {
  CallFigures figures;
  double calls_per_ns = 0;
  double client_cpu_ns = 0;
  uint64_t most = 0;
  uint64_t least = UINT64_MAX;
  for (size_t i = 0; i < static_cast<size_t>(setup.clients); ++i) {
    const ResultHeader& header = scratch[i].header();
    if (header.stored > kLatenciesMax || header.elapsed_ns <= 0) {
      return absl::InternalError("its results make no sense");
    }
    figures.calls += header.calls;
    calls_per_ns += static_cast<double>(header.calls) / static_cast<double>(header.elapsed_ns);
    client_cpu_ns += static_cast<double>(header.client_cpu_ns);
    most = std::max(most, header.calls_most);
    least = std::min(least, header.calls_least);
  }
  if (figures.calls == 0) return absl::InternalError("not one call was answered in time");
  figures.unfairness = Unfairness(most, least);
  if (setup.servers > 1) {
    uint64_t served_most = 0;
    uint64_t served_least = UINT64_MAX;
    for (size_t i = 0; i < static_cast<size_t>(setup.servers); ++i) {
      served_most = std::max(served_most, Served(scratch[i]));
      served_least = std::min(served_least, Served(scratch[i]));
    }
    figures.unfairness = std::max(figures.unfairness, Unfairness(served_most, served_least));
  }
  const auto calls = static_cast<double>(figures.calls);
  const ResultHeader& first = scratch[0].header();
  const auto latencies = scratch[0].latencies().first(first.stored);
  std::sort(latencies.begin(), latencies.end());
  for (size_t i = 0; i < kShares.size(); ++i) {
    figures.latencies_ns[i] = QuantileOfSorted(latencies, kShares[i]);
  }
  figures.per_call_ns = 1 / calls_per_ns;
  figures.client_cpu_ns = client_cpu_ns / calls;
  figures.server_cpu_ns = static_cast<double>(first.server_cpu_ns) / calls;
  figures.client_counts = PerCall(first.client_counted, calls);
  figures.server_counts = PerCall(first.server_counted, calls);
  return figures;
}

}  // namespace

absl::StatusOr<Scratch> Scratch::Create() {
  Scratch scratch;
  for (size_t i = 0; i < kProcessesMax; ++i) {
    absl::StatusOr<ResultMemory> memory = ResultMemory::Create();
    if (!memory.ok()) return memory.status();
    scratch.memories_.push_back(*std::move(memory));
  }
  return scratch;
}

absl::StatusOr<ServerGroup> ServerGroup::Start(const CallSetup& setup, const CpuSets& cpus,
                                               const Scratch& scratch) {
  ServerGroup group;
  const std::string workload = setup.workload.Encode();
  for (size_t i = 0; i < static_cast<size_t>(setup.servers); ++i) {
    const int64_t begin_ns = MonotonicNanos();
    scratch[i].Clear();
    ChildProcess::Options options = {.argv = {setup.program, "serve", workload},
                                     .cpus = cpus.server,
                                     .result_fd = scratch[i].fd()};
    if (i > 0) options.argv = {setup.program, "join", workload, group.address_};
    absl::StatusOr<ChildProcess> server = ChildProcess::Start(options);
    if (!server.ok()) return server.status();
    const absl::StatusOr<std::string> address = ListenForAddress(*server);
    if (!address.ok()) return address.status();
    group.servers_.push_back(*std::move(server));
    if (i > 0) continue;
    group.address_ = *address;
    group.start_ns_ = static_cast<double>(MonotonicNanos() - begin_ns);
  }
  if (setup.idle_connections > 0) {
    absl::StatusOr<ChildProcess> idle =
        ChildProcess::Start({.argv = {setup.program, "idle", group.address_}});
    if (!idle.ok()) return idle.status();
    group.idle_ = *std::move(idle);
    const absl::StatusOr<MemoryUse> opened =
        AskMemory(*group.idle_, absl::StrCat("open ", setup.idle_connections));
    if (!opened.ok()) return opened.status();
  }
  return group;
}

absl::Status ServerGroup::Damage(const Scratch& scratch) {
  for (size_t i = 0; i < servers_.size(); ++i) {
    // Relaxed: whoever lost it tells it through its socket next.
    if (scratch[i].header().damaged.load(std::memory_order_relaxed) == 0) continue;
    const absl::Status said = Listen(servers_[i], kStartTimeout).status();
    return absl::DataLossError(absl::StrCat("its server: ", std::string(said.message())));
  }
  return absl::OkStatus();
}

absl::StatusOr<CallFigures> MeasureCalls(const CallSetup& setup, const CpuSets& cpus,
                                         ServerGroup& servers, const Scratch& scratch) {
  const int64_t begin_ns = MonotonicNanos();
  std::vector<ChildProcess> clients;
  for (size_t i = 0; i < static_cast<size_t>(setup.clients); ++i) {
    scratch[i].Clear();
    absl::StatusOr<ChildProcess> client =
        ChildProcess::Start({.argv = {setup.program, "call", setup.workload.Encode(),
                                      servers.address(), absl::StrCat(servers.first().pid())},
                             .cpus = cpus.client,
                             .result_fd = scratch[i].fd()});
    if (!client.ok()) return client.status();
    clients.push_back(*std::move(client));
  }
  // One client goes as soon as it can; several wait for each other.
  const bool together = setup.clients > 1 || setup.trace_system_calls;
  for (ChildProcess& client : clients) {
    absl::Status status = together ? Expect(client, "connected", kStartTimeout) : absl::OkStatus();
    if (!status.ok()) return status;
  }
  std::optional<SystemCallTracer> tracer;
  if (setup.trace_system_calls) {
    tracer.emplace(clients[0].pid(), servers.first().pid(), scratch[0].header());
    // Whatever goes wrong from here on, the clients end before the tracer does.
    if (absl::Status attached = tracer->Attached(); !attached.ok()) {
      for (ChildProcess& client : clients) client.Kill();
      return attached;
    }
  }
  absl::Status status;
  for (ChildProcess& client : clients) status.Update(client.WriteLine("go"));
  const absl::Duration limit =
      absl::Nanoseconds(setup.workload.warmup_ns + setup.workload.measure_ns) + kRunSlack;
  for (ChildProcess& client : clients) {
    if (status.ok() && !together) status = Expect(client, "connected", kStartTimeout);
    if (status.ok()) status = Expect(client, "done", limit);
  }
  // A client cannot know, or waits for what does not come.
  if (absl::Status damage = servers.Damage(scratch); !damage.ok()) status = damage;
  if (!status.ok()) {
    for (ChildProcess& client : clients) client.Kill();
    return status;
  }
  absl::StatusOr<CallFigures> figures = Figures(setup, scratch);
  if (!figures.ok()) return figures;
  figures->server_start_ns = servers.start_ns();
  figures->client_start_ns = static_cast<double>(scratch[0].header().begun_ns - begin_ns);
  if (tracer.has_value()) {
    tracer->Join();
    const auto calls = static_cast<double>(figures->calls);
    figures->client_counts.system_calls = static_cast<double>(tracer->client().all) / calls;
    figures->server_counts.system_calls = static_cast<double>(tracer->server().all) / calls;
    figures->client_counts.wakes = static_cast<double>(tracer->client().wakes) / calls;
  }
  return figures;
}

}  // namespace mi7::bench
