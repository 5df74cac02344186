// Two hosts: client and server in two network namespaces, joined by a cable that the test can pull.
//
// This process becomes the client's host; the server is this program again,
// started with --serve, and takes single letters as commands on its standard input.

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "base/check.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "tests/netns/namespaces.h"
#include "transport/local/testing.h"

namespace mi7::conformance {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

// The two ends of the cable.
constexpr char kClientLink[] = "mi7client";
constexpr char kServerLink[] = "mi7server";
constexpr char kClientAddress[] = "10.77.0.2";
constexpr char kServerAddress[] = "10.77.0.1";
constexpr char kClientAddress6[] = "fd77::2";
constexpr char kServerAddress6[] = "fd77::1";
constexpr uint16_t kPort = 4711;
constexpr uint16_t kWatchfulPort = 4712;

// Far less than anything else that ends a connection.
constexpr Keepalive kWatchful = {.interval = absl::Milliseconds(100),
                                 .timeout = absl::Milliseconds(400)};

// --- The server's host ---

// Commands: s: set up the link and listen; k: with a keepalive, at another port; a: answer the
// oldest held call; c: wait until that is cancelled, and drop it; d, u: cable out and in; the end
// of input: shut down. Each is answered with a line.
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

// --- The client's host ---

class ServerHost {
 public:
  ServerHost() {
    std::array<int, 2> to, from;
    MI7_CHECK(::pipe2(to.data(), O_CLOEXEC) == 0 && ::pipe2(from.data(), O_CLOEXEC) == 0, "pipes");
    pid_ = ::fork();
    MI7_CHECK(pid_ >= 0, "fork");
    if (pid_ == 0) {
      ::dup2(to[0], 0);
      ::dup2(from[1], 1);
      ::execl("/proc/self/exe", "two_hosts_test", "--serve", nullptr);
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    commands_ = to[1];
    answers_ = from[0];
  }
  ~ServerHost() {
    ::close(commands_);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(answers_);
  }
  ServerHost(const ServerHost&) = delete;
  ServerHost& operator=(const ServerHost&) = delete;

  // The next line of the server is "ok".
  bool Ok() {
    std::string line;
    char letter;
    pollfd descriptor{answers_, POLLIN, 0};
    while (::poll(&descriptor, 1, 30'000) == 1 && ::read(answers_, &letter, 1) == 1) {
      if (letter == '\n') return line == "ok";
      line += letter;
    }
    return false;
  }
  bool Do(char command) { return ::write(commands_, &command, 1) == 1 && Ok(); }
  pid_t pid() const { return pid_; }
  // Ends it in order; its exit status.
  int Shutdown() {
    ::close(std::exchange(commands_, -1));
    int status = -1;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_;
  int commands_;
  int answers_;
};

class TwoHostsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (std::exchange(set_up_, true)) return;  // the tests are repeated
    if (!Ip("-Version >/dev/null 2>&1")) {
      why_not_ = "the command ip (package iproute2) is missing";
      return;
    }
    why_not_ = EnterNewNetwork();
    if (why_not_.empty() && !Ip("link set lo up")) why_not_ = "a new network cannot be configured";
  }
  void SetUp() override {
    if (!why_not_.empty()) {
      std::fprintf(stderr, "NOTICE: two-host test not run, this machine does not permit it: %s\n",
                   why_not_.c_str());
      GTEST_SKIP() << why_not_;
    }
    ASSERT_NO_FATAL_FAILURE(Boot());
    channel_ = NewChannel();
  }
  void TearDown() override {
    channel_ = nullptr;
    host_ = nullptr;
    // With the server's network its end of the cable goes, and with it ours.
    if (why_not_.empty()) Ip(absl::StrCat("link delete ", kClientLink, " 2>/dev/null"));
  }
  // A new server's host, and the cable to it.
  void Boot() {
    host_ = std::make_unique<ServerHost>();
    ASSERT_TRUE(host_->Ok());
    Ip(absl::StrCat("link delete ", kClientLink, " 2>/dev/null"));
    ASSERT_TRUE(Ip(absl::StrCat("link add ", kClientLink, " type veth peer name ", kServerLink,
                                " netns ", host_->pid())));
    ASSERT_TRUE(Ip(absl::StrCat("addr add ", kClientAddress, "/24 dev ", kClientLink)));
    ASSERT_TRUE(Ip(absl::StrCat("link set ", kClientLink, " up")));
    ASSERT_TRUE(Ip(absl::StrCat("addr add ", kClientAddress6, "/64 dev ", kClientLink, " nodad")));
    ASSERT_TRUE(host_->Do('s'));
  }
  static std::shared_ptr<Channel> NewChannel(const std::string& host = kServerAddress,
                                             ChannelOptions options = {}, uint16_t port = kPort) {
    options.backoff.initial = absl::Milliseconds(10);
    options.backoff.max = absl::Milliseconds(100);
    return *Channel::Create(absl::StrCat("tcp:", host, ":", port), options);
  }
  EchoResult Echo(const std::string& text, const CallOptions& options) {
    auto request = ProbeStub(channel_).Echo(options);
    request->setText(text);
    return request.Send().Wait();
  }
  static CallOptions Soon(absl::Duration timeout = kSoon) {
    return {.deadline = Deadline::After(timeout)};
  }
  PendingCall<Probe::HoldResults> Hold(const CallOptions& options = {}) {
    auto request = ProbeStub(channel_).Hold(options);
    request->setNumber(7);
    return request.Send();
  }

  static bool set_up_;
  static std::string why_not_;
  std::unique_ptr<ServerHost> host_;
  std::shared_ptr<Channel> channel_;
};
bool TwoHostsTest::set_up_ = false;
std::string TwoHostsTest::why_not_;

TEST_F(TwoHostsTest, CallsGoFromHostToHost) {
  EXPECT_THAT(Echo("hello", Soon()), IsOk());
  EXPECT_THAT(channel_->Describe(),
              HasSubstr(absl::StrCat("calls go over tcp to tcp:", kServerAddress, ":", kPort)));
  const std::string large(5'000'000, 'x');
  const EchoResult result = Echo(large, Soon());
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getText().size(), large.size());
  channel_ = nullptr;
  EXPECT_EQ(host_->Shutdown(), 0);
}

TEST_F(TwoHostsTest, CallsGoOverIpv6) {
  channel_ = NewChannel(absl::StrCat("[", kServerAddress6, "]"));
  EXPECT_THAT(Echo("hello", Soon()), IsOk());
  EXPECT_THAT(channel_->Describe(), HasSubstr(absl::StrCat("[", kServerAddress6, "]")));
}

TEST_F(TwoHostsTest, ServerThatIsNotListeningRefuses) {
  channel_ = *Channel::Create(absl::StrCat("tcp:", kServerAddress, ":", kPort + 1));
  const EchoResult result = Echo("x", Soon());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(kServerAddress)));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(TwoHostsTest, NetworkWithoutARouteIsUnavailable) {
  channel_ = NewChannel("10.99.0.1");
  const EchoResult result = Echo("x", Soon());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               AnyOf(HasSubstr("unreachable"), HasSubstr("no route"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

// What a server on another machine says of its name is not even looked at.
TEST_F(TwoHostsTest, ServerOnAnotherMachineIsReachedOverTcp) {
  channel_ = *Channel::Create(absl::StrCat("mi7://", kServerAddress, ":", kPort));
  EXPECT_THAT(Echo("hello", Soon()), IsOk());
  EXPECT_EQ(channel_->Describe(),
            absl::StrCat("mi7://", kServerAddress, ":", kPort,
                         ": ready, calls go over tcp to tcp:", kServerAddress, ":", kPort,
                         "; no shared memory: the server is on another machine"));
}

// An address of this machine need not be a loopback one.
TEST_F(TwoHostsTest, ServerAtAnAddressOfThisMachineIsMetInSharedMemory) {
  const transport::testing::TemporaryDirectory directory;
  ProbeImpl probe;
  ServerOptions server_options;
  server_options.local.runtime_dir = directory.path();
  auto server = ServerBuilder()
                    .SetOptions(server_options)
                    .AddService(&probe)
                    .Listen(absl::StrCat("mi7://", kClientAddress, ":0"))
                    .Listen(absl::StrCat("mi7://[", kClientAddress6, "]:0"))
                    .Start();
  ASSERT_THAT(server, IsOk());
  ChannelOptions options;
  options.local.runtime_dir = directory.path();
  for (const std::string& endpoint : (*server)->endpoints()) {
    channel_ = *Channel::Create(endpoint, options);
    EXPECT_THAT(Echo("hello", Soon()), IsOk());
    EXPECT_EQ(channel_->transport(), "shm") << channel_->Describe();
  }
  channel_ = nullptr;
}

TEST_F(TwoHostsTest, DeadlineEndsACallWhoseAnswerTheCableLost) {
  ASSERT_THAT(Echo("x", Soon()), IsOk());
  ASSERT_TRUE(host_->Do('d'));
  const Deadline deadline = Deadline::After(absl::Milliseconds(500));
  const EchoResult result = Echo("x", {.deadline = deadline});
  EXPECT_TRUE(deadline.passed());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(TwoHostsTest, CallSurvivesAShortInterruption) {
  auto call = Hold(Soon());
  ASSERT_THAT(Echo("x", Soon()), IsOk());  // so the other one has arrived
  ASSERT_TRUE(host_->Do('d'));
  ASSERT_TRUE(host_->Do('a'));  // the answer has no way
  ASSERT_TRUE(host_->Do('u'));
  EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_THAT(Echo("x", Soon()), IsOk());
}

TEST_F(TwoHostsTest, ConnectingIntoTheVoidEndsAtTheConnectTimeout) {
  ASSERT_TRUE(host_->Do('d'));
  ChannelOptions options;
  options.connect_timeout = absl::Milliseconds(200);
  channel_ = NewChannel(kServerAddress, options);
  const EchoResult result = Echo("x", Soon());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(kServerAddress)));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  // Back by itself, with the cable.
  ASSERT_TRUE(host_->Do('u'));
  CallOptions patient = Soon();
  patient.wait_for_ready = true;
  EXPECT_THAT(Echo("x", patient), IsOk());
}

TEST_F(TwoHostsTest, DeadlineEndsACallThatWaitsForTheConnection) {
  ASSERT_TRUE(host_->Do('d'));
  const Deadline deadline = Deadline::After(absl::Milliseconds(500));
  const EchoResult result = Echo("x", {.deadline = deadline});
  EXPECT_TRUE(deadline.passed());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

// Neither end can tell the other one.
TEST_F(TwoHostsTest, BothEndsNoticeThatTheCableIsOut) {
  ASSERT_TRUE(host_->Do('k'));
  ChannelOptions options;
  options.keepalive = kWatchful;
  channel_ = NewChannel(kServerAddress, options, kWatchfulPort);
  auto call = Hold();
  ASSERT_THAT(Echo("x", Soon()), IsOk());  // so the other one has arrived
  ASSERT_TRUE(host_->Do('d'));
  const auto result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("has not answered a ping for keepalive.timeout, 400ms")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_TRUE(host_->Do('c')) << "the handler is told";
  ASSERT_TRUE(host_->Do('u'));
  CallOptions patient = Soon();
  patient.wait_for_ready = true;
  EXPECT_THAT(Echo("x", patient), IsOk());
}

TEST_F(TwoHostsTest, KilledServerIsNoticedAndItsSuccessorFound) {
  auto call = Hold();
  ASSERT_THAT(Echo("x", Soon()), IsOk());  // so the other one has arrived
  ::kill(host_->pid(), SIGKILL);
  const auto result = call.Wait();
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kUnavailable, StartsWith("Probe.hold: connection lost")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ASSERT_NO_FATAL_FAILURE(Boot());
  CallOptions patient = Soon();
  patient.wait_for_ready = true;
  EXPECT_THAT(Echo("x", patient), IsOk());
}

TEST_F(TwoHostsTest, HostThatLostItsPowerIsNoticedWhenItIsBack) {
  ASSERT_THAT(Echo("x", Soon()), IsOk());
  ASSERT_TRUE(host_->Do('d'));
  auto call = Hold();  // into the void
  ASSERT_NO_FATAL_FAILURE(Boot());
  // The new host knows nothing of the connection, and says so.
  const auto result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  CallOptions patient = Soon();
  patient.wait_for_ready = true;
  EXPECT_THAT(Echo("x", patient), IsOk());
}

}  // namespace
}  // namespace mi7::conformance

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--serve") == 0) return mi7::conformance::Serve();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
