#include "examples/stop_signals/stop_signals.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace examples {
namespace {

// A program that cannot have what it needs to end must not begin.
int CheckedFd(int fd, const char* what) {
  if (fd >= 0) return fd;
  std::perror(what);
  std::exit(1);
}

void PollUntilReadable(pollfd* fds, nfds_t count) {
  while (::poll(fds, count, -1) < 0 && errno == EINTR) {
  }
}

}  // namespace

StopSignals::StopSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  fd_ = CheckedFd(::signalfd(-1, &signals, SFD_CLOEXEC), "signalfd");
}

StopSignals::~StopSignals() { ::close(fd_); }

void StopSignals::Wait() const {
  pollfd fd = {.fd = fd_, .events = POLLIN, .revents = 0};
  PollUntilReadable(&fd, 1);
}

OnStop::OnStop(const StopSignals& signals, absl::AnyInvocable<void()> callback)
    : over_fd_(CheckedFd(::eventfd(0, EFD_CLOEXEC), "eventfd")),
      thread_(
          [signal_fd = signals.fd(), over_fd = over_fd_, callback = std::move(callback)]() mutable {
            pollfd fds[] = {{.fd = signal_fd, .events = POLLIN, .revents = 0},
                            {.fd = over_fd, .events = POLLIN, .revents = 0}};
            PollUntilReadable(fds, 2);
            if (fds[0].revents != 0) callback();
          }) {}

OnStop::~OnStop() {
  const uint64_t one = 1;
  if (::write(over_fd_, &one, sizeof one) < 0) std::perror("eventfd");
  thread_.join();
  ::close(over_fd_);
}

}  // namespace examples
