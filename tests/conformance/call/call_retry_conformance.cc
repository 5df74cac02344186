// Calls that are repeated by themselves: which, when, how often.

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "rpc/metadata.h"
#include "rpc/retry_info.h"
#include "rpc/task.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

using AgainResult = absl::StatusOr<Response<Probe::AgainResults>>;

std::shared_ptr<const RetryPolicy> Policy(RetryPolicy policy) {
  return std::make_shared<const RetryPolicy>(policy);
}

// The attempts that a handler saw.
class Attempts {
 public:
  // `answer` is given the number of the attempt, from 1.
  explicit Attempts(std::function<absl::Status(int attempt)> answer) : answer_(std::move(answer)) {}

  AgainHandler handler() {
    return [this](ServerContext& context, auto, Probe::AgainResults::Builder results) {
      results.setAttempt(static_cast<uint32_t>(context.attempt()));
      const std::lock_guard lock(mutex_);
      seen_.push_back(context.attempt());
      times_ns_.push_back(MonotonicNanos());
      return answer_(context.attempt());
    };
  }
  std::vector<int> seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  // Between the i-th and the next.
  absl::Duration Gap(size_t i) {
    const std::lock_guard lock(mutex_);
    return absl::Nanoseconds(times_ns_.at(i + 1) - times_ns_.at(i));
  }

 private:
  const std::function<absl::Status(int)> answer_;
  std::mutex mutex_;
  std::vector<int> seen_;
  std::vector<int64_t> times_ns_;
};

Attempts FailsUntil(int good_attempt, absl::Status failure = absl::UnavailableError("busy")) {
  return Attempts([good_attempt, failure](int attempt) {
    return attempt < good_attempt ? failure : absl::OkStatus();
  });
}

// --- What was not sent

TEST_P(CallTest, UnsentCallGoesAlongWithAttemptsToConnect) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  ChannelOptions options = Impatient();
  options.retry.policy.attempts_max = 100'000;  // as long as it takes
  channel_ = NewChannel(options);
  absl::Notification done;
  const Ends ends(this);
  auto blocking = SendEcho("blocking");
  SendEcho("callback").Then([&](EchoResult result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  // One that is not repeated shows that an attempt failed meanwhile.
  EXPECT_THAT(EchoText("x", {.repeat = Repeat::kNever}), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  EXPECT_THAT(blocking.Wait(), IsOk());
  EXPECT_TRUE(Happens(done));
}

TEST_P(CallTest, UnsentCallFailsAfterSoManyAttemptsToConnect) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  ChannelOptions options = Impatient();
  options.retry.policy.attempts_max = 3;
  channel_ = NewChannel(options);
  const EchoResult result = SendEcho("x").Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(endpoint_)));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, UnsentCallDoesNotWaitForAConnectionBeyondItsDeadline) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  ChannelOptions options = Impatient();
  options.backoff.initial = options.backoff.max = absl::Minutes(1);
  options.retry.policy.backoff.max = absl::Hours(1);
  channel_ = NewChannel(options);
  const EchoResult result = SendEcho("x", {.deadline = Deadline::After(absl::Seconds(30))}).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable)) << "why, rather than too late";
}

TEST_P(CallTest, RequestThatWasBuiltForAConnectionThatIsGoneIsSentByTheNext) {
  Start({}, Impatient());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Works());
    // Built in the memory of a connection that ends before the call is sent.
    auto small = EchoRequest("small");
    auto large = EchoRequest("large");
    large->initData(200'000)[199'999] = 7;
    StopServer();
    const Deadline patience = Deadline::After(kSoon);
    while (channel_->state() == ChannelState::kReady) {
      ASSERT_FALSE(patience.passed());
      std::this_thread::yield();
    }
    ASSERT_NO_FATAL_FAILURE(RestartServer());
    const EchoResult small_result = small.Send().Wait();
    ASSERT_THAT(small_result, IsOk());
    EXPECT_EQ(small_result->getText(), "small");
    const EchoResult large_result = large.Send().Wait();
    ASSERT_THAT(large_result, IsOk());
    EXPECT_EQ(large_result->getData()[199'999], 7);
  }
}

// --- What may have run

TEST_P(CallTest, CallThatMayHaveRunIsNotRepeated) {
  std::atomic<int> ran{0};
  probe_.on_again = [&](ServerContext& context, auto, auto) {
    ++ran;
    static_cast<void>(context);
    return absl::UnavailableError("busy");
  };
  Start({}, Impatient());
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  StopServer();
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  const auto result = held.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("may have run")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ASSERT_TRUE(Works());
  probe_.TakeHeld().Answer();
}

TEST_P(CallTest, IdempotentCallIsRepeatedWhenItMayHaveRun) {
  ChannelOptions options = Impatient();
  options.retry.policy.attempts_max = 100'000;  // until there is a server again
  Start({}, options);
  absl::Notification done;
  const Ends ends(this);
  auto blocking = SendHold(1, {.repeat = Repeat::kIdempotent});
  SendHold(2, {.repeat = Repeat::kIdempotent}).Then([&](auto result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  ASSERT_TRUE(probe_.AwaitHeld(2));
  ProbeImpl::Held first = probe_.TakeHeld(), second = probe_.TakeHeld();
  ASSERT_NE(second.context, nullptr);
  EXPECT_EQ(first.context->attempt(), 1);
  StopServer();
  first.Answer();
  second.Answer();
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  std::thread answerer([&] {
    for (int i = 0; i < 2; ++i) {
      ProbeImpl::Held again = probe_.TakeHeld();
      EXPECT_NE(again.context, nullptr);
      if (again.context == nullptr) return channel_->Close();  // or the call would wait for ever
      // More than one when the server took its time to come back.
      EXPECT_GE(again.context->attempt(), 2);
      again.Answer();
    }
  });
  const auto result = blocking.Wait();
  answerer.join();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getNumber(), 1u);
  EXPECT_TRUE(Happens(done));
}

TEST_P(CallTest, OutcomeOfARepeatedCallIsThatOfAllItsAttempts) {
  Start({}, Impatient());
  auto call = SendHold(1, {.repeat = Repeat::kIdempotent});
  ASSERT_TRUE(probe_.AwaitHeld(1));
  StopServer();
  const auto result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(HasSubstr(" attempts)"), EndsWith("the call may have run"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown)) << "though the last one was not sent";
  probe_.TakeHeld().Answer();
}

// --- Answers that say: try again

TEST_P(CallTest, AnswerThatTheServiceIsUnavailableIsFinalUnlessTheMethodIsRetryable) {
  Attempts attempts = FailsUntil(3);
  probe_.on_again = attempts.handler();
  Start({}, Impatient());
  const AgainResult result = stub().Again({.repeat = Repeat::kUnlessItRan}).Send().Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, "busy"));
  EXPECT_THAT(attempts.seen(), ElementsAre(1));
}

// As its schema says, and no more than that: what was lost may have run.
TEST_P(CallTest, MethodThatIsAnnotatedAsRetryableIsRepeatedWhenItFailsAndNotWhenItIsLost) {
  class Busy final : public CounterImpl {
   public:
    Reply Next(ServerContext& context, Counter::NextParams::Reader,
               Counter::NextResults::Builder results) override {
      if (context.attempt() < 3) return absl::UnavailableError("busy");
      results.setValue(static_cast<uint64_t>(context.attempt()));
      return absl::OkStatus();
    }
    Reply NextRetryable(ServerContext& context, Counter::NextRetryableParams::Reader,
                        Counter::NextRetryableResults::Builder results) override {
      if (keeps) {
        held = context.Defer();
        called.Notify();
        return Reply::Later();
      }
      if (context.attempt() < 3) return absl::UnavailableError("busy");
      results.setValue(static_cast<uint64_t>(context.attempt()));
      return absl::OkStatus();
    }
    std::atomic<bool> keeps{false};
    DeferredCall held;
    absl::Notification called;
  };
  Busy counter;
  const Ends ends(this);
  ServerOptions options;
  options.wait = GetParam().wait;
  server_ = *ServerBuilder()
                 .SetOptions(options)
                 .AddService(&counter)
                 .Listen(GetParam().new_endpoint())
                 .Start();
  endpoint_ = server_->endpoints()[0];
  channel_ = NewChannel(Impatient());
  CounterStub counter_stub(channel_);
  const auto repeated = counter_stub.NextRetryable().Send().Wait();
  ASSERT_THAT(repeated, IsOk());
  EXPECT_EQ(repeated->getValue(), 3u) << "the attempt";
  EXPECT_THAT(counter_stub.Next().Send().Wait(), StatusIs(absl::StatusCode::kUnavailable, "busy"));
  counter.keeps = true;
  auto lost = counter_stub.NextRetryable().Send();
  ASSERT_TRUE(Happens(counter.called));
  StopServer();
  const auto result = lost.Wait();
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(testing::Not(HasSubstr(" attempts)")), EndsWith("may have run"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  counter.held.Finish(absl::OkStatus());
}

TEST_P(CallTest, RetryableCallIsRepeatedUntilItIsAnswered) {
  Attempts attempts = FailsUntil(3);
  probe_.on_again = attempts.handler();
  absl::Notification done;
  const Ends ends(this);
  Start({}, Impatient());
  const CallOptions options = {.repeat = Repeat::kRetryable};
  const AgainResult blocking = stub().Again(options).Send().Wait();
  ASSERT_THAT(blocking, IsOk());
  EXPECT_EQ(blocking->getAttempt(), 3u);

  stub().Again(options).Send().Then([&](AgainResult result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(BlockOn([](ProbeStub stub, CallOptions how) -> Task<absl::Status> {
                auto request = stub.Again(how);
                co_return (co_await request.Send()).status();
              }(stub(), options)),
              IsOk());
  EXPECT_THAT(attempts.seen(), ElementsAre(1, 2, 3, 1, 2, 3, 1, 2, 3));
}

TEST_P(CallTest, AnnotatedMethodNeedsNoOption) {
  Attempts attempts = FailsUntil(2);
  probe_.on_again = attempts.handler();
  Start({}, Impatient());
  EXPECT_THAT(stub().Again().Send().Wait(), IsOk());
  EXPECT_THAT(attempts.seen(), ElementsAre(1, 2));
  EXPECT_THAT(stub().Again({.repeat = Repeat::kNever}).Send().Wait(),
              StatusIs(absl::StatusCode::kUnavailable, "busy"));
}

TEST_P(CallTest, RequestIsTheSameEachTime) {
  Start([](ServerContext& context, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    if (context.attempt() < 3) return absl::UnavailableError("busy");
    return Echo(context, params, results);
  });
  for (const size_t bytes : {0u, 10u, 1000u, 100'000u, 3'000'000u}) {
    SCOPED_TRACE(bytes);
    auto request = stub().Echo({.repeat = Repeat::kRetryable});
    request->setText("the text");
    auto data = request->initData(static_cast<unsigned>(bytes));
    for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<kj::byte>(i * 7);
    const EchoResult result = request.Send().Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getText(), "the text");
    const auto back = result->getData();
    ASSERT_EQ(back.size(), bytes);
    for (size_t i = 0; i < bytes; i += 997) ASSERT_EQ(back[i], static_cast<kj::byte>(i * 7));
  }
}

TEST_P(CallTest, MetadataGoesWithEachAttemptAndComesFromTheLast) {
  Start([](ServerContext& context, auto, auto) -> Reply {
    EXPECT_EQ(context.metadata(), (Metadata{{"key", "value"}}));
    context.trailing_metadata().Add("attempt", absl::StrCat(context.attempt()));
    return context.attempt() < 3 ? absl::UnavailableError("busy") : absl::OkStatus();
  });
  CallOptions options = {.repeat = Repeat::kRetryable};
  options.metadata = std::make_shared<const Metadata>(Metadata{{"key", "value"}});
  options.received = std::make_shared<ResponseMetadata>();
  EXPECT_THAT(EchoText("x", options), IsOk());
  EXPECT_EQ(options.received->trailing, (Metadata{{"attempt", "3"}}));
  options.retry = Policy({.attempts_max = 2});
  EXPECT_THAT(EchoText("x", options), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(options.received->trailing, (Metadata{{"attempt", "2"}})) << "of a failed call, too";
}

// --- When, and how often

TEST_P(CallTest, AttemptsAreLimited) {
  Attempts attempts = FailsUntil(100);
  probe_.on_again = attempts.handler();
  Start({}, Impatient());
  CallOptions options = {.retry = Policy({.attempts_max = 4, .backoff = {.initial = {}}})};
  EXPECT_THAT(stub().Again(options).Send().Wait(),
              StatusIs(absl::StatusCode::kUnavailable, "busy (4 attempts)"));
  EXPECT_THAT(attempts.seen(), ElementsAre(1, 2, 3, 4));
  options.retry = Policy({.attempts_max = 1});
  EXPECT_THAT(stub().Again(options).Send().Wait(),
              StatusIs(absl::StatusCode::kUnavailable, "busy"));
}

TEST_P(CallTest, WaitsBetweenAttemptsGrow) {
  Attempts attempts = FailsUntil(4);
  probe_.on_again = attempts.handler();
  Start();
  RetryPolicy policy;
  policy.backoff = {.initial = absl::Milliseconds(10), .multiplier = 3, .jitter = 0};
  EXPECT_THAT(stub().Again({.retry = Policy(policy)}).Send().Wait(), IsOk());
  EXPECT_GE(attempts.Gap(0), absl::Milliseconds(10));
  EXPECT_GE(attempts.Gap(1), absl::Milliseconds(30));
  EXPECT_GE(attempts.Gap(2), absl::Milliseconds(90));
}

TEST_P(CallTest, ServicesAdviceGoesBeforeTheBackoff) {
  Attempts attempts =
      FailsUntil(2, WithRetryAfter(absl::AbortedError("locked"), absl::Milliseconds(50)));
  probe_.on_again = attempts.handler();
  Start({}, Impatient());
  EXPECT_THAT(stub().Again().Send().Wait(), IsOk()) << "a code that is final without the advice";
  EXPECT_GE(attempts.Gap(0), absl::Milliseconds(50));
}

TEST_P(CallTest, AdviceNotToTryAgainIsTaken) {
  Attempts attempts =
      FailsUntil(2, WithRetryAfter(absl::UnavailableError("moved"), absl::InfiniteDuration()));
  probe_.on_again = attempts.handler();
  Start({}, Impatient());
  EXPECT_THAT(stub().Again().Send().Wait(), StatusIs(absl::StatusCode::kUnavailable, "moved"));
  EXPECT_THAT(attempts.seen(), ElementsAre(1));
}

TEST_P(CallTest, FailureIsToldAtOnceWhenTheNextAttemptWouldBeTooLate) {
  Attempts attempts =
      FailsUntil(2, WithRetryAfter(absl::UnavailableError("busy"), absl::Minutes(10)));
  probe_.on_again = attempts.handler();
  Start();
  const CallOptions options = {.deadline = Deadline::After(absl::Minutes(5))};
  EXPECT_THAT(stub().Again(options).Send().Wait(),
              StatusIs(absl::StatusCode::kUnavailable, "busy"));
}

TEST_P(CallTest, AttemptsAreMadeForAsLongAsThereIsTime) {
  Attempts attempts = FailsUntil(1000);
  const Ends ends(this);  // a handler may still run when the deadline has passed
  probe_.on_again = attempts.handler();
  Start();
  RetryPolicy policy;
  policy.attempts_max = 1000;
  policy.backoff = {.initial = absl::Milliseconds(2), .multiplier = 1, .jitter = 0};
  const Deadline deadline = Deadline::After(absl::Milliseconds(50));
  const AgainResult result =
      stub().Again({.deadline = deadline, .retry = Policy(policy)}).Send().Wait();
  EXPECT_FALSE(result.ok());
  EXPECT_LT(deadline.remaining(), absl::Milliseconds(25)) << "it has tried for as long as it could";
}

TEST_P(CallTest, RepeatsHaveABudget) {
  Attempts attempts = FailsUntil(100);
  probe_.on_again = attempts.handler();
  ChannelOptions options = Impatient();
  options.retry.budget = {.tokens_max = 3, .tokens_per_call = 0, .tokens_per_second = 0};
  Start({}, options);
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(stub().Again().Send().Wait(),
                StatusIs(absl::StatusCode::kUnavailable, StartsWith("busy")));
  }
  EXPECT_EQ(attempts.seen().size(), 10u + 3u);
}

TEST_P(CallTest, CancelBetweenTwoAttemptsEndsTheCall) {
  Attempts attempts = FailsUntil(2);
  absl::Notification failed;
  probe_.on_again = [&, handler = attempts.handler()](auto& context, auto params, auto results) {
    const bool first = context.attempt() == 1;
    Reply reply = handler(context, params, results);
    if (first) failed.Notify();
    return reply;
  };
  const Ends ends(this);
  Start();
  RetryPolicy policy;
  policy.backoff.initial = policy.backoff.max = absl::Hours(1);
  auto call = stub().Again({.retry = Policy(policy)}).Send();
  ASSERT_TRUE(Happens(failed));
  call.Cancel();
  const AgainResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown)) << "the first attempt has run";
  EXPECT_THAT(attempts.seen(), ElementsAre(1));
}

TEST_P(CallTest, CancellationsAndAttemptsRace) {
  Attempts attempts = FailsUntil(4);
  const Ends ends(this);  // those that were cancelled may still run
  probe_.on_again = attempts.handler();
  ChannelOptions options = Impatient();
  options.retry.budget.tokens_max = 1e9;
  options.retry.policy.backoff = {.initial = absl::Microseconds(50), .multiplier = 1};
  Start({}, options);
  for (int i = 0; i < 500; ++i) {
    auto call = stub().Again().Send();
    for (int j = 0; j < i % 50; ++j) std::this_thread::yield();
    if (i % 5 != 0) call.Cancel();
    if (i % 3 == 0) continue;  // dropped
    const AgainResult result = call.Wait();
    if (!result.ok()) {
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
    }
  }
  EXPECT_TRUE(Works());
}

}  // namespace
}  // namespace mi7::conformance
