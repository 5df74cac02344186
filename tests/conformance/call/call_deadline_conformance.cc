// Deadlines and cancellation.

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "base/fake_clock.h"
#include "rpc/task.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::StartsWith;

constexpr absl::Duration kShort = absl::Milliseconds(30);

// Makes calls that end at a deadline: `call` with longer and longer times, until one has left
// before its deadline passed, which takes a slow machine longer than kShort. Its status.
template <typename Call>
absl::Status UntilItWasSent(Call call) {
  for (absl::Duration time = kShort;; time *= 4) {
    const absl::Status status = call(Deadline::After(time));
    if (OutcomeOf(status) != CallOutcome::kNotSent || time > kSoon) return status;
  }
}

// Waits until the handler of `held` sees that its caller has given up.
testing::AssertionResult SeesCancellation(const ProbeImpl::Held& held) {
  const Deadline patience = Deadline::After(kSoon);
  while (!held.context->cancelled()) {
    if (patience.passed()) return testing::AssertionFailure() << "not cancelled";
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

TEST_P(CallTest, BlockingCallEndsAtItsDeadline) {
  Start();
  ASSERT_TRUE(Works());
  const absl::Status result = UntilItWasSent([this](Deadline deadline) {
    const absl::Status status = SendHold(1, {.deadline = deadline}).Wait().status();
    EXPECT_TRUE(deadline.passed()) << "not early";
    return status;
  });
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               StartsWith("Probe.hold: deadline passed")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ProbeImpl::Held held = probe_.TakeHeld();
  ASSERT_NE(held.context, nullptr);
  EXPECT_TRUE(SeesCancellation(held));
  held.Answer();  // too late, and no harm
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, BlockingFirstCallEndsAtItsDeadline) {
  Start();
  const Deadline deadline = Deadline::After(kShort);
  EXPECT_THAT(SendHold(1, {.deadline = deadline}).Wait(),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_TRUE(deadline.passed());
}

TEST_P(CallTest, CallbackAndCoroutineEndAtTheirDeadlines) {
  Start();
  ASSERT_TRUE(Works());
  const absl::Status by_callback = UntilItWasSent([this](Deadline deadline) {
    struct End {
      absl::Notification done;
      absl::Status status;
    };
    const auto end = std::make_shared<End>();
    SendHold(1, {.deadline = deadline}).Then([end, deadline](auto result) {
      end->status = result.status();
      EXPECT_TRUE(deadline.passed());
      end->done.Notify();
    });
    return Happens(end->done) ? end->status : absl::InternalError("the call does not end");
  });
  const auto coroutine = [](ProbeStub stub, CallOptions options) -> Task<absl::Status> {
    auto request = stub.Hold(options);
    co_return (co_await request.Send()).status();
  };
  EXPECT_THAT(BlockOn(coroutine(stub(), {.deadline = Deadline::After(kShort)})),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(by_callback, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                    StartsWith("Probe.hold: deadline passed")));
  EXPECT_THAT(by_callback, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, HandlerSeesTheDeadline) {
  Start();
  const Deadline deadline = Deadline::After(absl::Seconds(100));
  auto call = SendHold(1, {.deadline = deadline});
  ProbeImpl::Held held = probe_.TakeHeld();
  const absl::Duration remaining = held.context->deadline().remaining();
  EXPECT_GT(remaining, absl::Seconds(50));
  EXPECT_LE(remaining, absl::Seconds(100) + absl::Microseconds(2));
  EXPECT_FALSE(held.context->cancelled());
  held.Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, HandlerSeesThatThereIsNoDeadline) {
  Start();
  auto call = SendHold(1);
  ProbeImpl::Held held = probe_.TakeHeld();
  EXPECT_TRUE(held.context->deadline().infinite());
  held.Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, DeadlineThatHasPassedSendsNothing) {
  std::atomic<int> ran{0};
  Start([&](ServerContext& context, Probe::EchoParams::Reader params,
            Probe::EchoResults::Builder results) {
    ++ran;
    return Echo(context, params, results);
  });
  for (const bool connected : {false, true}) {
    SCOPED_TRACE(connected);
    if (connected) {
      ASSERT_TRUE(Works());
      ASSERT_EQ(ran, 1);
    }
    for (const Deadline deadline : {Deadline::AtNanos(0), Deadline::After(absl::ZeroDuration())}) {
      const EchoResult result = SendEcho("x", {.deadline = deadline}).Wait();
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                   StartsWith("Probe.echo: deadline passed before the send")));
      EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
    }
  }
  ASSERT_TRUE(Works());
  EXPECT_EQ(ran, 2);
}

TEST_P(CallTest, DeadlinePassesWhileTheCallWaitsForAConnection) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel();
  const Deadline deadline = Deadline::After(kShort);
  const EchoResult blocking = SendEcho("x", {.deadline = deadline, .wait_for_ready = true}).Wait();
  EXPECT_TRUE(deadline.passed());
  EXPECT_THAT(blocking, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(blocking, OutcomeIs(CallOutcome::kNotSent));

  absl::Notification done;
  absl::Status by_callback;
  SendEcho("x", {.deadline = Deadline::After(kShort), .wait_for_ready = true})
      .Then([&](EchoResult result) {
        by_callback = result.status();
        done.Notify();
      });
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(by_callback, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(by_callback, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, AnswersInTimeAreNotHurtByDeadlines) {
  Start();
  const CallOptions options = {.deadline = Deadline::After(kSoon)};
  for (int i = 0; i < 200; ++i) ASSERT_THAT(EchoText("x", options), IsOk());
  Countdown all(200);
  std::atomic<int> right{0};
  for (int i = 0; i < 200; ++i) {
    SendEcho("x", options).Then([&](EchoResult result) {
      right += result.ok();
      all.DecrementCount();
    });
  }
  all.Wait();
  EXPECT_EQ(right, 200);
}

TEST_P(CallTest, ManyDeadlinesAndAnswersRace) {
  Start();
  constexpr int kCalls = 2000;
  std::atomic<int> answered{0}, late{0}, other{0};
  Countdown all(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    const CallOptions options = {.deadline = Deadline::After(absl::Microseconds(i % 400))};
    const auto count = [&](const absl::Status& status) {
      (status.ok() ? answered : absl::IsDeadlineExceeded(status) ? late : other) += 1;
      all.DecrementCount();
    };
    if (i % 3 == 0) {
      count(SendEcho("x", options).Wait().status());
    } else {
      SendEcho("x", options).Then([count](EchoResult result) { count(result.status()); });
    }
  }
  all.Wait();
  EXPECT_EQ(other, 0);
  EXPECT_EQ(answered + late, kCalls);
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, CancelEndsTheCallAndTellsTheHandler) {
  Start();
  auto call = SendHold(1);
  ProbeImpl::Held held = probe_.TakeHeld();
  EXPECT_FALSE(held.context->cancelled());
  call.Cancel();
  EXPECT_TRUE(SeesCancellation(held));
  const auto result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled, StartsWith("Probe.hold: cancelled")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  held.Answer();
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, DroppingTheHandleCancels) {
  Start();
  {
    auto call = SendHold(1);
    ASSERT_TRUE(probe_.AwaitHeld(1));
  }
  ProbeImpl::Held held = probe_.TakeHeld();
  EXPECT_TRUE(SeesCancellation(held));
  held.Answer();
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, ReplacingTheHandleCancels) {
  Start();
  auto call = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  call = SendHold(2);
  ASSERT_TRUE(probe_.AwaitHeld(2));
  ProbeImpl::Held first = probe_.TakeHeld();
  EXPECT_EQ(first.number, 1u);
  EXPECT_TRUE(SeesCancellation(first));
  ProbeImpl::Held second = probe_.TakeHeld();
  EXPECT_FALSE(second.context->cancelled());
  second.Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, CancelAfterTheAnswerDoesNothing) {
  Start();
  auto call = SendEcho("x");
  ASSERT_TRUE(Works()) << "answered after the first one";
  call.Cancel();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, CancelWhileTheCallWaitsForAConnection) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel();
  auto call = SendEcho("x", {.wait_for_ready = true});
  call.Cancel();
  const EchoResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, CancellationsAndAnswersRace) {
  Start();
  for (int i = 0; i < 1000; ++i) {
    auto call = SendEcho("x");
    if (i % 2 == 0) call.Cancel();
    if (i % 3 == 0) continue;  // dropped
    const EchoResult result = call.Wait();
    if (!result.ok()) {
      ASSERT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
    }
  }
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, CancelledCallsFreeTheirPlaces) {
  ServerOptions options;
  options.limits.calls_in_flight_max = 2;
  Start(options);
  for (int round = 0; round < 5; ++round) {
    auto first = SendHold(1), second = SendHold(2);
    ASSERT_TRUE(probe_.AwaitHeld(2));
    first.Cancel();
    second.Cancel();
    probe_.TakeHeld().Answer();
    probe_.TakeHeld().Answer();
    // The places are free once both returns are here.
    const Deadline patience = Deadline::After(kSoon);
    while (!EchoText("x").ok()) ASSERT_FALSE(patience.passed());
  }
}

TEST_P(CallTest, DeadlineCountsForAllAttemptsTogether) {
  FakeClock clock;
  absl::Notification again, told, done;
  ServerContext* second = nullptr;
  DeferredCall held;
  std::optional<std::stop_callback<std::function<void()>>> on_stop;
  absl::Status ended;
  const Ends ends(this);
  probe_.on_again = [&](ServerContext& context, auto, auto) -> Reply {
    if (context.attempt() == 1) {
      clock.Advance(absl::Minutes(40));
      return absl::UnavailableError("busy");
    }
    second = &context;
    held = context.Defer();
    on_stop.emplace(context.stop_token(), [&told] { told.Notify(); });
    again.Notify();
    return Reply::Later();
  };
  ServerOptions server;
  server.keepalive.interval = absl::InfiniteDuration();
  Start(server, {.keepalive = {.interval = absl::InfiniteDuration()}});
  ASSERT_THAT(channel_->Connect({}), IsOk());
  const CallOptions options = {.deadline = Deadline::After(absl::Hours(1)),
                               .repeat = Repeat::kRetryable};
  stub().Again(options).Send().Then([&](auto result) {
    ended = result.status();
    done.Notify();
  });
  ASSERT_TRUE(Happens(again));
  EXPECT_EQ(second->attempt(), 2);
  // What the first attempt has taken is gone.
  const absl::Duration remaining = second->deadline().remaining();
  ASSERT_LE(remaining, absl::Minutes(20) + absl::Milliseconds(1));
  EXPECT_GT(remaining, absl::Minutes(10));
  EXPECT_FALSE(second->cancelled());
  EXPECT_FALSE(told.HasBeenNotified());
  EXPECT_FALSE(done.HasBeenNotified());
  clock.Advance(absl::Minutes(20));
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(ended, StatusIs(absl::StatusCode::kDeadlineExceeded,
                              StartsWith("Probe.again: deadline passed")));
  EXPECT_THAT(ended, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_TRUE(Happens(told));
  EXPECT_TRUE(second->cancelled());
  on_stop.reset();
  held.Finish(absl::OkStatus());
}

// It keeps the thread busy that would read a cancellation, but the time needs none.
TEST_P(CallTest, HandlerThatAnswersInlineSeesItsDeadlineByPolling) {
  std::atomic<bool> saw{false};
  const Ends ends(this);
  Start([&saw](ServerContext& context, Probe::EchoParams::Reader, Probe::EchoResults::Builder) {
    const Deadline patience = Deadline::After(kSoon);
    while (!context.cancelled() && !patience.passed()) std::this_thread::yield();
    if (patience.passed()) return Reply(absl::OkStatus());
    saw = true;
    return Reply(absl::DeadlineExceededError("seen by the handler"));
  });
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  // On a busy machine the time of some is over before their handler begins.
  const Deadline patience = Deadline::After(kSoon);
  while (!saw && !patience.passed()) {
    EXPECT_THAT(EchoText("text", {.deadline = Deadline::After(absl::Milliseconds(20))}),
                StatusIs(absl::StatusCode::kDeadlineExceeded));
  }
  EXPECT_TRUE(saw);
}

TEST_P(CallTest, CallsThatExpireBeforeTheyLeftSayThatTheyWereNotSent) {
  FakeClock clock;  // or the deadline would pass while a slow machine makes the calls
  absl::Notification go_on;
  std::atomic<uint32_t> ran{0};
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    EXPECT_TRUE(Happens(go_on));
    ran.fetch_add(1);
    return Echo(context, params, results);
  };
  ServerOptions options;
  options.event_loops = 1;
  // More than the system takes from a client whose server does not read.
  constexpr uint32_t kCalls = 400;
  constexpr uint32_t kBytes = 64 << 10;
  Countdown ended(kCalls);
  std::atomic<uint32_t> too_late{0};    // to be sent at all
  std::atomic<uint32_t> taken_back{0};  // while they waited to leave
  std::atomic<uint32_t> may_have_run{0};
  const Ends ends(this);
  Start(options);
  constexpr absl::Duration kTime = absl::Seconds(40);  // shorter than write_stall_timeout
  const Deadline deadline = Deadline::After(kTime);
  for (uint32_t i = 0; i < kCalls; ++i) {
    auto request = EchoRequest("text", {.deadline = i == 0 ? Deadline::Infinite() : deadline});
    request->initData(i == 0 ? 0 : kBytes);
    request.Send().Then([&, i](const EchoResult& result) {
      if (i == 0) {
        EXPECT_THAT(result, IsOk());
      } else {
        EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded));
        if (OutcomeOf(result.status()) == CallOutcome::kUnknown) {
          may_have_run.fetch_add(1);
        } else {
          EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
          const bool early = absl::StrContains(result.status().message(), "before the send");
          (early ? too_late : taken_back).fetch_add(1);
        }
      }
      ended.DecrementCount();
    });
    // So that it is the first, and blocks the server, before the others expire.
    if (i == 0) {
      ASSERT_TRUE(channel_->Connect(Deadline::After(kSoon)).ok());
    }
  }
  clock.Advance(kTime);
  const Deadline patience = Deadline::After(kSoon);
  while (too_late + taken_back + may_have_run != kCalls - 1 && !patience.passed()) {
    std::this_thread::yield();
  }
  EXPECT_EQ(too_late + taken_back + may_have_run, kCalls - 1);
  go_on.Notify();
  ended.Wait();
  EXPECT_TRUE(Works());
  // In process a call is with the server at once.
  if (GetParam().transport != std::string("inproc")) {
    EXPECT_GT(taken_back.load(), 0u);
  }
  EXPECT_LE(ran.load(), may_have_run.load() + 2) << "those that were not sent have not run";
}

}  // namespace
}  // namespace mi7::conformance
