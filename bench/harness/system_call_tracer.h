#pragma once

// Counts the system calls of processes while they are measured, with ptrace: outside of timed
// rounds, because each one costs a stop and a start there. It sees all, and makes those slow who
// wait: who polls offers its CPU then, which is a system call more. So it tells the truth only of
// who sleeps; the others count themselves (subjects/counting_system_calls.cc).

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <future>
#include <thread>

#include "absl/status/status.h"
#include "bench/harness/result.h"

namespace mi7::bench {

struct SystemCallCounts {
  uint64_t all = 0;
  // Those that wake somebody: system_call_kinds.h.
  uint64_t wakes = 0;
};

// Thread-compatible.
class SystemCallTracer {
 public:
  // Traces all threads, also later ones, of `client` and `server`, children of this process, until
  // the client ends. Counts while header.measuring says so; `header` must outlive this.
  SystemCallTracer(pid_t client, pid_t server, const ResultHeader& header);
  // Waits until the client has ended: end it first.
  ~SystemCallTracer();
  SystemCallTracer(const SystemCallTracer&) = delete;
  SystemCallTracer& operator=(const SystemCallTracer&) = delete;

  // Waits until both are being traced. PERMISSION_DENIED where the system does not let us.
  absl::Status Attached();
  // Waits until the client has ended.
  void Join();

  // After Join.
  const SystemCallCounts& client() const { return counts_[0]; }
  const SystemCallCounts& server() const { return counts_[1]; }

 private:
  void Run();
  absl::Status Attach(pid_t process);
  // Whether the client goes on.
  bool Handle(pid_t thread, int status);
  void Count(pid_t thread);

  const pid_t client_;
  const pid_t server_;
  const ResultHeader& header_;
  std::array<SystemCallCounts, 2> counts_;
  std::promise<absl::Status> attached_;
  std::future<absl::Status> is_attached_ = attached_.get_future();
  // Who traces is a thread, not a process; when it ends all are let go.
  std::thread tracer_;
};

}  // namespace mi7::bench
