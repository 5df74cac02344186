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
constexpr int kRestMs = 500;
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

}  // namespace

absl::StatusOr<IdleConnections> IdleConnections::Open(const std::string& program,
                                                      const Workload& workload, int connections) {
  absl::StatusOr<ChildProcess> server =
      ChildProcess::Start({.argv = {program, "serve-watched", workload.Encode()}});
  if (!server.ok()) return server.status();
  const absl::StatusOr<std::string> address = ListenForAddress(*server);
  if (!address.ok()) return address.status();
  absl::StatusOr<ChildProcess> client = ChildProcess::Start({.argv = {program, "idle", *address}});
  if (!client.ok()) return client.status();
  IdleConnections idle(*std::move(server), *std::move(client), connections);
  absl::Status opened = idle.OpenLot(kFirstLot, &idle.client_first_, &idle.server_first_);
  MemoryUse ignored;
  if (opened.ok()) opened = idle.OpenLot(connections, &ignored, &ignored);
  if (!opened.ok()) return opened;
  return idle;
}

absl::Status IdleConnections::OpenLot(int count, MemoryUse* client_use, MemoryUse* server_use) {
  const absl::StatusOr<MemoryUse> opened = AskMemory(client_, absl::StrCat("open ", count));
  if (!opened.ok()) return opened.status();
  for (const auto& [process, use] :
       {std::pair(&server_, server_use), std::pair(&client_, client_use)}) {
    const absl::StatusOr<MemoryUse> still = AskUntilStill(*process);
    if (!still.ok()) return still.status();
    *use = *still;
  }
  return absl::OkStatus();
}

absl::StatusOr<IdleConnections::Look> IdleConnections::LookNow() const {
  Look look = {.wakeups = 0, .time_ns = MonotonicNanos()};
  for (const ChildProcess* process : {&client_, &server_}) {
    const absl::StatusOr<int64_t> wakeups = CountWakeups(process->pid());
    if (!wakeups.ok()) return wakeups.status();
    look.wakeups += *wakeups;
  }
  return look;
}

absl::StatusOr<double> IdleConnections::WakeupsPerSecond(int watch_ms) {
  const int watches = last_.time_ns == 0 ? kWatches : 1;
  double wakeups_per_s = 0;
  for (int i = 0; i < watches; ++i) {
    if (last_.time_ns == 0) {
      const absl::StatusOr<Look> first = LookNow();
      if (!first.ok()) return first.status();
      last_ = *first;
    }
    const int64_t left_ns = last_.time_ns + int64_t{watch_ms} * 1'000'000 - MonotonicNanos();
    if (left_ns > 0) ::poll(nullptr, 0, static_cast<int>(left_ns / 1'000'000) + 1);
    const absl::StatusOr<Look> now = LookNow();
    if (!now.ok()) return now.status();
    const Look before = std::exchange(last_, *now);
    wakeups_per_s = static_cast<double>(now->wakeups - before.wakeups) * 1e9 /
                    static_cast<double>(now->time_ns - before.time_ns);
    if (wakeups_per_s == 0) break;
  }
  return wakeups_per_s;
}

absl::StatusOr<IdleFigures> IdleConnections::Memory() {
  const absl::StatusOr<MemoryUse> server = AskMemory(server_, "memory");
  if (!server.ok()) return server.status();
  const absl::StatusOr<MemoryUse> client = AskMemory(client_, "memory");
  if (!client.ok()) return client.status();
  return IdleFigures{.connections = connections_,
                     .client = Share(client_first_, *client, connections_),
                     .server = Share(server_first_, *server, connections_)};
}

absl::StatusOr<IdleFigures> MeasureIdleMemory(const std::string& program, const Workload& workload,
                                              int connections) {
  absl::StatusOr<IdleConnections> idle = IdleConnections::Open(program, workload, connections);
  if (!idle.ok()) return idle.status();
  // What looks after connections in use lets go of idle ones after a while.
  ::poll(nullptr, 0, kRestMs);
  return idle->Memory();
}

}  // namespace mi7::bench
