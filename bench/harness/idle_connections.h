#pragma once

// What connections cost while nothing happens on them.

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "bench/harness/child_process.h"
#include "bench/harness/memory_use.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

struct IdleFigures {
  int connections = 0;
  MemoryUse client = {};  // a connection's share
  MemoryUse server = {};
  double wakeups_per_s = 0;  // of all threads of both processes together
};

// A client and a server with connections that each have made one call and are idle since. Both end
// with it. Not thread-safe.
class IdleConnections {
 public:
  // Opens a first lot of connections, so that what is paid once is paid, then `connections` more.
  static absl::StatusOr<IdleConnections> Open(const std::string& program, const Workload& workload,
                                              int connections);

  // Of both processes since this was called last, which is `watch_ms` ago at least: otherwise it
  // waits until then. The first time it watches for so long, and once or twice more where there
  // were any: what was set for after the last calls is over then.
  absl::StatusOr<double> WakeupsPerSecond(int watch_ms);

  // What the connections after the first lot added, divided by them. To be asked is a wakeup, so
  // WakeupsPerSecond is not called afterwards.
  absl::StatusOr<IdleFigures> Memory();

 private:
  struct Look {
    int64_t wakeups = 0;
    int64_t time_ns = 0;
  };

  IdleConnections(ChildProcess server, ChildProcess client, int connections)
      : server_(std::move(server)), client_(std::move(client)), connections_(connections) {}

  absl::Status OpenLot(int count, MemoryUse* client_use, MemoryUse* server_use);
  absl::StatusOr<Look> LookNow() const;

  ChildProcess server_;
  ChildProcess client_;
  int connections_ = 0;
  MemoryUse client_first_;  // with the first lot
  MemoryUse server_first_;
  Look last_;  // time_ns == 0: nobody has looked
};

// The memory of connections that are opened for it, rest for a while, and are closed.
absl::StatusOr<IdleFigures> MeasureIdleMemory(const std::string& program, const Workload& workload,
                                              int connections);

}  // namespace mi7::bench
