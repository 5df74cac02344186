// Peers that fall silent, and connections that nobody uses: Keepalive and idle_timeout, at both
// ends.

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rpc/call_outcome.h"
#include "tests/conformance/call/call_conformance.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

// For what must happen: short, but longer than a busy machine is busy with other things.
Keepalive Quick() {
  return {.interval = absl::Milliseconds(100),
          .timeout = absl::Milliseconds(400),
          .on_this_machine = true};
}
constexpr Keepalive kNoKeepalive = {.interval = absl::InfiniteDuration()};

// From now on nothing arrives at the end that has the script, and nothing leaves it.
void FallSilent(FaultScript& script) { script.Add({.count = FaultRule::kAll}); }

TEST(KeepaliveTest, BothSidesHaveTheDocumentedDefault) {
  EXPECT_EQ(ChannelOptions().keepalive, ServerOptions().keepalive);
  EXPECT_EQ(ServerOptions().keepalive, (Keepalive{.interval = absl::Seconds(20),
                                                  .timeout = absl::Seconds(20),
                                                  .on_this_machine = false}));
}

TEST_P(CallTest, ServerThatFallsSilentIsNoticedByItsClient) {
  auto script = std::make_shared<FaultScript>();
  Start({.keepalive = kNoKeepalive}, {.keepalive = Quick(), .decorator = script});
  ASSERT_TRUE(Works());
  auto call = SendHold(1, {.deadline = Deadline::After(kSoon)});
  ASSERT_TRUE(probe_.AwaitHeld(1));
  FallSilent(*script);
  const auto result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("has not answered a ping for keepalive.timeout, 400ms")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  script->Clear();
  probe_.TakeHeld();
  EXPECT_TRUE(Works()) << "over another connection";
}

TEST_P(CallTest, ClientThatFallsSilentIsNoticedByItsServer) {
  auto script = std::make_shared<FaultScript>();
  Start({.keepalive = Quick(), .decorator = script}, {.keepalive = kNoKeepalive});
  ASSERT_TRUE(Works());
  auto call = SendHold(1, {.deadline = Deadline::After(2 * kSoon)});
  ASSERT_TRUE(probe_.AwaitHeld(1));
  const ProbeImpl::Held held = probe_.TakeHeld();
  FallSilent(*script);
  const Deadline patience = Deadline::After(kSoon);
  while (!held.context->cancelled()) {
    ASSERT_FALSE(patience.passed()) << "the handler is not told";
    std::this_thread::yield();
  }
  // The client is told, if it can be.
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_P(CallTest, PeersThatAnswerPingsAreKept) {
  const Keepalive often = {
      .interval = absl::Milliseconds(8), .timeout = kSoon, .on_this_machine = true};
  for (const bool server_asks : {false, true}) {
    SCOPED_TRACE(server_asks);
    auto script = std::make_shared<FaultScript>();
    script->Add({.frames = FaultFrames::kPings,
                 .action = FaultAction::kDelay,
                 .count = FaultRule::kAll});  // to count them
    Start({.keepalive = server_asks ? often : kNoKeepalive},
          {.keepalive = server_asks ? kNoKeepalive : often, .decorator = script});
    auto call = SendHold(1, {.deadline = Deadline::After(2 * kSoon)});
    ASSERT_TRUE(probe_.AwaitHeld(1));
    const Deadline patience = Deadline::After(kSoon);
    while (script->hits() < 20) {
      ASSERT_FALSE(patience.passed()) << script->hits();
      std::this_thread::yield();
    }
    probe_.TakeHeld().Answer();
    EXPECT_THAT(call.Wait(), IsOk());
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, IdleChannelClosesAndComesBackUnnoticed) {
  Start({}, {.idle_timeout = absl::Milliseconds(20)});
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(EchoText("call"), IsOk()) << i;
    ASSERT_TRUE(HasConnections(0));
    const Deadline patience = Deadline::After(kSoon);
    while (channel_->state() != ChannelState::kIdle) ASSERT_FALSE(patience.passed());
  }
}

TEST_P(CallTest, IdleServerLetsItsClientsGoAndTheyComeBackUnnoticed) {
  Start({.idle_timeout = absl::Milliseconds(20)});
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(EchoText("call"), IsOk()) << i;
    ASSERT_TRUE(HasConnections(0));
    const Deadline patience = Deadline::After(kSoon);
    while (channel_->state() == ChannelState::kReady) ASSERT_FALSE(patience.passed());
  }
}

TEST_P(CallTest, ConnectionsWithCallsAreNotIdle) {
  Start({.idle_timeout = absl::Milliseconds(8)}, {.idle_timeout = absl::Milliseconds(8)});
  auto call = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  // Long enough for others, whose connections end meanwhile.
  for (int i = 0; i < 3; ++i) {
    const std::shared_ptr<Channel> other = NewChannel({.idle_timeout = absl::Milliseconds(8)});
    auto request = ProbeStub(other).Echo({.deadline = Deadline::After(kSoon)});
    ASSERT_THAT(request.Send().Wait(), IsOk());
    const Deadline patience = Deadline::After(kSoon);
    while (other->state() == ChannelState::kReady) ASSERT_FALSE(patience.passed());
  }
  EXPECT_EQ(channel_->state(), ChannelState::kReady);
  probe_.TakeHeld().Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

// Calls that are made at the very moment at which the connection is closed for being idle, by one
// end or by both: none fails.
TEST_P(CallTest, CallsThatRaceWithAnIdleCloseDoNotFail) {
  constexpr absl::Duration kIdle = absl::Milliseconds(1);
  // Its times and so short a one are not kept together.
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  for (const bool server_closes : {false, true}) {
    for (const bool client_closes : {false, true}) {
      if (!server_closes && !client_closes) continue;
      SCOPED_TRACE(testing::Message() << server_closes << client_closes);
      Start({.keepalive = kNone, .idle_timeout = server_closes ? kIdle : absl::InfiniteDuration()},
            {.keepalive = kNone, .idle_timeout = client_closes ? kIdle : absl::InfiniteDuration()});
      ASSERT_TRUE(Works());
      const uint64_t before = server_->statistics().connections_accepted;
      for (int i = 0; i < 150; ++i) {
        // From well before to well after the time.
        const Deadline pause = Deadline::After(absl::Microseconds(i * 20));
        while (!pause.passed()) std::this_thread::yield();
        // Every third one is larger than what a connection keeps to send it again.
        const std::string race = i % 3 == 0 ? std::string(8 << 10, 'r') : "race";
        const absl::StatusOr<std::string> text =
            EchoText(race, {.deadline = Deadline::After(kSoon)});
        ASSERT_THAT(text, IsOk()) << i;
        ASSERT_EQ(*text, race);
      }
      // One more may be of the first connection: over mi7:// a client has two to choose from.
      EXPECT_GT(server_->statistics().connections_accepted, before + 1) << "none was closed";
      channel_ = nullptr;
      server_ = nullptr;
    }
  }
}

TEST_P(CallTest, SenselessTimesAreRefused) {
  EXPECT_THAT(ServerBuilder()
                  .SetOptions({.idle_timeout = absl::ZeroDuration()})
                  .AddService(&probe_)
                  .Listen(GetParam().new_endpoint())
                  .Start(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("idle_timeout is 0")));
  EXPECT_THAT(
      Channel::Create(GetParam().new_endpoint(), {.keepalive = {.timeout = absl::ZeroDuration()}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("keepalive.timeout is 0")));
}

}  // namespace
}  // namespace mi7::conformance
