#pragma once

// One measurement: a fresh server process, a fresh client process, one stretch of calls.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "bench/harness/memory_use.h"
#include "bench/harness/placement.h"
#include "bench/harness/result.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

struct CallFigures {
  uint64_t calls = 0;
  double p50_ns = 0;  // of one call, from sending it to having its answer
  double p99_ns = 0;
  double per_call_ns = 0;    // the measured stretch divided by the calls answered in it
  double client_cpu_ns = 0;  // CPU time a call, all threads of that process
  double server_cpu_ns = 0;
};

// Runs `workload` once against the subject that `program` is. `memory` is scratch. Fails with what
// went wrong and where; its processes are gone when it returns.
absl::StatusOr<CallFigures> MeasureCalls(const std::string& program, const Workload& workload,
                                         const CpuSets& cpus, ResultMemory& memory);

// User memory that one idle connection holds.
struct IdleFigures {
  int connections = 0;
  MemoryUse client;  // a connection's share
  MemoryUse server;
};

// Opens a first lot of connections, so that what is paid once is paid, then `connections` more, and
// divides what that added. Each has made one call before it is left idle.
absl::StatusOr<IdleFigures> MeasureIdleConnections(const std::string& program, int connections);

}  // namespace mi7::bench
