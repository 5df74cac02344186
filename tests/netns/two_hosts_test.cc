// Calls between two hosts, and what becomes of them when the cable is pulled or a host dies.

#include "tests/netns/two_hosts.h"

#include <signal.h>

#include <memory>
#include <string>

#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "transport/local/testing.h"

namespace mi7::conformance {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

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
