#include "transport/slot_pipe/crash/stepper.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"
#include "base/tracing_testing.h"

namespace mi7::slot_pipe_internal {
namespace {

// Forks a child that is traced and has stopped before `act`; -1 when tracing is not permitted.
pid_t StartTraced(const std::function<void()>& act) {
  const pid_t child = ::fork();
  MI7_CHECK(child >= 0, "a process can be forked");
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
    ::raise(SIGSTOP);
    act();
    ::_exit(0);
  }
  int status;
  MI7_CHECK(::waitpid(child, &status, 0) == child, "a child is waited for");
  return WIFSTOPPED(status) ? child : -1;
}

void Kill(pid_t child) {
  int status;
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
}

uint64_t Step(const std::function<void()>& act, const std::function<bool(uint64_t)>& after) {
  const pid_t child = StartTraced(act);
  MI7_CHECK(child > 0, "tracing is permitted: CanTrace was asked");
  for (uint64_t step = 0;; ++step) {
    MI7_CHECK(::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) == 0, "a child can be stepped");
    int status;
    MI7_CHECK(::waitpid(child, &status, 0) == child, "a child is waited for");
    if (WIFEXITED(status)) {
      MI7_CHECK(WEXITSTATUS(status) == 0, "the child's steps succeed");
      return step;
    }
    MI7_CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP, "the child makes no mistake");
    if (!after(step)) {
      Kill(child);
      return step + 1;
    }
  }
}

}  // namespace

bool CanTrace() {
  const pid_t child = StartTraced([] {});
  if (child >= 0) Kill(child);
  return TracingIsPermitted(child >= 0);
}

uint64_t StepChild(const std::function<void()>& act, const std::function<bool(uint64_t)>& after) {
  // Tracer and child take turns, so a CPU of its own for each would only be slower: by tens of
  // microseconds an instruction, the time that a sleeping CPU takes to wake.
  cpu_set_t before;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(std::max(0, ::sched_getcpu())), &one);
  const bool pinned = ::sched_getaffinity(0, sizeof(before), &before) == 0 &&
                      ::sched_setaffinity(0, sizeof(one), &one) == 0;
  const uint64_t steps = Step(act, after);
  if (pinned) ::sched_setaffinity(0, sizeof(before), &before);
  return steps;
}

}  // namespace mi7::slot_pipe_internal
