#pragma once

// What connections cost while nothing happens on them.

#include <string>

#include "absl/status/statusor.h"
#include "bench/harness/memory_use.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

struct IdleFigures {
  int connections = 0;
  MemoryUse client;  // a connection's share
  MemoryUse server;
  double wakeups_per_s = 0;  // of all threads of both processes together
};

// Opens a first lot of connections, so that what is paid once is paid, then `connections` more, and
// divides what that added. Each has made one call before it is left idle. Then counts wakeups for
// `watch_ms`.
absl::StatusOr<IdleFigures> MeasureIdleConnections(const std::string& program,
                                                   const Workload& workload, int connections,
                                                   int watch_ms);

}  // namespace mi7::bench
