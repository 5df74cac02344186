#include "tests/netns/two_hosts.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <stop_token>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/deadline.h"
#include "rpc/server.h"
#include "tests/netns/namespaces.h"

namespace mi7::conformance {

int ProbeSoon() {
  constexpr int kIdleSeconds = 1, kIntervalSeconds = 1, kProbes = 2;
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    int fd;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &fd)) continue;
    int protocol = 0;
    socklen_t size = sizeof(protocol);
    sockaddr_storage peer;
    socklen_t peer_size = sizeof(peer);
    if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 ||
        protocol != IPPROTO_TCP ||
        ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0) {
      continue;
    }
    // Nothing is probed while something is not acknowledged.
    const Deadline patience = Deadline::After(kSoon);
    int waiting = 1;
    while (::ioctl(fd, SIOCOUTQ, &waiting) == 0 && waiting != 0 && !patience.passed()) {
      std::this_thread::yield();
    }
    const bool set =
        waiting == 0 &&
        ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &kIntervalSeconds, sizeof(int)) == 0 &&
        ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &kProbes, sizeof(int)) == 0 &&
        ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &kIdleSeconds, sizeof(int)) == 0;
    int timeout_ms = 0;
    size = sizeof(timeout_ms);
    ::getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, &size);
    if (timeout_ms != 0) {
      timeout_ms = (kIdleSeconds + kIntervalSeconds * kProbes) * 1000;
      ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
    }
    found += set ? 1 : 0;
  }
  return found;
}

bool LoseWhatLeaves(const char* link, const char* address, bool lose) {
  // To a station that there is none of.
  return Ip(lose ? absl::StrCat("neigh replace ", address, " lladdr 02:00:00:00:00:77 dev ", link,
                                " nud permanent")
                 : absl::StrCat("neigh del ", address, " dev ", link));
}

namespace {

// --- The server's host ---

// The other host, until its input ends.
int Serve() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ProbeImpl probe;
  std::unique_ptr<Server> server, watchful;
  const auto done = [](bool ok) { static_cast<void>(!::write(1, ok ? "ok\n" : "no\n", 3)); };
  if (std::string why = EnterNewNetwork(); !why.empty()) {
    done(false);
    return 1;
  }
  done(true);
  const auto cable_in = [] {
    return Ip(absl::StrCat("link set ", kServerLink, " up")) &&
           // An IPv6 address goes with the link.
           Ip(absl::StrCat("addr replace ", kServerAddress6, "/64 dev ", kServerLink, " nodad"));
  };
  for (char command; ::read(0, &command, 1) == 1;) {
    switch (command) {
      case 's': {
        bool ok = Ip("link set lo up") &&
                  Ip(absl::StrCat("addr add ", kServerAddress, "/24 dev ", kServerLink)) &&
                  cable_in();
        auto started =
            ServerBuilder().AddService(&probe).Listen(absl::StrCat("tcp:*:", kPort)).Start();
        ok = ok && started.ok();
        if (started.ok()) server = *std::move(started);
        done(ok);
        break;
      }
      case 'k': {
        ServerOptions options;
        options.keepalive = kWatchful;
        auto started = ServerBuilder()
                           .SetOptions(options)
                           .AddService(&probe)
                           .Listen(absl::StrCat("tcp:*:", kWatchfulPort))
                           .Start();
        done(started.ok());
        if (started.ok()) watchful = *std::move(started);
        break;
      }
      case 'c': {
        const ProbeImpl::Held held = probe.TakeHeld();
        absl::Notification cancelled;
        const std::stop_callback on_cancel(
            held.context == nullptr ? std::stop_token() : held.context->stop_token(),
            [&cancelled] { cancelled.Notify(); });
        done(Happens(cancelled));
        break;
      }
      case 'a':
        probe.TakeHeld().Answer();
        done(true);
        break;
      case 'n': {
        const Deadline patience = Deadline::After(kSoon);
        const auto connections = [&] {
          return (server ? server->connection_count() : 0) +
                 (watchful ? watchful->connection_count() : 0);
        };
        while (connections() != 0 && !patience.passed()) std::this_thread::yield();
        done(connections() == 0);
        break;
      }
      case 'p':
        done(ProbeSoon() == 1);
        break;
      case 'l':
      case 'f':
        done(LoseWhatLeaves(kServerLink, kClientAddress, command == 'l'));
        break;
      case 'd':
        done(Ip(absl::StrCat("link set ", kServerLink, " down")));
        break;
      case 'u':
        done(cable_in());
        break;
    }
  }
  return server == nullptr || server->Shutdown(Deadline::After(absl::Seconds(5))).ok() ? 0 : 1;
}

}  // namespace

// --- The client's host ---

ServerHost::ServerHost()
    : host_([](int commands, int answers) {
        ::dup2(commands, 0);
        ::dup2(answers, 1);
        ::execl("/proc/self/exe", "two_hosts", "--serve", nullptr);
        ::_exit(127);
      }) {}

}  // namespace mi7::conformance

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--serve") == 0) return mi7::conformance::Serve();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
