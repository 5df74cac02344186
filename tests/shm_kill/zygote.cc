#include "tests/shm_kill/zygote.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/deadline.h"
#include "base/tracing_testing.h"
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

constexpr uint64_t kExecute0 = 1;  // of debug register 7: breakpoint 0, on execution

uint64_t AddressNow(pid_t process) {
  return static_cast<uint64_t>(
      ::ptrace(PTRACE_PEEKUSER, process, offsetof(user, regs.rip), nullptr));
}

// Waits for the process to stop by a trap; false when it stopped or ended otherwise.
bool Trapped(pid_t process, int& status) {
  status = WaitFor(process);
  return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

[[gnu::noinline]] void Nowhere() { asm volatile(""); }

// Whether the processor's breakpoints stop a process: some virtual machines take them, and nothing
// happens.
bool BreakpointsWork() {
  const pid_t process = Fork([] {
    Zygote::StepFromHere();
    Nowhere();
    ::raise(SIGSTOP);
  });
  int status = WaitFor(process);
  const bool work =
      WIFSTOPPED(status) &&
      ::ptrace(PTRACE_POKEUSER, process, offsetof(user, u_debugreg[0]), &Nowhere) == 0 &&
      ::ptrace(PTRACE_POKEUSER, process, offsetof(user, u_debugreg[7]), kExecute0) == 0 &&
      ::ptrace(PTRACE_CONT, process, nullptr, nullptr) == 0 && Trapped(process, status);
  ::kill(process, SIGKILL);
  while (WIFSTOPPED(status)) status = WaitFor(process);
  return work;
}

// Lets a process run, at full speed, to where it is after `instructions` as its predecessor took
// them, which a breakpoint of the processor tells. Far faster than steps. False: it must be
// stepped.
bool RunTo(pid_t process, const std::vector<uint64_t>& trace, uint64_t instructions,
           Stepped& stepped, int& status) {
  static const bool breakpoints_work = BreakpointsWork();
  if (!breakpoints_work || instructions == 0 || instructions >= trace.size()) return false;
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

// What outlives a stopped process: the memory that it writes and its peer reads.
class Outliving {
 public:
  explicit Outliving(pid_t process) : memory_(Open(process, "mem")), process_(process) {
    std::ifstream maps(absl::StrCat("/proc/", process, "/maps"));
    for (std::string line; std::getline(maps, line);) {
      uint64_t from = 0, to = 0;
      char rights[5];
      if (line.find("memfd:mi7-control") != std::string::npos &&
          std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, rights) == 3 && rights[1] == 'w') {
        parts_.push_back({memory_, from, to - from});
      }
    }
    DIR* const folder = ::opendir(absl::StrCat("/proc/", process, "/fd").c_str());
    while (const dirent* const entry = ::readdir(folder)) {
      const std::string name = absl::StrCat("fd/", entry->d_name);
      std::array<char, 64> target{};
      const std::string path = absl::StrCat("/proc/", process, "/", name);
      if (::readlink(path.c_str(), target.data(), target.size() - 1) <= 0 ||
          std::strncmp(target.data(), "/memfd:mi7-slots", 16) != 0) {
        continue;
      }
      // By its descriptor, because reading it where it is mapped would commit pages.
      const int fd = Open(process, name.c_str());
      parts_.push_back({fd, 0, static_cast<uint64_t>(::lseek(fd, 0, SEEK_END))});
    }
    ::closedir(folder);
    MI7_CHECK(!parts_.empty(), "a process in a window has a control page");
    Changed();
  }
  ~Outliving() {
    for (const Part& part : parts_) {
      if (part.fd != memory_) ::close(part.fd);
    }
    ::close(memory_);
  }
  // Since the last time.
  bool Changed() {
    std::vector<char> now;
    for (const Part& part : parts_) {
      const size_t at = now.size();
      now.resize(at + part.bytes);
      MI7_CHECK(::pread(part.fd, now.data() + at, part.bytes, static_cast<off_t>(part.from)) ==
                    static_cast<ssize_t>(part.bytes),
                "the process is stopped");
    }
    const bool changed = now != last_;
    last_ = std::move(now);
    return changed;
  }
  // Whether the next instruction is a system call.
  bool AtSystemCall() const {
    const auto word =
        static_cast<uint64_t>(::ptrace(PTRACE_PEEKTEXT, process_, AddressNow(process_), nullptr));
    return (word & 0xffff) == 0x050f;
  }

 private:
  struct Part {
    int fd;
    uint64_t from;
    uint64_t bytes;
  };
  static int Open(pid_t process, const char* name) {
    const int fd = ::open(absl::StrCat("/proc/", process, "/", name).c_str(), O_RDONLY | O_CLOEXEC);
    MI7_CHECK(fd >= 0, "who traces a process may read it");
    return fd;
  }

  const int memory_;
  const pid_t process_;
  std::vector<Part> parts_;
  std::vector<char> last_;
};

Stepped StepThrough(pid_t process, const Order& order, uint64_t instructions) {
  const uint32_t role = order.role;
  const bool record = order.variant == kRecordChanges;
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
  if (!stepped.well || record || !RunTo(process, Traces()[role], instructions, stepped, status)) {
    std::vector<uint64_t> trace{AddressNow(process)};
    std::optional<Outliving> outliving;
    if (record && stepped.well) outliving.emplace(process);
    Changes& changes = SharedState().changes;
    if (record) changes.count.store(0);
    while (stepped.well && stepped.instructions < instructions && !over.load()) {
      const bool asks = outliving && outliving->AtSystemCall();
      if (::ptrace(PTRACE_SINGLESTEP, process, nullptr, nullptr) != 0) {
        stepped.well = false;
        break;
      }
      stepped.well = Trapped(process, status);
      ++stepped.instructions;
      trace.push_back(AddressNow(process));
      if (outliving && stepped.well && (outliving->Changed() || asks)) {
        const uint32_t count = changes.count.load();
        MI7_CHECK(count < changes.after.size(), "there is room for what changes");
        changes.after[count] = static_cast<uint32_t>(stepped.instructions);
        changes.count.store(count + 1);
      }
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
        answer.stepped = StepThrough(begin(), request.order, static_cast<uint64_t>(request.value));
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
  return TracingIsPermitted(Ask(socket_, {Command::kCanTrace, {}, 0}).value != 0);
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
