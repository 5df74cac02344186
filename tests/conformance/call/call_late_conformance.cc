// Calls whose deadline has passed when their handler would begin, and what a server counts.

#include <atomic>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>

#include "base/fake_clock.h"
#include "rpc/interceptor.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

// Keeps each call on the server until its deadline has passed.
class Dawdler final : public Interceptor {
 public:
  void OnStart(InterceptedCall& call) override {
    while (!call.deadline().infinite() && !call.deadline().passed()) std::this_thread::yield();
  }
  void OnEnd(InterceptedCall& call) override { ended_with = call.status().code(); }

  std::atomic<absl::StatusCode> ended_with{absl::StatusCode::kUnknown};
};

TEST_P(CallTest, CallThatIsTooLateIsNotBegunAndCounted) {
  std::atomic<int> ran{0};
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    ++ran;
    return Echo(context, params, results);
  };
  const auto dawdler = std::make_shared<Dawdler>();
  ServerOptions options;
  options.interceptors = {dawdler};
  Start(options);
  ASSERT_TRUE(channel_->Connect(Deadline::After(kSoon)).ok());
  EXPECT_THAT(EchoText("x", {.deadline = Deadline::After(absl::Milliseconds(10))}),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  // The caller may have its end before the server.
  const Deadline patience = Deadline::After(kSoon);
  while (server_->statistics().calls_dropped_late == 0) ASSERT_FALSE(patience.passed());
  while (dawdler->ended_with == absl::StatusCode::kUnknown) ASSERT_FALSE(patience.passed());
  EXPECT_EQ(dawdler->ended_with, absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(server_->statistics().calls_accepted, 0u);
  EXPECT_THAT(EchoText("y"), IsOk()) << "without a deadline nothing is too late";
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(server_->statistics().calls_dropped_late, 1u);
}

// Gives each call on the server so much time.
class TimeLimit final : public Interceptor {
 public:
  explicit TimeLimit(absl::Duration time) : time_(time) {}
  void OnStart(InterceptedCall& call) override { call.set_deadline(Deadline::After(time_)); }
  void OnEnd(InterceptedCall&) override {}

 private:
  const absl::Duration time_;
};

TEST_P(CallTest, HandlerIsToldWhenTheDeadlinePassesThatItsServerHasSet) {
  FakeClock clock;
  ServerOptions options;
  options.interceptors = {std::make_shared<TimeLimit>(absl::Hours(1))};
  options.keepalive.interval = absl::InfiniteDuration();
  Start(options, {.keepalive = {.interval = absl::InfiniteDuration()}});
  ASSERT_THAT(channel_->Connect({}), IsOk());
  // Of a caller who would wait longer, or for ever.
  for (const Deadline deadline : {Deadline::After(absl::Hours(100)), Deadline::Infinite()}) {
    absl::Notification told;
    auto call = SendHold(1, {.deadline = deadline});
    ProbeImpl::Held held = probe_.TakeHeld();
    ASSERT_NE(held.context, nullptr);
    ASSERT_LE(held.context->deadline().remaining(), absl::Hours(1));
    {
      const std::stop_callback on_stop(held.context->stop_token(), [&told] { told.Notify(); });
      EXPECT_FALSE(held.context->cancelled());
      EXPECT_FALSE(told.HasBeenNotified());
      clock.Advance(absl::Hours(1));
      EXPECT_TRUE(Happens(told));
      EXPECT_TRUE(held.context->cancelled());
    }
    held.Answer();
    EXPECT_THAT(call.Wait(), IsOk()) << "the caller's own deadline is another one";
  }
}

TEST_P(CallTest, CallWhoseServerGivesItNoTimeIsNotBegunAndCounted) {
  std::atomic<int> ran{0};
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    ++ran;
    return Echo(context, params, results);
  };
  ServerOptions options;
  options.interceptors = {std::make_shared<TimeLimit>(absl::ZeroDuration())};
  Start(options);
  for (const CallOptions& call : {CallOptions(), {.deadline = Deadline::After(kSoon)}}) {
    EXPECT_THAT(EchoText("x", call),
                StatusIs(absl::StatusCode::kDeadlineExceeded,
                         "Probe.echo: deadline passed before the handler began"));
  }
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(server_->statistics().calls_dropped_late, 2u);
  EXPECT_EQ(server_->statistics().calls_accepted, 0u);
}

TEST_P(CallTest, ServerCountsWhatItDoes) {
  Start();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Works());
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  const std::shared_ptr<Channel> other = NewChannel();
  EXPECT_THAT(ProbeStub(other).Echo().Send().Wait(), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
  EXPECT_EQ(server_->statistics().calls_accepted, 5u);
  EXPECT_EQ(server_->statistics().calls_refused, 0u);
  EXPECT_GE(server_->statistics().connections_accepted, 2u);
  // Of connections that are gone, too.
  other->Close();
  channel_->Close();
  ASSERT_TRUE(HasConnections(0));
  EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_EQ(server_->statistics().calls_accepted, 5u);
}

}  // namespace
}  // namespace mi7::conformance
