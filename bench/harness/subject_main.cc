// The program of a subject. Its command line, written by the bench only:
//
//   PROGRAM serve WORKLOAD               says "ready ADDRESS", then serves
//   PROGRAM serve-watched WORKLOAD       the same, and answers "memory" with its memory use
//   PROGRAM call WORKLOAD ADDRESS PID    makes the calls, fills the result memory, says "done"
//   PROGRAM idle ADDRESS                 answers "open N" and "memory" with its memory use
//
// Each says "error WHY" when it gives up.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/child_process.h"
#include "bench/harness/memory_use.h"
#include "bench/harness/recorder.h"
#include "bench/harness/result.h"
#include "bench/harness/subject.h"
#include "bench/harness/workload.h"

namespace mi7::bench {
namespace {

void Say(const std::string& line) {
  const std::string text = line + "\n";
  if (::send(kChildControlFd, text.data(), text.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(text.size())) {
    ::_exit(1);  // nobody listens any more
  }
}

// The next line from the bench; nullopt when it has closed its end.
std::optional<std::string> Hear() {
  std::string line;
  char next = 0;
  while (::recv(kChildControlFd, &next, 1, 0) == 1) {
    if (next == '\n') return line;
    line.push_back(next);
  }
  return std::nullopt;
}

// Tells the bench why this process gives up; the line is what a person will read in the table.
int Fail(const absl::Status& status) {
  std::string message(status.message());
  std::replace(message.begin(), message.end(), '\n', ' ');
  Say(absl::StrCat("error ", message));
  return 1;
}

void SayMemory() {
  const absl::StatusOr<MemoryUse> use = ReadMemoryUse();
  if (!use.ok()) ::_exit(Fail(use.status()));
  Say(use->Encode());
}

// CPU time of `clock` in nanoseconds; 0 when the process is gone.
int64_t CpuNanos(clockid_t clock) {
  timespec time = {};
  if (::clock_gettime(clock, &time) != 0) return 0;
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

int Serve(Subject& subject, const Workload& workload, bool watched) {
  std::thread watcher;
  const absl::Status ended = subject.Serve(workload, [&](const std::string& address) {
    Say(absl::StrCat("ready ", address));
    if (!watched) return;
    watcher = std::thread([] {
      while (const std::optional<std::string> command = Hear()) SayMemory();
      ::_exit(0);
    });
  });
  // A joinable thread must not be destroyed, and the watcher ends only with the process.
  ::_exit(Fail(ended));
}

struct CpuTimes {
  ResultHeader* header;
  clockid_t server;
};

int Call(Subject& subject, const Workload& workload, const std::string& address, pid_t server) {
  absl::StatusOr<ResultMemory> memory = ResultMemory::Open(kChildResultFd);
  if (!memory.ok()) return Fail(memory.status());
  CpuTimes times = {.header = &memory->header(), .server = {}};
  if (::clock_getcpuclockid(server, &times.server) != 0) {
    return Fail(absl::UnavailableError("the server process is gone"));
  }
  Recorder recorder(
      workload, memory->latencies(),
      [](void* context) {
        auto& at_begin = *static_cast<CpuTimes*>(context);
        at_begin.header->client_cpu_ns = -CpuNanos(CLOCK_PROCESS_CPUTIME_ID);
        at_begin.header->server_cpu_ns = -CpuNanos(at_begin.server);
      },
      [](void* context) {
        auto& at_end = *static_cast<CpuTimes*>(context);
        at_end.header->client_cpu_ns += CpuNanos(CLOCK_PROCESS_CPUTIME_ID);
        at_end.header->server_cpu_ns += CpuNanos(at_end.server);
      },
      &times);
  const absl::Status made = subject.MakeCalls(address, workload, recorder);
  if (!made.ok()) return Fail(made);
  if (!recorder.done()) return Fail(absl::InternalError("the subject stopped before its time"));
  memory->header().calls = recorder.calls();
  memory->header().stored = recorder.stored();
  memory->header().elapsed_ns = recorder.elapsed_ns();
  Say("done");
  return 0;
}

int Idle(Subject& subject, const std::string& address) {
  while (const std::optional<std::string> command = Hear()) {
    std::string_view rest = *command;
    int count = 0;
    if (rest.substr(0, 5) == "open ") {
      if (!absl::SimpleAtoi(std::string(rest.substr(5)), &count)) return 2;
      const absl::Status opened = subject.OpenIdleConnections(address, count);
      if (!opened.ok()) return Fail(opened);
    }
    SayMemory();
  }
  // Without destructors: closing thousands of connections in order is not what is measured.
  ::_exit(0);
}

}  // namespace

int RunSubject(int argc, char** argv, Subject& subject) {
  // Again, for whoever starts the program otherwise; the bench has asked for it already.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string_view role = argc > 1 ? argv[1] : "";
  if (role == "idle" && argc == 3) return Idle(subject, argv[2]);
  const absl::StatusOr<Workload> workload = Workload::Decode(argc > 2 ? argv[2] : "");
  if (role == "serve" && argc == 3 && workload.ok()) return Serve(subject, *workload, false);
  if (role == "serve-watched" && argc == 3 && workload.ok()) return Serve(subject, *workload, true);
  pid_t server = 0;
  if (role == "call" && argc == 5 && workload.ok() && absl::SimpleAtoi(argv[4], &server)) {
    return Call(subject, *workload, argv[3], server);
  }
  std::fprintf(stderr, "%s is started by the bench: run tools/bench\n", argv[0]);
  return 2;
}

}  // namespace mi7::bench
