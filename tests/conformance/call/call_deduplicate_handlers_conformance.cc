// What runs for calls that the server recognizes when they are made again ($Mi7.deduplicate): their
// handlers, which outlive the connection, and the interceptors before those.

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/interceptors/token_auth.h"
#include "rpc/request_id.h"
#include "tests/conformance/call/call_conformance.h"
#include "tests/conformance/call/once_calls.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

TEST_P(CallTest, HandlerOfACallThatMayComeAgainSurvivesTheConnection) {
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start();
  const RequestId id = RequestId::Random();
  auto lost = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  channel_->Close();
  EXPECT_THAT(lost.Wait(), OutcomeIs(CallOutcome::kUnknown));
  ASSERT_TRUE(HasConnections(0));
  EXPECT_FALSE(held.of_first->cancelled());
  const std::shared_ptr<Channel> next = NewChannel();
  auto again = SendOnce(ProbeStub(next), "x", WithId(id));
  const Deadline patience = Deadline::After(kSoon);
  while (server_->statistics().calls_recognized == 0) ASSERT_FALSE(patience.passed());
  held.Answer(9);
  const OnceResult result = again.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getRun(), 9u);
  EXPECT_EQ(held.runs, 1);
}

TEST_P(CallTest, HandlerWhoseCallerIsGoneLearnsOfTheShutdown) {
  absl::Notification begun;
  absl::Notification told;
  std::optional<DeferredCall> later;
  std::optional<std::stop_callback<std::function<void()>>> on_stop;
  probe_.on_once = [&](ServerContext& context, auto, auto) {
    later.emplace(context.Defer());
    on_stop.emplace(context.stop_token(), [&told] { told.Notify(); });
    begun.Notify();
    return Reply::Later();
  };
  Start();
  auto lost = SendOnce(stub(), "x");
  ASSERT_TRUE(Happens(begun));
  channel_->Close();
  ASSERT_TRUE(HasConnections(0));
  EXPECT_FALSE(told.HasBeenNotified());
  EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_TRUE(told.HasBeenNotified()) << "nobody can come back";
  on_stop.reset();
  later->Finish(absl::OkStatus());
}

// A lost connection does not stop it, its caller does.
TEST_P(CallTest, HandlerOfACallThatMayComeAgainSeesItsCancellation) {
  HeldRun held;
  absl::Notification told;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start();
  const RequestId id = RequestId::Random();
  auto call = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  {
    const std::stop_callback on_stop(held.of_first->stop_token(), [&told] { told.Notify(); });
    EXPECT_FALSE(held.of_first->cancelled());
    call.Cancel();
    EXPECT_TRUE(Works()) << "after the cancellation, on the same connection";
    EXPECT_TRUE(told.HasBeenNotified());
    EXPECT_TRUE(held.of_first->cancelled());
  }
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
  held.Answer(7);
  // The answer is that of the call, for whoever makes it again.
  const OnceResult result = SendOnce(stub(), "x", WithId(id)).Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getRun(), 7u);
  EXPECT_EQ(held.runs, 1);
}

TEST_P(CallTest, HandlerOfACallThatMayComeAgainSeesItsDeadline) {
  FakeClock clock;
  for (const bool lost : {false, true}) {
    SCOPED_TRACE(lost ? "connection lost" : "connected");
    HeldRun held;
    absl::Notification told;
    probe_.on_once = held.handler();
    const Ends ends(this);
    // A caller who says nothing, when it gives up either.
    const auto faults = std::make_shared<FaultScript>();
    faults->Add(
        {.frames = FaultFrames::kCancels, .action = FaultAction::kDrop, .count = FaultRule::kAll});
    ServerOptions server;
    server.keepalive.interval = absl::InfiniteDuration();
    Start(server, {.keepalive = {.interval = absl::InfiniteDuration()}, .decorator = faults});
    ASSERT_THAT(channel_->Connect({}), IsOk());
    CallOptions options = WithId(RequestId::Random());
    options.deadline = Deadline::After(absl::Hours(1));
    auto call = SendOnce(stub(), "x", options);
    ASSERT_TRUE(Happens(held.begun));
    if (lost) {
      channel_->Close();
      EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
      ASSERT_TRUE(HasConnections(0));
    }
    {
      const std::stop_callback on_stop(held.of_first->stop_token(), [&told] { told.Notify(); });
      EXPECT_FALSE(told.HasBeenNotified());
      EXPECT_FALSE(held.of_first->cancelled());
      EXPECT_GT(held.of_first->deadline().remaining(), absl::Minutes(30));
      clock.Advance(absl::Hours(1));
      ASSERT_TRUE(held.of_first->cancelled());
      EXPECT_TRUE(Happens(told));
    }
    if (!lost) {
      EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
    }
    held.Answer(7);
  }
}

// To know a request id is not to be who made the call.
TEST_P(CallTest, EachAttemptAtAKnownCallIsAuthenticated) {
  Runs runs;
  probe_.on_once = runs.handler();
  StaticTokens tokens;
  tokens.Add("of alice", {.name = "alice"}).Add("of bob", {.name = "bob"});
  MethodPolicy policy;
  policy.Allow("Probe.once", {"alice"});
  ServerOptions options;
  options.interceptors = {MakeTokenAuth(tokens.Verifier(), policy)};
  ASSERT_NO_FATAL_FAILURE(StartServer(options));
  const RequestId id = RequestId::Random();
  const auto once_with = [&](const std::string& token) {
    ChannelOptions channel;
    if (!token.empty()) channel.interceptors = {MakeTokenSender([token] { return token; })};
    const CallOptions call = WithId(id);
    const OnceResult result = SendOnce(ProbeStub(NewChannel(channel)), "secret", call).Wait();
    // What the handler said goes to nobody else either.
    EXPECT_EQ(call.received->trailing.empty(), !result.ok());
    return result.ok() ? absl::StatusOr<uint32_t>(result->getRun()) : result.status();
  };
  EXPECT_THAT(once_with("of alice"), IsOk());
  for (const char* const token : {"", "of eve"}) {
    EXPECT_THAT(once_with(token), StatusIs(absl::StatusCode::kUnauthenticated)) << token;
  }
  EXPECT_THAT(once_with("of bob"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(server_->statistics().calls_recognized, 0u);
  const absl::StatusOr<uint32_t> again = once_with("of alice");
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(*again, 1u) << "the saved answer";
  EXPECT_EQ(server_->statistics().calls_recognized, 1u);
  EXPECT_EQ(runs.count, 1u);
}

}  // namespace
}  // namespace mi7::conformance
