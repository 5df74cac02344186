// Idempotent calls that are sent more than once at a time, and the ledger of all repeated calls.

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::StartsWith;

// Connects and repeats without delay, and without a budget.
ChannelOptions WithoutBudget() {
  ChannelOptions options;
  options.backoff.initial = absl::Milliseconds(1);
  options.backoff.max = absl::Milliseconds(5);
  options.retry.policy.backoff.initial = absl::Milliseconds(1);
  options.retry.policy.backoff.max = absl::Seconds(1);
  options.retry.budget.tokens_max = 1e9;
  return options;
}

CallOptions Hedged(absl::Duration delay, int attempts_max = 3) {
  return {.repeat = Repeat::kIdempotent,
          .retry = std::make_shared<const RetryPolicy>(
              RetryPolicy{.attempts_max = attempts_max, .hedge_delay = delay})};
}

TEST_P(CallTest, HedgeAnswersForACallThatHangs) {
  Start();
  auto call = SendHold(1, Hedged(absl::Milliseconds(5), 2));
  ASSERT_TRUE(probe_.AwaitHeld(2)) << "the second is sent though nobody waits for the call";
  ProbeImpl::Held hanging = probe_.TakeHeld(), hedge = probe_.TakeHeld();
  EXPECT_EQ(hedge.context->attempt(), 2);
  hedge.Answer();
  const auto result = call.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getNumber(), 1u);
  ASSERT_NE(hanging.context, nullptr);
  // The loser is cancelled.
  const Deadline patience = Deadline::After(kSoon);
  while (!hanging.context->cancelled()) ASSERT_FALSE(patience.passed());
  hanging.Answer();
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, HedgeIsCancelledWhenTheFirstAttemptAnswers) {
  absl::Notification done;
  const Ends ends(this);
  Start();
  SendHold(1, Hedged(absl::Milliseconds(5), 2)).Then([&](auto result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  ASSERT_TRUE(probe_.AwaitHeld(2));
  probe_.TakeHeld().Answer();
  ASSERT_TRUE(Happens(done));
  ProbeImpl::Held hedge = probe_.TakeHeld();
  const Deadline patience = Deadline::After(kSoon);
  while (!hedge.context->cancelled()) ASSERT_FALSE(patience.passed());
  hedge.Answer();
}

TEST_P(CallTest, CancelEndsAllAttempts) {
  Start();
  auto call = SendHold(1, Hedged(absl::Milliseconds(2), 4));
  ASSERT_TRUE(probe_.AwaitHeld(4));
  call.Cancel();
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
  for (int i = 0; i < 4; ++i) {
    ProbeImpl::Held held = probe_.TakeHeld();
    const Deadline patience = Deadline::After(kSoon);
    while (!held.context->cancelled()) ASSERT_FALSE(patience.passed());
    held.Answer();
  }
}

TEST_P(CallTest, AnswerThatIsFinalEndsAHedgedCall) {
  Start();
  auto call = SendHold(1, Hedged(absl::Milliseconds(2), 2));
  ASSERT_TRUE(probe_.AwaitHeld(2));
  ProbeImpl::Held first = probe_.TakeHeld(), hedge = probe_.TakeHeld();
  hedge.call.Finish(absl::NotFoundError("no such thing"));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kNotFound, StartsWith("no such thing")));
  first.Answer();
}

TEST_P(CallTest, HedgedCallSurvivesAnAttemptThatFails) {
  Start();
  auto call = SendHold(1, Hedged(absl::Milliseconds(2), 2));
  ASSERT_TRUE(probe_.AwaitHeld(2));
  ProbeImpl::Held first = probe_.TakeHeld(), hedge = probe_.TakeHeld();
  first.call.Finish(absl::UnavailableError("busy"));
  hedge.Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, CallThatIsNotIdempotentIsNotHedged) {
  Start();
  CallOptions options = Hedged(absl::ZeroDuration());
  options.repeat = Repeat::kRetryable;
  auto call = SendHold(1, options);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  EXPECT_TRUE(Works());
  auto other = SendHold(2);
  ASSERT_TRUE(probe_.AwaitHeld(2));
  EXPECT_EQ(probe_.TakeHeld().number, 1u);
  EXPECT_EQ(probe_.TakeHeld().number, 2u) << "nothing between";
}

TEST_P(CallTest, HedgesHaveABudget) {
  ChannelOptions options = WithoutBudget();
  options.retry.budget = {.tokens_max = 1, .tokens_per_call = 0, .tokens_per_second = 0};
  Start({}, options);
  auto first = SendHold(1, Hedged(absl::Milliseconds(1)));
  ASSERT_TRUE(probe_.AwaitHeld(2)) << "with the only token";
  auto second = SendHold(2, Hedged(absl::Milliseconds(1)));
  // Of another channel, with a budget of its own: when its hedge is there, the time of those above
  // is over.
  const std::shared_ptr<Channel> other = NewChannel(WithoutBudget());
  auto request = ProbeStub(other).Hold(Hedged(absl::Milliseconds(20), 2));
  request->setNumber(3);
  auto third = request.Send();
  ASSERT_TRUE(probe_.AwaitHeld(5));
  std::map<uint64_t, int> attempts;
  for (int i = 0; i < 5; ++i) {
    ProbeImpl::Held held = probe_.TakeHeld();
    ++attempts[held.number];
    held.Answer();
  }
  EXPECT_EQ(attempts, (std::map<uint64_t, int>{{1, 2}, {2, 1}, {3, 2}}));
}

TEST_P(CallTest, HedgesAndAnswersRace) {
  Start();
  channel_ = NewChannel(WithoutBudget());
  constexpr int kCalls = 500;
  Countdown all(kCalls);
  std::atomic<int> right{0};
  for (int i = 0; i < kCalls; ++i) {
    const CallOptions hedged = Hedged(absl::Microseconds(i % 100));
    if (i % 2 == 0) {
      right += EchoText("x", hedged).ok();
      all.DecrementCount();
    } else {
      SendEcho("x", hedged).Then([&](EchoResult result) {
        right += result.ok();
        all.DecrementCount();
      });
    }
  }
  all.Wait();
  EXPECT_EQ(right, kCalls);
}

// Servers are stopped in all ways while calls are made that are repeated. What ran is known.
TEST_P(CallTest, LedgerOfRepeatedCallsIsRight) {
  std::mutex mutex;
  std::vector<int> ran(1);  // by number of the call
  const Ends ends(this);
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    const auto number = static_cast<size_t>(std::stoi(params.getText().cStr()));
    {
      const std::lock_guard lock(mutex);
      if (ran.size() <= number) ran.resize(number + 1);
      ++ran[number];
    }
    return Echo(context, params, results);
  };
  ChannelOptions options = WithoutBudget();
  options.retry.policy.attempts_max = 1000;
  Start({}, options);

  struct Entry {
    Repeat repeat;
    absl::Status status;
  };
  constexpr Repeat kRepeats[] = {Repeat::kUnlessItRan, Repeat::kRetryable, Repeat::kIdempotent};
  std::vector<std::vector<std::pair<int, Entry>>> ledgers(3);
  std::atomic<bool> stop{false};
  std::atomic<int> next{1};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      while (!stop) {
        const int number = next++;
        const absl::Status status =
            SendEcho(std::to_string(number), {.repeat = kRepeats[t]}).Wait().status();
        ledgers[t].emplace_back(number, Entry{kRepeats[t], status});
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    const int seen = next;
    const Deadline patience = Deadline::After(kSoon);
    while (next < seen + 30 && !patience.passed()) std::this_thread::yield();
    if (i % 2 == 0) {
      StopServer();
    } else {
      EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
    }
    ASSERT_NO_FATAL_FAILURE(RestartServer());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();

  ran.resize(static_cast<size_t>(next));
  for (const auto& ledger : ledgers) {
    for (const auto& [number, entry] : ledger) {
      const int times = ran[static_cast<size_t>(number)];
      const CallOutcome outcome = OutcomeOf(entry.status);
      if (entry.status.ok()) {
        EXPECT_GE(times, 1) << number;
      } else {
        EXPECT_THAT(entry.status, StatusIs(absl::StatusCode::kUnavailable));
        // What has not run is repeated, since all of these are small.
        EXPECT_EQ(outcome, CallOutcome::kUnknown) << entry.status;
      }
      if (entry.repeat == Repeat::kIdempotent) {
        EXPECT_THAT(entry.status, IsOk());
      } else {
        EXPECT_LE(times, 1) << number << " ran more than once";
      }
    }
  }
}

}  // namespace
}  // namespace mi7::conformance
