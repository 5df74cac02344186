#pragma once

// Starts a program, talks with it in lines, and leaves nothing behind: the child is killed and
// reaped by the destructor, and dies by itself (PR_SET_PDEATHSIG) when this process does, however
// that happens.

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/deadline.h"

namespace mi7::bench {

// File descriptors a child finds open.
inline constexpr int kChildControlFd = 3;  // a stream socket: lines in both directions
inline constexpr int kChildResultFd = 4;   // Options::result_fd, when given

// Thread-compatible. The thread that calls Start must outlive the child (the death signal follows
// the thread).
class ChildProcess {
 public:
  struct Options {
    std::vector<std::string> argv;  // argv[0] is the program's path
    std::vector<int> cpus = {};     // where it may run; empty: as this process
    int result_fd = -1;             // given to the child as kChildResultFd; stays the caller's
  };

  // UNAVAILABLE when the system refuses the process, FAILED_PRECONDITION when the program cannot be
  // executed or pinned; both name it.
  static absl::StatusOr<ChildProcess> Start(const Options& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  // The next line the child writes, without its line feed. DEADLINE_EXCEEDED; UNAVAILABLE when the
  // child closed its end, with how it ended.
  absl::StatusOr<std::string> ReadLine(Deadline deadline);
  absl::Status WriteLine(const std::string& line);

  // CPU time of all that were started by this process and not reaped yet. Thread-safe.
  static double LivingCpuSeconds();

  pid_t pid() const { return pid_; }

  // Kills (SIGKILL) and reaps it; afterwards its CPU time is in RUSAGE_CHILDREN. May be repeated.
  void Kill();

 private:
  ChildProcess(std::string name, pid_t pid, int control_fd)
      : name_(std::move(name)), pid_(pid), control_fd_(control_fd) {}
  absl::Status Ended();

  std::string name_;
  pid_t pid_ = -1;
  int control_fd_ = -1;
  std::string unread_;
};

}  // namespace mi7::bench
