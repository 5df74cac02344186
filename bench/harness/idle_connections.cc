#include "bench/harness/idle_connections.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "bench/harness/child_process.h"
#include "bench/harness/conversation.h"

namespace mi7::bench {
namespace {

constexpr int kFirstLot = 128;
constexpr int kStillPollMs = 100;
// What was set for after the last calls runs out in the first of them.
constexpr int kWatches = 3;

// Memory that is given back a moment after the last call is not held while idle: asks until two
// answers are equal, at most two seconds.
absl::StatusOr<MemoryUse> AskUntilStill(ChildProcess& process) {
  absl::StatusOr<MemoryUse> last = AskMemory(process, "memory");
  for (int i = 0; last.ok() && i < 20; ++i) {
    ::poll(nullptr, 0, kStillPollMs);
    const absl::StatusOr<MemoryUse> next = AskMemory(process, "memory");
    if (!next.ok() || *next == *last) return next;
    last = next;
  }
  return last;
}

MemoryUse Share(const MemoryUse& before, const MemoryUse& after, int connections) {
  return {.heap_bytes = (after.heap_bytes - before.heap_bytes) / connections,
          .anonymous_bytes = (after.anonymous_bytes - before.anonymous_bytes) / connections,
          .shared_bytes = (after.shared_bytes - before.shared_bytes) / connections};
}

absl::StatusOr<double> WakeupsPerSecond(const ChildProcess& client, const ChildProcess& server,
                                        int watch_ms) {
  int64_t counts[2] = {0, 0};
  int64_t begin_ns = 0;
  for (int64_t& count : counts) {
    if (begin_ns == 0) {
      begin_ns = MonotonicNanos();
    } else {
      ::poll(nullptr, 0, watch_ms);
    }
    for (const ChildProcess* process : {&client, &server}) {
      const absl::StatusOr<int64_t> wakeups = CountWakeups(process->pid());
      if (!wakeups.ok()) return wakeups.status();
      count += *wakeups;
    }
  }
  const double seconds = 1e-9 * static_cast<double>(MonotonicNanos() - begin_ns);
  return static_cast<double>(counts[1] - counts[0]) / seconds;
}

}  // namespace

absl::StatusOr<IdleFigures> MeasureIdleConnections(const std::string& program,
                                                   const Workload& workload, int connections,
                                                   int watch_ms) {
  absl::StatusOr<ChildProcess> server =
      ChildProcess::Start({.argv = {program, "serve-watched", workload.Encode()}});
  if (!server.ok()) return server.status();
  const absl::StatusOr<std::string> address = ListenForAddress(*server);
  if (!address.ok()) return address.status();
  absl::StatusOr<ChildProcess> client = ChildProcess::Start({.argv = {program, "idle", *address}});
  if (!client.ok()) return client.status();
  MemoryUse client_use[2];
  MemoryUse server_use[2];
  for (int lot = 0; lot < 2; ++lot) {
    const int count = lot == 0 ? kFirstLot : connections;
    const absl::StatusOr<MemoryUse> opened = AskMemory(*client, absl::StrCat("open ", count));
    if (!opened.ok()) return opened.status();
    const absl::StatusOr<MemoryUse> at_server = AskUntilStill(*server);
    if (!at_server.ok()) return at_server.status();
    const absl::StatusOr<MemoryUse> at_client = AskUntilStill(*client);
    if (!at_client.ok()) return at_client.status();
    client_use[lot] = *at_client;
    server_use[lot] = *at_server;
  }
  absl::StatusOr<double> wakeups = WakeupsPerSecond(*client, *server, watch_ms);
  for (int i = 1; i < kWatches && wakeups.ok() && *wakeups != 0; ++i) {
    wakeups = WakeupsPerSecond(*client, *server, watch_ms);
  }
  if (!wakeups.ok()) return wakeups.status();
  // Once more, because what looks after connections in use lets go of idle ones after some seconds.
  for (auto& [process, use] :
       {std::pair(&*server, &server_use[1]), std::pair(&*client, &client_use[1])}) {
    const absl::StatusOr<MemoryUse> at_rest = AskMemory(*process, "memory");
    if (!at_rest.ok()) return at_rest.status();
    *use = *at_rest;
  }
  return IdleFigures{.connections = connections,
                     .client = Share(client_use[0], client_use[1], connections),
                     .server = Share(server_use[0], server_use[1], connections),
                     .wakeups_per_s = *wakeups};
}

}  // namespace mi7::bench
