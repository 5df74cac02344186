#include "rpc/liveness_watch.h"

#include <memory>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fake_clock.h"
#include "rpc/session_fixture.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using transport::FrameType;

// A session whose peer is the test, on a loop and in a time that the test moves on.
class LivenessWatchTest : public SessionTest {
 protected:
  void TearDown() override {
    deferred_.clear();
    if (watch_ != nullptr) watch_->Close();  // the loop goes before the session
    SessionTest::TearDown();
  }
  // The times are those of the defaults, 20 s and 20 s, unless the test has others.
  void StartWatched(bool serves, Keepalive keepalive = {.on_this_machine = true},
                    absl::Duration idle_timeout = absl::InfiniteDuration()) {
    auto config = std::make_shared<SessionConfig>();
    config->dispatcher = serves ? &dispatcher_ : nullptr;
    config->liveness = watch_ = LivenessWatch::Create(loop_.get(), keepalive, idle_timeout);
    ASSERT_NE(watch_, nullptr);
    ASSERT_THAT(dispatcher_.Add(&service_), IsOk());
    session_ = std::make_shared<Session>(connection_, observer_, config);
    connection_->Start(session_);
  }
  // Makes a call that nobody answers.
  Pending Call() {
    Pending pending = Send();
    session_->NoteCall();
    EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCall);
    return pending;
  }
  // Time passes, a look at a time.
  void Pass(absl::Duration time, absl::Duration look = absl::Seconds(5)) {
    for (; time > absl::ZeroDuration(); time -= look) {
      clock_.Advance(look);
      while (loop_->RunOne()) {
      }
    }
  }
  bool HasSent(FrameType type) {
    if (connection_->sent_count() == 0) return false;
    return connection_->TakeSent().header().type == type;
  }

  FakeClock clock_;
  std::unique_ptr<transport::EventLoop> loop_ = transport::EventLoop::CreateManual();
  std::shared_ptr<LivenessWatch> watch_;
};

TEST_F(LivenessWatchTest, WithNothingToWatchForThereIsNone) {
  EXPECT_EQ(LivenessWatch::Create(loop_.get(), {.interval = absl::InfiniteDuration()},
                                  absl::InfiniteDuration()),
            nullptr);
}

TEST_F(LivenessWatchTest, SilentPeerIsPingedAndThenGivenUp) {
  StartWatched(/*serves=*/false);
  Pending call = Call();
  Pass(absl::Seconds(15));
  EXPECT_EQ(connection_->sent_count(), 0u);
  Pass(absl::Seconds(10));
  EXPECT_TRUE(HasSent(FrameType::kPing));
  Pass(absl::Seconds(10));
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  EXPECT_EQ(connection_->sent_count(), 0u) << "one ping is enough";
  Pass(absl::Seconds(10));
  ASSERT_NE(connection_->closed_with(), std::nullopt);
  EXPECT_THAT(
      *connection_->closed_with(),
      StatusIs(absl::StatusCode::kUnavailable,
               "fake:peer has sent nothing for keepalive.interval, 20s, and has not answered "
               "a ping for keepalive.timeout, 20s"));
  connection_->DeliverClosed(*connection_->closed_with());
  const auto result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("keepalive.timeout")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  Pass(absl::Seconds(10));
  EXPECT_TRUE(loop_->next_timer().infinite()) << "nothing is left to look at";
}

TEST_F(LivenessWatchTest, PeerThatAnswersIsKept) {
  StartWatched(/*serves=*/false);
  Pending call = Call();
  for (int i = 0; i < 20; ++i) {
    Pass(absl::Seconds(25));
    ASSERT_TRUE(HasSent(FrameType::kPing)) << i;
    Pass(absl::Seconds(10));
    connection_->Deliver(MakeControl(FrameType::kPong));
  }
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  connection_->Deliver(MakeReturn(0));
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_F(LivenessWatchTest, WhereMessagesArriveNothingIsAsked) {
  StartWatched(/*serves=*/false);
  Pending call = Call();
  for (int i = 0; i < 50; ++i) {
    Pass(absl::Seconds(10));
    connection_->Deliver(MakeControl(FrameType::kPing));
    ASSERT_TRUE(HasSent(FrameType::kPong));
  }
  EXPECT_EQ(connection_->sent_count(), 0u);
}

// A machine that was suspended, or a loop that a handler held up for long, is no silent peer.
TEST_F(LivenessWatchTest, OneLookThatComesLateCountsOnce) {
  StartWatched(/*serves=*/false);
  Pending call = Call();
  for (int i = 0; i < 5; ++i) {
    Pass(absl::Hours(1), absl::Hours(1));
    EXPECT_EQ(connection_->closed_with(), std::nullopt) << i;
  }
}

TEST_F(LivenessWatchTest, WithoutCallsNothingIsSentAndNoTimerRuns) {
  StartWatched(/*serves=*/false);
  EXPECT_TRUE(loop_->next_timer().infinite());
  Pending call = Call();
  EXPECT_FALSE(loop_->next_timer().infinite());
  connection_->Deliver(MakeReturn(0));
  ASSERT_THAT(call.Wait(), IsOk());
  Pass(absl::Seconds(60));
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_TRUE(loop_->next_timer().infinite());
  // And from the next call on it is watched again.
  Pending next = Call();
  Pass(absl::Seconds(25));
  EXPECT_TRUE(HasSent(FrameType::kPing));
}

TEST_F(LivenessWatchTest, ServerWatchesWhileItOwesAnswers) {
  StartWatched(/*serves=*/true);
  defer_ = true;
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  Pass(absl::Seconds(25));
  EXPECT_TRUE(HasSent(FrameType::kPing));
  Pass(absl::Seconds(25));
  ASSERT_NE(connection_->closed_with(), std::nullopt);
  EXPECT_THAT(*connection_->closed_with(), StatusIs(absl::StatusCode::kUnavailable));
}

// Nothing is read meanwhile, whatever the peer has sent.
TEST_F(LivenessWatchTest, HandlerThatRunsInlineForLongMakesNoPeerSilent) {
  LambdaService slow(kOtherInfo, [this](uint64_t, uint16_t, ServerCall& call) -> Reply {
    Pass(absl::Minutes(5));
    return EchoKey(call);
  });
  ASSERT_THAT(dispatcher_.Add(&slow), IsOk());
  StartWatched(/*serves=*/true);
  defer_ = true;
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  connection_->Deliver(MakeCall(8, kOtherId, kOtherId, 0));
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  EXPECT_TRUE(HasSent(FrameType::kReturn));
  EXPECT_EQ(connection_->sent_count(), 0u) << "nor is it pinged";
  Pass(absl::Seconds(25));
  EXPECT_TRUE(HasSent(FrameType::kPing)) << "from then on it may be";
}

TEST_F(LivenessWatchTest, ServerThatAnswersAtOnceWatchesNobody) {
  StartWatched(/*serves=*/true);
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  ASSERT_TRUE(HasSent(FrameType::kReturn));
  EXPECT_TRUE(loop_->next_timer().infinite());
}

TEST_F(LivenessWatchTest, WithinThisMachineNobodyIsPingedUnlessWanted) {
  StartWatched(/*serves=*/false, Keepalive{});
  Pending call = Call();
  EXPECT_TRUE(loop_->next_timer().infinite());
  Pass(absl::Minutes(10));
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
}

TEST_F(LivenessWatchTest, IdleClientCloses) {
  StartWatched(/*serves=*/false, {.interval = absl::InfiniteDuration()}, absl::Seconds(20));
  Pending call = Call();
  Pass(absl::Minutes(10));
  EXPECT_EQ(connection_->closed_with(), std::nullopt) << "a call is in flight";
  connection_->Deliver(MakeReturn(0));
  ASSERT_THAT(call.Wait(), IsOk());
  Pass(absl::Seconds(15));
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  EXPECT_FALSE(session_->calls().stopped());
  Pass(absl::Seconds(10));
  ASSERT_NE(connection_->closed_with(), std::nullopt);
  EXPECT_THAT(*connection_->closed_with(), IsOk());
  EXPECT_TRUE(session_->calls().stopped()) << "the next call is made on another connection";
}

TEST_F(LivenessWatchTest, IdleServerAsksTheClientToCloseAndAnswersWhatCrosses) {
  StartWatched(/*serves=*/true, {.interval = absl::InfiniteDuration()}, absl::Seconds(20));
  session_->NoteCall();
  Pass(absl::Seconds(25));
  ASSERT_TRUE(HasSent(FrameType::kGoAway));
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  const transport::IncomingMessage answer = connection_->TakeSent();
  EXPECT_EQ(answer.header().type, FrameType::kReturn);
  EXPECT_THAT(ReturnStatus(answer), IsOk());
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  // A client that neither goes nor calls is closed.
  Pass(absl::Seconds(25));
  ASSERT_TRUE(HasSent(FrameType::kGoAway));
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  Pass(absl::Seconds(25));
  ASSERT_NE(connection_->closed_with(), std::nullopt);
  EXPECT_THAT(*connection_->closed_with(), IsOk());
}

TEST_F(LivenessWatchTest, ServerWhoseAnswersWaitForTheirClientIsNotIdle) {
  StartWatched(/*serves=*/true, {.interval = absl::InfiniteDuration()}, absl::Seconds(20));
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  session_->NoteCall();
  ASSERT_TRUE(HasSent(FrameType::kReturn));
  connection_->SetUnsent(true);
  Pass(absl::Minutes(10));
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  connection_->SetUnsent(false);
  Pass(absl::Seconds(20));
  EXPECT_TRUE(HasSent(FrameType::kGoAway));
  // That may have to wait as well.
  connection_->SetUnsent(true);
  Pass(absl::Minutes(10));
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  connection_->SetUnsent(false);
  Pass(absl::Seconds(20));
  EXPECT_NE(connection_->closed_with(), std::nullopt);
}

TEST_F(LivenessWatchTest, NewConnectionIsNotIdleBeforeItsFirstCallCanHaveCome) {
  const absl::Duration kIdle = absl::Seconds(2), kLook = kIdle / 4;
  StartWatched(/*serves=*/true, {.interval = absl::InfiniteDuration()}, kIdle);
  session_->NoteCall();  // as a server does with each
  Pass(absl::Seconds(8), kLook);
  EXPECT_EQ(connection_->sent_count(), 0u);
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  ASSERT_TRUE(HasSent(FrameType::kReturn));
  Pass(absl::Seconds(1), kLook);
  EXPECT_EQ(connection_->sent_count(), 0u);
  Pass(absl::Seconds(2), kLook);
  EXPECT_TRUE(HasSent(FrameType::kGoAway));
}

TEST_F(LivenessWatchTest, ClosedWatchLooksAtNothing) {
  StartWatched(/*serves=*/false);
  Pending call = Call();
  watch_->Close();
  watch_->Add(session_);
  Pass(absl::Minutes(10));
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(LivenessWatchTest, SessionsThatAreGoneAreForgotten) {
  StartWatched(/*serves=*/false);
  {
    Pending call = Call();
    connection_->DeliverClosed(absl::OkStatus());
  }
  Pass(absl::Seconds(10));
  EXPECT_TRUE(loop_->next_timer().infinite());
}

TEST_F(LivenessWatchTest, SenselessTimesAreNamed) {
  EXPECT_THAT(CheckKeepalive({}, absl::InfiniteDuration()), IsOk());
  EXPECT_THAT(CheckKeepalive({.interval = absl::ZeroDuration()}, absl::InfiniteDuration()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "keepalive.interval is 0, must be longer than 0"));
  EXPECT_THAT(CheckKeepalive({.timeout = -absl::Seconds(1)}, absl::InfiniteDuration()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("keepalive.timeout")));
  EXPECT_THAT(CheckKeepalive({}, absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("idle_timeout")));
  EXPECT_THAT(CheckKeepalive({.timeout = absl::InfiniteDuration()}, absl::Hours(20)), IsOk());
  EXPECT_THAT(CheckKeepalive({}, absl::Hours(24)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("idle_timeout is 24h")));
  EXPECT_THAT(CheckKeepalive({}, absl::Milliseconds(1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("keepalive.interval is 20s")));
  EXPECT_THAT(CheckKeepalive({.interval = absl::InfiniteDuration()}, absl::Milliseconds(1)),
              IsOk());
}

}  // namespace
}  // namespace mi7
