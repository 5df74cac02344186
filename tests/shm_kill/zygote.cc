#include "tests/shm_kill/zygote.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

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

Stepped StepThrough(pid_t process, uint64_t instructions) {
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
  while (stepped.well && stepped.instructions < instructions && !over.load()) {
    if (::ptrace(PTRACE_SINGLESTEP, process, nullptr, nullptr) != 0) {
      stepped.well = false;
      break;
    }
    status = WaitFor(process);
    stepped.well = WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
    ++stepped.instructions;
  }
  stepped.over = over.load();
  SharedState().board.killed_at_ns.store(MonotonicNanos());
  ::kill(process, SIGKILL);
  if (WIFSTOPPED(status)) {
    // A traced process may report another stop first.
    do {
      status = WaitFor(process);
    } while (WIFSTOPPED(status));
  }
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
        answer.stepped = StepThrough(begin(), static_cast<uint64_t>(request.value));
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

void Zygote::StepFromHere() {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
  ::raise(SIGSTOP);
}

}  // namespace mi7::shm_kill
