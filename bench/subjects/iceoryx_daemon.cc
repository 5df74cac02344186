#include "bench/subjects/iceoryx_daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "bench/harness/child_process.h"
#include "iceoryx_hoofs/log/logmanager.hpp"
#include "iceoryx_posh/internal/roudi/roudi.hpp"
#include "iceoryx_posh/roudi/iceoryx_roudi_components.hpp"

namespace mi7::bench {
namespace {

// What libiceoryx has it at; its build decides.
constexpr char kDirectory[] = "/tmp/";

// The one of the run before ends about 130 ms after its server.
constexpr absl::Duration kOtherTimeout = absl::Seconds(5);
constexpr timespec kPause = {.tv_sec = 0, .tv_nsec = 5'000'000};

constexpr size_t kSmallBytes = 256;
constexpr uint32_t kSmallMessages = 512;
// Written, in the queue, read, and the answer's; with room to spare.
constexpr uint32_t kLargeMessages = 16;

std::string LockPath() {
  return absl::StrCat(kDirectory, static_cast<const char*>(iox::roudi::ROUDI_LOCK_NAME), ".lock");
}

// Whether another one has the lock.
bool OtherRuns() {
  const int fd = ::open(LockPath().c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return errno != ENOENT;
  const bool locked = ::flock(fd, LOCK_EX | LOCK_NB) != 0;
  ::close(fd);
  return locked;
}

void Run(const IceoryxDaemonOptions& options, int ready_fd) {
  iox::mepoo::MePooConfig pools;
  pools.addMemPool({static_cast<uint32_t>(kSmallBytes), kSmallMessages});
  if (options.payload_bytes > kSmallBytes) {
    pools.addMemPool({static_cast<uint32_t>(options.payload_bytes), kLargeMessages});
  }
  const auto group = iox::posix::PosixGroup::getGroupOfCurrentProcess().getName();
  iox::RouDiConfig_t config;
  config.m_sharedMemorySegments.push_back({group, group, pools});
  iox::roudi::IceOryxRouDiComponents components(config);
  // Without monitoring: it takes who spins on a busy CPU for dead. At its end it kills nobody.
  const iox::roudi::RouDi daemon(
      components.rouDiMemoryManager, components.portManager,
      iox::roudi::RouDi::RoudiStartupParameters(iox::roudi::MonitoringMode::OFF, false));
  if (::write(ready_fd, "", 1) != 1) return;
  ::close(ready_fd);
  sigset_t end;
  ::sigemptyset(&end);
  ::sigaddset(&end, SIGTERM);
  int signal = 0;
  ::sigwait(&end, &signal);
  // Who was killed or took its leave at once has left these. Before the next one may begin.
  for (const std::string& program : options.programs) {
    const std::string path = kDirectory + program;
    ::unlink(path.c_str());
    ::unlink((path + ".lock").c_str());
  }
}

// The child. SIGTERM, which the death of its parent sends, is blocked and waits for Run.
[[noreturn]] void BecomeDaemon(const IceoryxDaemonOptions& options, pid_t parent, int ready_fd) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // it died before the signal was asked for
  // From a terminal they go to the whole group; it has to end after the others, and orderly.
  for (int signal : {SIGINT, SIGHUP, SIGQUIT}) ::signal(signal, SIG_IGN);
  // What the bench hears the end of its server by.
  for (int fd : {kChildControlFd, kChildResultFd}) ::close(fd);
  const int nowhere = ::open("/dev/null", O_RDWR);
  for (int fd : {STDOUT_FILENO, STDERR_FILENO}) ::dup2(nowhere, fd);
  SilenceIceoryx();
  Run(options, ready_fd);
  ::_exit(0);
}

}  // namespace

void SilenceIceoryx() {
  iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kOff,
                                                           iox::log::LogLevelOutput::kHideLogLevel);
}

absl::Status StartIceoryxDaemon(const IceoryxDaemonOptions& options) {
  const Deadline deadline = Deadline::After(kOtherTimeout);
  while (OtherRuns()) {
    if (deadline.passed()) {
      return absl::UnavailableError(
          absl::StrCat("another RouDi runs on this machine and has ", LockPath(), ": stop it"));
    }
    ::nanosleep(&kPause, nullptr);
  }
  int ready[2];
  if (::pipe2(ready, O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("pipe2: ", std::strerror(errno)));
  }
  sigset_t end;
  sigset_t before;
  ::sigemptyset(&end);
  ::sigaddset(&end, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &end, &before);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) BecomeDaemon(options, parent, ready[1]);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  ::close(ready[1]);
  char said = 0;
  const bool runs = child > 0 && ::read(ready[0], &said, 1) == 1;
  ::close(ready[0]);
  return runs ? absl::OkStatus() : absl::UnavailableError("RouDi, the daemon of iceoryx, failed");
}

}  // namespace mi7::bench
