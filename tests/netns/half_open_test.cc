// Connections that are half-open: nothing comes from the other end any more, and nobody says so.
// Both ends find out by themselves.

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>

#include "absl/time/time.h"
#include "rpc/call_outcome.h"
#include "rpc/channel.h"
#include "rpc/status_testing.h"
#include "tests/netns/two_hosts.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

// kWatchful's times and an eighth of them are half a second, the probes' three; this, for a busy
// machine, is still less than anything else that ends a connection.
constexpr absl::Duration kMost = absl::Seconds(10);

class HalfOpenTest : public TwoHostsTest {
 protected:
  // Both ends with kWatchful.
  void Watch() {
    ASSERT_TRUE(host_->Do('k'));
    ChannelOptions options;
    options.keepalive = kWatchful;
    channel_ = NewChannel(kServerAddress, options, kWatchfulPort);
  }
  // A call of hold that has arrived ends as it has to when `cut` has been done, and so does its
  // handler.
  void CallEnds(const std::function<bool()>& cut) {
    auto call = Hold(Soon(2 * kMost));
    ASSERT_THAT(Echo("x", Soon()), IsOk());  // so the other one has arrived
    ASSERT_TRUE(cut());
    const Deadline most = Deadline::After(kMost);
    const auto result = call.Wait();
    ASSERT_THAT(result,
                StatusIs(absl::StatusCode::kUnavailable,
                         HasSubstr("has not answered a ping for keepalive.timeout, 400ms")));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
    EXPECT_TRUE(host_->Do('c')) << "the handler is told";
    ASSERT_FALSE(most.passed());
    EXPECT_TRUE(host_->Do('n'));
    EXPECT_FALSE(most.passed());
  }
  void WorksAgain() {
    CallOptions patient = Soon();
    patient.wait_for_ready = true;
    EXPECT_THAT(Echo("x", patient), IsOk());
  }
};

// Neither end can tell the other one.
TEST_F(HalfOpenTest, BothEndsNoticeThatTheCableIsOut) {
  ASSERT_NO_FATAL_FAILURE(Watch());
  ASSERT_NO_FATAL_FAILURE(CallEnds([this] { return host_->Do('d'); }));
  ASSERT_TRUE(host_->Do('u'));
  WorksAgain();
}

// What the client sends goes on arriving.
TEST_F(HalfOpenTest, BothEndsNoticeThatTheServerIsNotHeard) {
  ASSERT_NO_FATAL_FAILURE(Watch());
  ASSERT_NO_FATAL_FAILURE(CallEnds([this] { return host_->Do('l'); }));
  ASSERT_TRUE(host_->Do('f'));
  WorksAgain();
}

TEST_F(HalfOpenTest, BothEndsNoticeThatTheClientIsNotHeard) {
  ASSERT_NO_FATAL_FAILURE(Watch());
  ASSERT_NO_FATAL_FAILURE(
      CallEnds([] { return LoseWhatLeaves(kClientLink, kServerAddress, true); }));
  ASSERT_TRUE(LoseWhatLeaves(kClientLink, kServerAddress, false));
  WorksAgain();
}

// The connection is cut while it is idle; a call is made before anybody has noticed.
TEST_F(HalfOpenTest, CallOnAConnectionThatIsHalfOpenAlreadyEnds) {
  ASSERT_NO_FATAL_FAILURE(Watch());
  ASSERT_THAT(Echo("x", Soon()), IsOk());
  ASSERT_TRUE(host_->Do('d'));
  const Deadline most = Deadline::After(kMost);
  const auto result = Hold(Soon(kMost)).Wait();
  EXPECT_FALSE(most.passed());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("has not answered a ping for keepalive.timeout, 400ms")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown)) << "it may have arrived";
  ASSERT_TRUE(host_->Do('u'));
  WorksAgain();
}

// Nobody pings, and what is not acknowledged keeps the system from probing. More waits than the
// system takes.
TEST_F(HalfOpenTest, ClientNoticesThatWhatItSendsIsNotTaken) {
  ChannelOptions options;
  options.keepalive.interval = absl::InfiniteDuration();
  options.limits.write_stall_timeout = absl::Milliseconds(500);
  channel_ = NewChannel(kServerAddress, options);
  ASSERT_THAT(Echo("x", Soon()), IsOk());
  ASSERT_TRUE(host_->Do('d'));
  const EchoResult result = Echo(std::string(5'000'000, 'x'), Soon(kMost));
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("has not read for limits.write_stall_timeout, 500ms, while ")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown)) << "some of it may have arrived";
  ASSERT_TRUE(host_->Do('u'));
  WorksAgain();
}

// Its last call is answered, so nobody pings, and bytes are on their way, so nobody probes.
TEST_F(HalfOpenTest, ServerNoticesThatAnAnswerIsNotAcknowledged) {
  auto call = Hold(Soon());
  ASSERT_THAT(Echo("x", Soon()), IsOk());  // so the other one has arrived
  ASSERT_TRUE(host_->Do('p'));
  ASSERT_TRUE(LoseWhatLeaves(kClientLink, kServerAddress, true));
  ASSERT_TRUE(host_->Do('l'));
  ASSERT_TRUE(host_->Do('a'));
  const Deadline most = Deadline::After(kMost);
  EXPECT_TRUE(host_->Do('n'));
  EXPECT_FALSE(most.passed());
  ASSERT_TRUE(LoseWhatLeaves(kClientLink, kServerAddress, false));
  ASSERT_TRUE(host_->Do('f'));
  channel_ = NewChannel();
  WorksAgain();
}

// Without calls in flight nobody pings; the system probes. Sooner here than mi7 asks it to. That
// the other host is gone, that is: probes that find the own cable out do not count for it.
TEST_F(HalfOpenTest, BothEndsOfAnIdleConnectionNoticeThatTheOtherHostIsGone) {
  ASSERT_THAT(Echo("x", Soon()), IsOk());
  ASSERT_EQ(ProbeSoon(), 1);
  ASSERT_TRUE(host_->Do('p'));
  ASSERT_TRUE(host_->Do('l'));
  ASSERT_TRUE(LoseWhatLeaves(kClientLink, kServerAddress, true));
  const Deadline most = Deadline::After(kMost);
  while (channel_->state() == ChannelState::kReady) {
    ASSERT_FALSE(most.passed()) << channel_->Describe();
    std::this_thread::yield();
  }
  EXPECT_TRUE(host_->Do('n'));
  EXPECT_FALSE(most.passed());
  ASSERT_TRUE(LoseWhatLeaves(kClientLink, kServerAddress, false));
  ASSERT_TRUE(host_->Do('f'));
  WorksAgain();
}

}  // namespace
}  // namespace mi7::conformance
