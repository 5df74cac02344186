#include "tests/shm_kill/zygote.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/deadline.h"
#include "tests/shm_kill/shared.h"

namespace mi7::shm_kill {
namespace {

enum class Command : uint32_t { kStart, kReap, kStep, kCanTrace };

struct Request {
  Command command;
  Order order;
  int64_t value;  // kReap: the process; kStep: instructions
};

struct Answer {
  int64_t value;
  Stepped stepped;
};

void EndWithParent(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
}

pid_t Fork(const std::function<void()>& live) {
  const pid_t parent = ::getpid();
  const pid_t process = ::fork();
  MI7_CHECK(process >= 0, "a process can be forked");
  if (process == 0) {
    EndWithParent(parent);
    live();
    ::_exit(0);
  }
  return process;
}

int WaitFor(pid_t process) {
  int status = -1;
  MI7_CHECK(::waitpid(process, &status, 0) == process, "the process is a child");
  return status;
}

// Where each whole window went: the address of every instruction, by role.
std::map<uint32_t, std::vector<uint64_t>>& Traces() {
  static auto& traces = *new std::map<uint32_t, std::vector<uint64_t>>;
  return traces;
}

uint64_t AddressNow(pid_t process) {
  return static_cast<uint64_t>(
      ::ptrace(PTRACE_PEEKUSER, process, offsetof(user, regs.rip), nullptr));
}

// Waits for the process to stop by a trap; false when it stopped or ended otherwise.
bool Trapped(pid_t process, int& status) {
  status = WaitFor(process);
  return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

// Lets a process run, at full speed, to where it is after `instructions` as its predecessor took
// them, which a breakpoint of the processor tells. Far faster than steps. False: it must be
// stepped.
bool RunTo(pid_t process, const std::vector<uint64_t>& trace, uint64_t instructions,
           Stepped& stepped, int& status) {
  if (instructions == 0 || instructions >= trace.size()) return false;
  const uint64_t address = trace[instructions];
  // A repeated instruction stays where it is, and is passed once by breakpoints.
  uint64_t passes = 0;
  uint64_t repeats = 0;
  for (uint64_t i = 1; i <= instructions; ++i) {
    const bool repeated = trace[i] == trace[i - 1];
    repeats = repeated ? repeats + 1 : 0;
    passes += trace[i] == address && !repeated ? 1 : 0;
  }
  if (passes == 0) return false;
  constexpr uint64_t kExecute0 = 1;  // of debug register 7: breakpoint 0, on execution
  if (::ptrace(PTRACE_POKEUSER, process, offsetof(user, u_debugreg[0]), address) != 0 ||
      ::ptrace(PTRACE_POKEUSER, process, offsetof(user, u_debugreg[7]), kExecute0) != 0) {
    return false;
  }
  for (uint64_t i = 0; i < passes + repeats; ++i) {
    const auto how = i < passes ? PTRACE_CONT : PTRACE_SINGLESTEP;
    if (i == passes) ::ptrace(PTRACE_POKEUSER, process, offsetof(user, u_debugreg[7]), 0);
    if (::ptrace(how, process, nullptr, nullptr) != 0 || !Trapped(process, status)) {
      // It went another way, and has come to the end of the window; or it has ended.
      stepped.well = WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
      return true;
    }
  }
  stepped.instructions = instructions;
  return true;
}

Stepped StepThrough(pid_t process, uint32_t role, uint64_t instructions) {
  Stepped stepped;
  int status = WaitFor(process);
  stepped.well = WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
  // Tracer and traced take turns; on two CPUs each turn would wait for one to wake up.
  cpu_set_t before;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(std::max(0, ::sched_getcpu())), &one);
  const bool pinned = ::sched_getaffinity(0, sizeof(before), &before) == 0 &&
                      ::sched_setaffinity(0, sizeof(one), &one) == 0 &&
                      ::sched_setaffinity(process, sizeof(one), &one) == 0;
  const std::atomic<bool>& over = SharedState().board.window_over;
  if (!stepped.well || !RunTo(process, Traces()[role], instructions, stepped, status)) {
    std::vector<uint64_t> trace{AddressNow(process)};
    while (stepped.well && stepped.instructions < instructions && !over.load()) {
      if (::ptrace(PTRACE_SINGLESTEP, process, nullptr, nullptr) != 0) {
        stepped.well = false;
        break;
      }
      stepped.well = Trapped(process, status);
      ++stepped.instructions;
      trace.push_back(AddressNow(process));
    }
    if (over.load()) Traces()[role] = std::move(trace);
  }
  stepped.over = over.load();
  SharedState().board.killed_at_ns.store(MonotonicNanos());
  ::kill(process, SIGKILL);
  // A traced process may report another stop first.
  while (WIFSTOPPED(status)) status = WaitFor(process);
  if (pinned) ::sched_setaffinity(0, sizeof(before), &before);
  return stepped;
}

void Serve(int socket, const std::function<void(const Order&)>& live) {
  Request request;
  while (::recv(socket, &request, sizeof(request), 0) == sizeof(request)) {
    Answer answer{};
    const auto begin = [&] {
      return Fork([&] {
        ::close(socket);
        live(request.order);
      });
    };
    switch (request.command) {
      case Command::kStart:
        answer.value = begin();
        break;
      case Command::kReap:
        answer.value = WaitFor(static_cast<pid_t>(request.value));
        break;
      case Command::kStep:
        answer.stepped =
            StepThrough(begin(), request.order.role, static_cast<uint64_t>(request.value));
        break;
      case Command::kCanTrace: {
        const pid_t process = Fork([] { Zygote::StepFromHere(); });
        int status = WaitFor(process);
        answer.value = WIFSTOPPED(status) && ::ptrace(PTRACE_SINGLESTEP, process, 0, 0) == 0;
        ::kill(process, SIGKILL);
        while (WIFSTOPPED(status)) status = WaitFor(process);
        break;
      }
    }
    MI7_CHECK(::send(socket, &answer, sizeof(answer), MSG_NOSIGNAL) == sizeof(answer),
              "the test listens");
  }
}

Answer Ask(int socket, const Request& request) {
  Answer answer;
  MI7_CHECK(::send(socket, &request, sizeof(request), MSG_NOSIGNAL) == sizeof(request) &&
                ::recv(socket, &answer, sizeof(answer), 0) == sizeof(answer),
            "the zygote lives");
  return answer;
}

}  // namespace

Zygote::Zygote(std::function<void(const Order&)> live) {
  int sockets[2];
  MI7_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
  SharedState();  // the same memory in all processes
  zygote_ = Fork([&] {
    ::close(sockets[0]);
    // What processes leave when they are killed is ours to reap.
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    Serve(sockets[1], live);
  });
  ::close(sockets[1]);
  socket_ = sockets[0];
}

Zygote::~Zygote() {
  ::close(socket_);
  ::kill(zygote_, SIGKILL);
  WaitFor(zygote_);
}

pid_t Zygote::Start(const Order& order) {
  return static_cast<pid_t>(Ask(socket_, {Command::kStart, order, 0}).value);
}

int Zygote::Reap(pid_t process) {
  return static_cast<int>(Ask(socket_, {Command::kReap, {}, process}).value);
}

int Zygote::Kill(pid_t process) {
  ::kill(process, SIGKILL);
  return Reap(process);
}

Stepped Zygote::Step(const Order& order, uint64_t instructions) {
  SharedState().board.window_over.store(false);
  return Ask(socket_, {Command::kStep, order, static_cast<int64_t>(instructions)}).stepped;
}

bool Zygote::CanTrace() {
  if (Ask(socket_, {Command::kCanTrace, {}, 0}).value != 0) return true;
  std::printf("NOTICE: ptrace is not permitted here: nothing was killed between instructions\n");
  return false;
}

void Zygote::StepToHere() {
  SharedState().board.window_over.store(true);
  ::raise(SIGSTOP);
}

void Zygote::StepFromHere() {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
  ::raise(SIGSTOP);
}

}  // namespace mi7::shm_kill
