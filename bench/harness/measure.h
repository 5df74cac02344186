#pragma once

// One measurement of calls: server processes, client processes, one stretch of calls.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/harness/child_process.h"
#include "bench/harness/placement.h"
#include "bench/harness/result.h"
#include "bench/harness/system_call_tracer.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

// Which processes take part.
struct CallSetup {
  std::string program;  // path of the subject's
  Workload workload = {};
  int clients = 1;                  // client processes
  int servers = 1;                  // server processes
  int idle_connections = 0;         // held open by one more process, which does nothing else
  bool trace_system_calls = false;  // counts them with ptrace; else by programs that count
};

// Shares of calls that were faster than what CallFigures::latencies_ns says.
inline constexpr std::array<double, 11> kShares = {0.0,  0.1,  0.25,  0.5,    0.75, 0.9,
                                                   0.95, 0.99, 0.999, 0.9999, 1.0};
inline constexpr size_t kMedianShare = 3;
inline constexpr size_t kP99Share = 7;

// What one side did for a call, where it is counted.
struct CountFigures {
  double allocations = 0;
  double copied_bytes = 0;
  double system_calls = 0;
  double wakes = 0;        // system calls that wake somebody
  double futex_wakes = 0;  // those of them by a futex
  double receives = 0;
  double sends = 0;
  double polls = 0;          // system calls that look whether anything can be received, or wait
  double cpu_questions = 0;  // that ask whether somebody else wants the CPU
  double cpu_offers = 0;     // that offer it
};

struct CallFigures {
  uint64_t calls = 0;
  // Of the first client's calls, from sending one to having its answer, in the order of kShares.
  std::array<double, kShares.size()> latencies_ns = {};
  double per_call_ns = 0;    // the measured stretch divided by the calls answered in it
  double client_cpu_ns = 0;  // CPU time a call, all threads of all clients
  double server_cpu_ns = 0;  // of the first server
  // What the busiest thread, process or server did, divided by what the laziest one did.
  double unfairness = 1;
  // From starting the server's process until it listens, and from starting the client's until the
  // measured stretch begins, which is the first answer when there is no warm-up.
  double server_start_ns = 0;
  double client_start_ns = 0;
  CountFigures client_counts;
  CountFigures server_counts;

  double p50_ns() const { return latencies_ns[kMedianShare]; }
  double p99_ns() const { return latencies_ns[kP99Share]; }
};

// Memory of the measurements, made once; scratch.
class Scratch {
 public:
  static constexpr size_t kProcessesMax = 4;  // clients or servers
  static absl::StatusOr<Scratch> Create();
  const ResultMemory& operator[](size_t i) const { return memories_[i]; }

 private:
  std::vector<ResultMemory> memories_;
};

// The servers of a setup, and who holds the idle connections. They end with it.
class ServerGroup {
 public:
  static absl::StatusOr<ServerGroup> Start(const CallSetup& setup, const CpuSets& cpus,
                                           const Scratch& scratch);
  const std::string& address() const { return address_; }
  const ChildProcess& first() const { return servers_.front(); }
  double start_ns() const { return start_ns_; }
  // DATA_LOSS when a server gave up because of what it was sent, with what it said.
  absl::Status Damage(const Scratch& scratch);

 private:
  std::vector<ChildProcess> servers_;
  std::optional<ChildProcess> idle_;
  std::string address_;
  double start_ns_ = 0;
};

// Runs the calls of `setup` once against `servers`. Fails with what went wrong and where; the
// clients are gone when it returns.
absl::StatusOr<CallFigures> MeasureCalls(const CallSetup& setup, const CpuSets& cpus,
                                         ServerGroup& servers, const Scratch& scratch);

}  // namespace mi7::bench
