// What a handler does for its caller ends when the caller gives up: nested calls, waits, callbacks.

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include "base/fake_clock.h"
#include "rpc/trace_context.h"
#include "tests/conformance/call/call_conformance.h"
#include "tests/conformance/call/front.h"

namespace mi7::conformance {
namespace {

using Params = Probe::EchoParams::Reader;
using Results = Probe::EchoResults::Builder;

// How a handler ended that nobody waits for any more.
class Ending {
 public:
  void Set(absl::Status status) {
    status_ = std::move(status);
    done_.Notify();
  }
  absl::Status Get() {
    return Happens(done_) ? status_ : absl::InternalError("the handler has not ended");
  }

 private:
  absl::Status status_;
  absl::Notification done_;
};

// Whether `status` is what work ends with whose caller has given up. A deadline passes on three
// clocks: the caller's, whose cancellation may be the first to arrive, the server's, and that of
// the work itself.
testing::AssertionResult IsEndOf(WaysToEnd ends, const absl::Status& status) {
  const bool right = absl::IsCancelled(status) ||
                     (ends == WaysToEnd::kDeadline && absl::IsDeadlineExceeded(status));
  return right ? testing::AssertionSuccess() : testing::AssertionFailure() << status;
}

testing::AssertionResult Stops(const std::stop_token& token) {
  const Deadline patience = Deadline::After(kSoon);
  while (!token.stop_requested()) {
    if (patience.passed()) return testing::AssertionFailure() << "it is not stopped";
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

TEST_P(CallTest, NestedCallHasWhatIsLeftOfTheTime) {
  Start();
  const ProbeStub backend = stub();
  CallOptions own;
  Front front(GetParam(), [&](ServerContext& context, Params, Results) -> Reply {
    auto request = backend.Hold(context.ForNestedCall(own));
    co_return (co_await request.Send()).status();
  });
  const auto remaining = [&](const CallOptions& options) {
    auto call = front.Send(options);
    ProbeImpl::Held held = probe_.TakeHeld();
    if (held.context == nullptr) return absl::ZeroDuration();
    const absl::Duration left = held.context->deadline().remaining();
    held.Answer();
    EXPECT_THAT(call.Wait(), IsOk());
    return left;
  };
  EXPECT_EQ(remaining({}), absl::InfiniteDuration());
  const absl::Duration left = remaining({.deadline = Deadline::After(absl::Seconds(100))});
  EXPECT_GT(left, absl::Seconds(50));
  EXPECT_LE(left, absl::Seconds(100));
  // A nested call may have less time than there is, not more.
  own.deadline = Deadline::After(absl::Seconds(1000));
  EXPECT_LE(remaining({.deadline = Deadline::After(absl::Seconds(100))}), absl::Seconds(100));
  EXPECT_GT(remaining({}), absl::Seconds(500));
}

TEST_P(CallTest, NestedCallEndsWithItsCaller) {
  FakeClock clock;
  for (const WaysToEnd ends : kEnds) {
    SCOPED_TRACE(static_cast<int>(ends));
    Start();
    ASSERT_TRUE(Works());
    const ProbeStub backend = stub();
    Ending ending;
    Front front(GetParam(), [&](ServerContext& context, Params, Results) -> Reply {
      auto request = backend.Hold(context.ForNestedCall());
      ending.Set((co_await request.Send()).status());
      co_return absl::OkStatus();
    });
    front.SendToGiveUp(ends);
    ProbeImpl::Held held = probe_.TakeHeld();
    ASSERT_NE(held.context, nullptr);
    front.GiveUp(ends, clock);
    // The coroutine goes on though its call is not answered.
    EXPECT_TRUE(IsEndOf(ends, ending.Get()));
    EXPECT_TRUE(Stops(held.context->stop_token())) << "the end has reached the backend";
    held.Answer();
  }
}

TEST_P(CallTest, ThreadThatWaitsForANestedCallIsWokenByTheEndOfItsCaller) {
  FakeClock clock;
  Start();
  ASSERT_TRUE(Works());
  const ProbeStub backend = stub();
  std::thread worker;
  Ending ending;
  Front front(GetParam(), [&](ServerContext& context, Params, Results) -> Reply {
    worker = std::thread([&, later = context.Defer()]() mutable {
      ending.Set(backend.Hold(context.ForNestedCall()).Send().Wait().status());
      later.Finish(absl::OkStatus());
    });
    return Reply::Later();
  });
  front.SendToGiveUp(WaysToEnd::kCancel);
  ProbeImpl::Held held = probe_.TakeHeld();
  front.GiveUp(WaysToEnd::kCancel, clock);
  EXPECT_THAT(ending.Get(), StatusIs(absl::StatusCode::kCancelled));
  worker.join();
  held.Answer();
}

TEST_P(CallTest, NestedCallOfACallThatIsOverEndsAtOnce) {
  Start();
  auto call = SendHold(1);
  ProbeImpl::Held held = probe_.TakeHeld();
  call.Cancel();
  ASSERT_TRUE(Stops(held.context->stop_token()));
  const CallOptions nested = held.context->ForNestedCall();
  const EchoResult result = SendEcho("x", nested).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  held.Answer();
  // Also when it was answered meanwhile.
  EXPECT_THAT(SendEcho("x", nested).Wait(), StatusIs(absl::StatusCode::kCancelled));
}

TEST_P(CallTest, AnswerEndsTheNestedCallsThatAreLeft) {
  Start();
  ASSERT_TRUE(Works());
  const ProbeStub backend = stub();
  Ending ending;
  Front front(GetParam(), [&](ServerContext& context, Params, Results) -> Reply {
    // Asks twice, and answers with what comes first.
    backend.Hold(context.ForNestedCall()).Send().Then([&](auto result) {
      ending.Set(result.status());
    });
    auto request = backend.Hold(context.ForNestedCall());
    co_return (co_await request.Send()).status();
  });
  auto call = front.Send();
  ProbeImpl::Held left = probe_.TakeHeld();
  probe_.TakeHeld().Answer();
  EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_THAT(ending.Get(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(Stops(left.context->stop_token()));
  left.Answer();
}

TEST_P(CallTest, NestedCallBelongsToTheSameTrace) {
  Start([](ServerContext& context, Params, Results results) {
    results.setText(context.trace() == nullptr ? "none" : context.trace()->traceparent());
    return absl::OkStatus();
  });
  const ProbeStub backend = stub();
  Front front(GetParam(), [&](ServerContext& context, Params, Results results) -> Reply {
    auto request = backend.Echo(context.ForNestedCall());
    const EchoResult response = co_await request.Send();
    if (response.ok()) results.setText(response->getText());
    co_return response.status();
  });
  const auto trace =
      TraceContext::Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "");
  ASSERT_TRUE(trace);
  const EchoResult traced =
      front.Send({.trace = std::make_shared<const TraceContext>(*trace)}).Wait();
  ASSERT_THAT(traced, IsOk());
  EXPECT_EQ(traced->getText(), trace->traceparent());
  const EchoResult untraced = front.Send().Wait();
  ASSERT_THAT(untraced, IsOk());
  EXPECT_EQ(untraced->getText(), "none");
}

TEST_P(CallTest, HandlerIsToldThatItsCallerHasGivenUp) {
  FakeClock clock;
  for (const WaysToEnd ends : kEnds) {
    SCOPED_TRACE(static_cast<int>(ends));
    Start();
    CallOptions options;
    if (ends == WaysToEnd::kDeadline) options.deadline = Deadline::After(kCallersTime);
    std::optional<PendingCall<Probe::HoldResults>> call(SendHold(1, options));
    ProbeImpl::Held held = probe_.TakeHeld();
    ASSERT_NE(held.context, nullptr);
    absl::Notification told;
    std::stop_callback on_cancel(held.context->stop_token(), [&] { told.Notify(); });
    if (ends == WaysToEnd::kCancel) call->Cancel();
    if (ends == WaysToEnd::kDisconnect) channel_->Close();
    // Nobody waits for the call: the server looks at the clock by itself.
    if (ends == WaysToEnd::kDeadline) clock.Advance(kCallersTime);
    EXPECT_TRUE(Happens(told));
    EXPECT_TRUE(held.context->cancelled());
    held.Answer();
  }
}

TEST_P(CallTest, HandlerThatAsksLateIsToldAtOnce) {
  Start();
  auto call = SendHold(1);
  ProbeImpl::Held held = probe_.TakeHeld();
  call.Cancel();
  const Deadline patience = Deadline::After(kSoon);
  while (!held.context->cancelled()) ASSERT_FALSE(patience.passed());
  bool told = false;
  std::stop_callback on_cancel(held.context->stop_token(), [&] { told = true; });
  EXPECT_TRUE(told);
  held.Answer();
}

TEST_P(CallTest, AnswerIsNoReasonToTellAnybody) {
  FakeClock clock;
  Start();
  auto call = SendHold(1, {.deadline = Deadline::After(kCallersTime)});
  ProbeImpl::Held held = probe_.TakeHeld();
  ASSERT_NE(held.context, nullptr);
  const std::stop_token token = held.context->stop_token();
  const Deadline deadline = held.context->deadline();
  held.Answer();
  ASSERT_THAT(call.Wait(), IsOk());
  // Nor is the deadline, which passes later.
  auto other = SendHold(2, {.deadline = Deadline::AtNanos(deadline.at_ns() + 20'000'000)});
  ASSERT_TRUE(probe_.AwaitHeld(1));
  clock.Advance(kCallersTime);
  EXPECT_THAT(other.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_FALSE(token.stop_requested());
  probe_.TakeHeld().Answer();
}

TEST_P(CallTest, SleepOfAHandlerLastsAsLongAsItShould) {
  absl::Duration slept;
  Start([&](ServerContext& context, Params, Results) -> Reply {
    const int64_t start_ns = MonotonicNanos();
    const absl::Status status = co_await context.Sleep(absl::Milliseconds(20));
    slept = absl::Nanoseconds(MonotonicNanos() - start_ns);
    co_return status;
  });
  EXPECT_THAT(EchoText("x"), IsOk());
  EXPECT_GE(slept, absl::Milliseconds(20));
  EXPECT_THAT(EchoText("x", {.deadline = Deadline::After(kSoon)}), IsOk());
}

TEST_P(CallTest, SleepOfAHandlerEndsWithItsCaller) {
  FakeClock clock;
  for (const WaysToEnd ends : kEnds) {
    SCOPED_TRACE(static_cast<int>(ends));
    absl::Notification asleep;
    Ending ending;
    Front front(GetParam(), [&](ServerContext& context, Params, Results) -> Reply {
      asleep.Notify();
      ending.Set(co_await context.Sleep(absl::Hours(1)));
      co_return absl::OkStatus();
    });
    front.SendToGiveUp(ends);
    ASSERT_TRUE(Happens(asleep));
    front.GiveUp(ends, clock);
    EXPECT_TRUE(IsEndOf(ends, ending.Get()));
  }
}

TEST_P(CallTest, SleepsEndWhenTheServerDoes) {
  std::atomic<int> asleep{0}, ended{0};
  const Ends ends(this);
  Start([&](ServerContext& context, Params, Results) -> Reply {
    ++asleep;
    const absl::Status slept = co_await context.Sleep(absl::Hours(1));
    EXPECT_THAT(slept, StatusIs(absl::StatusCode::kCancelled));
    ++ended;
    co_return slept;
  });
  for (int i = 0; i < 10; ++i) SendEcho("x").Then([](EchoResult) {});
  const Deadline patience = Deadline::After(kSoon);
  while (asleep != 10) ASSERT_FALSE(patience.passed());
  StopServer();
  EXPECT_EQ(ended, 10) << "no handler is left when the server is gone";
}

TEST_P(CallTest, SleepsAndCancellationsRace) {
  std::atomic<int> running{0};
  const Ends ends(this);
  Start([&](ServerContext& context, Params params, Results results) -> Reply {
    ++running;
    const auto us = static_cast<int64_t>(params.getText().size());
    const absl::Status slept = co_await context.Sleep(absl::Microseconds(us));
    results.setText(params.getText());
    --running;
    co_return slept;
  });
  for (int i = 0; i < 500; ++i) {
    auto call = SendEcho(std::string(static_cast<size_t>(i % 97), 'x'));
    if (i % 3 == 0) std::this_thread::yield();
    if (i % 7 != 0) call.Cancel();
    static_cast<void>(call.Wait());
  }
  EXPECT_TRUE(Works());
  const Deadline patience = Deadline::After(kSoon);
  while (running != 0) ASSERT_FALSE(patience.passed());
}

}  // namespace
}  // namespace mi7::conformance
