#include "bench/harness/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/harness/placement.h"

namespace mi7::bench {
namespace {

constexpr int kExecFailed = 126;

absl::Status SystemError(const char* call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", std::strerror(errno)));
}

// Those that were started and not reaped.
std::mutex living_mutex;
std::set<pid_t>& Living() {
  static auto* living = new std::set<pid_t>;
  return *living;
}

// Waits until `pid`, which is gone or going, is reaped; gives its status.
int Reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  const std::lock_guard<std::mutex> lock(living_mutex);
  Living().erase(pid);
  return status;
}

// Above the descriptors a child expects, so that placing those never overwrites a source.
int CopyUp(int fd) { return ::fcntl(fd, F_DUPFD_CLOEXEC, 16); }

int MoveUp(int fd) {
  const int moved = CopyUp(fd);
  ::close(fd);
  return moved;
}

// Between fork and exec: only system calls.
[[noreturn]] void BecomeProgram(char* const* argv, const ChildProcess::Options& options,
                                pid_t parent, int control_fd, int result_fd) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kExecFailed);  // it died before the signal was asked for
  rlimit files;
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  if (!PinToCpus(options.cpus) || ::dup2(control_fd, kChildControlFd) < 0 ||
      (result_fd >= 0 && ::dup2(result_fd, kChildResultFd) < 0)) {
    ::_exit(kExecFailed);
  }
  ::execv(argv[0], argv);
  ::_exit(kExecFailed);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const Options& options) {
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return SystemError("socketpair");
  }
  const int ours = MoveUp(sockets[0]);
  const int theirs = MoveUp(sockets[1]);
  const int result_fd = options.result_fd < 0 ? -1 : CopyUp(options.result_fd);
  std::vector<char*> argv;
  for (const std::string& argument : options.argv) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) BecomeProgram(argv.data(), options, parent, theirs, result_fd);
  const absl::Status failed = pid < 0 ? SystemError("fork") : absl::OkStatus();
  ::close(theirs);
  if (result_fd >= 0) ::close(result_fd);
  if (!failed.ok()) {
    ::close(ours);
    return failed;
  }
  {
    const std::lock_guard<std::mutex> lock(living_mutex);
    Living().insert(pid);
  }
  return ChildProcess(options.argv[0], pid, ours);
}

double ChildProcess::LivingCpuSeconds() {
  const std::lock_guard<std::mutex> lock(living_mutex);
  double seconds = 0;
  for (pid_t pid : Living()) {
    clockid_t clock = {};
    timespec time = {};
    if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) continue;
    seconds += static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  return seconds;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)),
      pid_(std::exchange(other.pid_, -1)),
      control_fd_(std::exchange(other.control_fd_, -1)),
      unread_(std::move(other.unread_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(pid_, other.pid_);
  std::swap(control_fd_, other.control_fd_);
  std::swap(unread_, other.unread_);
  return *this;
}

ChildProcess::~ChildProcess() {
  Kill();
  if (control_fd_ >= 0) ::close(control_fd_);
}

void ChildProcess::Kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  Reap(pid_);
  pid_ = -1;
}

absl::Status ChildProcess::Ended() {
  if (pid_ < 0) return absl::UnavailableError(absl::StrCat(name_, " was killed"));
  // It closed its end, so it is gone or going.
  const int status = Reap(pid_);
  pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kExecFailed) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, " could not be executed or pinned; is it built?"));
  }
  if (WIFSIGNALED(status)) {
    return absl::UnavailableError(absl::StrCat(name_, " died of signal ", WTERMSIG(status)));
  }
  return absl::UnavailableError(absl::StrCat(name_, " exited with ", WEXITSTATUS(status)));
}

absl::StatusOr<std::string> ChildProcess::ReadLine(Deadline deadline) {
  for (;;) {
    const size_t end = unread_.find('\n');
    if (end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      return line;
    }
    pollfd poll_fd = {.fd = control_fd_, .events = POLLIN, .revents = 0};
    const int64_t wait_ms = std::min<int64_t>(deadline.remaining_ns() / 1'000'000 + 1, 60'000);
    const int ready = ::poll(&poll_fd, 1, static_cast<int>(wait_ms));
    if (ready < 0 && errno != EINTR) return SystemError("poll");
    if (ready <= 0) {
      if (!deadline.passed()) continue;
      return absl::DeadlineExceededError(absl::StrCat(name_, " did not answer in time"));
    }
    char buffer[512];
    const ssize_t got = ::recv(control_fd_, buffer, sizeof(buffer), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Ended();
    unread_.append(buffer, static_cast<size_t>(got));
  }
}

absl::Status ChildProcess::WriteLine(const std::string& line) {
  const std::string text = line + "\n";
  const ssize_t sent = ::send(control_fd_, text.data(), text.size(), MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(text.size())) return absl::OkStatus();
  if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return Ended();
  return SystemError("send to a child");
}

}  // namespace mi7::bench
