// Calls that the server recognizes when they are made again ($Mi7.deduplicate).

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/request_id.h"
#include "rpc/retry_info.h"
#include "tests/conformance/call/call_conformance.h"
#include "tests/conformance/call/once_calls.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

TEST_P(CallTest, CallWithAKnownIdGetsTheSameAnswer) {
  Runs runs;
  probe_.on_once = runs.handler();
  Start();
  for (const size_t bytes : {0u, 1000u, 300'000u}) {
    SCOPED_TRACE(bytes);
    const uint32_t before = runs.count;
    const RequestId id = RequestId::Random();
    for (int i = 0; i < 3; ++i) {
      const CallOptions options = WithId(id);
      const OnceResult result = SendOnce(stub(), "a text", options, bytes).Wait();
      ASSERT_THAT(result, IsOk());
      EXPECT_EQ(result->getRun(), before + 1);
      EXPECT_EQ(result->getText(), "a text");
      EXPECT_EQ(result->getData().size(), bytes);
      EXPECT_EQ(options.received->trailing, (Metadata{{"run", absl::StrCat(before + 1)}}));
    }
    EXPECT_EQ(runs.count, before + 1);
  }
  EXPECT_EQ(server_->statistics().calls_recognized, 6u);
  // From another connection as well.
  const RequestId id = RequestId::Random();
  EXPECT_THAT(SendOnce(stub(), "x", WithId(id)).Wait(), IsOk());
  const uint32_t before = runs.count;
  EXPECT_THAT(SendOnce(ProbeStub(NewChannel()), "x", WithId(id)).Wait(), IsOk());
  EXPECT_EQ(runs.count, before);
}

TEST_P(CallTest, EachCallHasAnIdOfItsOwn) {
  Runs runs;
  probe_.on_once = runs.handler();
  Start();
  for (int i = 0; i < 3; ++i) EXPECT_THAT(SendOnce(stub(), "x").Wait(), IsOk());
  EXPECT_EQ(runs.count, 3u);
}

TEST_P(CallTest, KnownIdWithOtherParametersIsAnError) {
  Runs runs;
  probe_.on_once = runs.handler();
  Start();
  const RequestId id = RequestId::Random();
  EXPECT_THAT(SendOnce(stub(), "a", WithId(id)).Wait(), IsOk());
  EXPECT_THAT(SendOnce(stub(), "b", WithId(id)).Wait(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "Probe.once: the request id is that of a call with other parameters"));
  EXPECT_EQ(runs.count, 1u);
  EXPECT_THAT(SendOnce(stub(), "a", WithId(id)).Wait(), IsOk()) << "the first is kept";
}

TEST_P(CallTest, FailureIsAnAnswerToo) {
  int runs = 0;
  probe_.on_once = [&](auto&, auto, auto) -> Reply {
    return absl::NotFoundError(absl::StrCat("run ", ++runs));
  };
  Start();
  const RequestId id = RequestId::Random();
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(SendOnce(stub(), "x", WithId(id)).Wait(),
                StatusIs(absl::StatusCode::kNotFound, "run 1"));
  }
}

TEST_P(CallTest, AnswerThatNothingWasDoneIsNotKept) {
  int runs = 0;
  probe_.on_once = [&](auto&, auto, auto) -> Reply {
    if (++runs == 1) {
      return WithRetryAfter(absl::ResourceExhaustedError("full"), absl::ZeroDuration());
    }
    return absl::OkStatus();
  };
  Start();
  const RequestId id = RequestId::Random();
  EXPECT_THAT(SendOnce(stub(), "x", WithId(id)).Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(SendOnce(stub(), "x", WithId(id)).Wait(), IsOk());
  EXPECT_EQ(runs, 2);
}

TEST_P(CallTest, CallThatComesWhileTheFirstRunsWaitsForItsAnswer) {
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start();
  const RequestId id = RequestId::Random();
  auto first = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  const std::shared_ptr<Channel> other = NewChannel();
  auto second = SendOnce(stub(), "x", WithId(id));
  auto third = SendOnce(ProbeStub(other), "x", WithId(id));
  const Deadline patience = Deadline::After(kSoon);
  while (server_->statistics().calls_recognized < 2) ASSERT_FALSE(patience.passed());
  held.Answer(7);
  for (auto* call : {&first, &second, &third}) {
    const OnceResult result = call->Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getRun(), 7u);
  }
  EXPECT_EQ(held.runs, 1);
}

TEST_P(CallTest, OfTheCallsThatComeWhileTheFirstRunsSoManyWait) {
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start();
  const RequestId id = RequestId::Random();
  auto first = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  std::vector<PendingCall<Probe::OnceResults>> waiting;
  for (int i = 0; i < 16; ++i) {  // SavedAnswers::kWaitersMax
    waiting.push_back(SendOnce(stub(), "x", WithId(id)));
  }
  const OnceResult one_more = SendOnce(stub(), "x", WithId(id)).Wait();
  EXPECT_THAT(one_more, StatusIs(absl::StatusCode::kAborted,
                                 HasSubstr("the call runs, and too many wait for its answer")));
  EXPECT_FALSE(RetryAfter(one_more.status())) << "would promise that nothing was done";
  held.Answer(7);
  EXPECT_THAT(first.Wait(), IsOk());
  for (auto& call : waiting) {
    const OnceResult result = call.Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getRun(), 7u);
  }
  EXPECT_EQ(held.runs, 1);
}

TEST_P(CallTest, CallsOfWhichAnAnswerCouldNotBeKeptAreRefused) {
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  ServerOptions options;
  options.deduplication.answers_max = 1;
  Start(options);
  auto first = SendOnce(stub(), "x", WithId(RequestId::Random()));
  ASSERT_TRUE(Happens(held.begun));
  CallOptions once = WithId(RequestId::Random());
  once.repeat = Repeat::kNever;
  const OnceResult second = SendOnce(stub(), "y", once).Wait();
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kResourceExhausted,
                               HasSubstr("deduplication.answers_max calls of this kind run")));
  EXPECT_THAT(second, OutcomeIs(CallOutcome::kRefused));
  EXPECT_TRUE(RetryAfter(second.status()));
  held.Answer(1);
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_EQ(held.runs, 1);
}

// Whether the server comes to have so many calls in flight.
testing::AssertionResult HasInFlight(const Server& server, uint32_t calls) {
  const Deadline patience = Deadline::After(kSoon);
  while (server.load().calls != calls) {
    if (patience.passed()) {
      return testing::AssertionFailure() << server.load().calls << " calls in flight";
    }
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

// Counted, but not limited.
ServerOptions WithCounts() {
  ServerOptions options;
  options.load.calls_max = 1000;
  return options;
}

TEST_P(CallTest, CallsThatWaitForTheFirstLetGoWhenTheyAreCancelled) {
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start(WithCounts());
  const RequestId id = RequestId::Random();
  auto first = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  const Deadline patience = Deadline::After(kSoon);
  // As many as may wait for one call, one after the other.
  constexpr uint32_t kWaiters = 16;
  for (uint32_t round = 1; round <= 2; ++round) {
    std::vector<PendingCall<Probe::OnceResults>> waiting;
    for (uint32_t i = 0; i < kWaiters; ++i) {
      waiting.push_back(SendOnce(stub(), "x", WithId(id)));
    }
    while (server_->statistics().calls_recognized < round * kWaiters) {
      ASSERT_FALSE(patience.passed());
    }
    EXPECT_EQ(server_->load().calls, 1 + kWaiters);
    for (auto& call : waiting) call.Cancel();
    ASSERT_TRUE(HasInFlight(*server_, 1));
    for (auto& call : waiting) {
      EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
    }
  }
  EXPECT_FALSE(held.of_first->cancelled());
  held.Answer(7);
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_TRUE(HasInFlight(*server_, 0));
  EXPECT_EQ(held.runs, 1);
}

TEST_P(CallTest, CallsThatWaitForTheFirstLetGoWhenTheirConnectionIsLost) {
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start(WithCounts());
  const RequestId id = RequestId::Random();
  auto first = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  const std::shared_ptr<Channel> other = NewChannel();
  std::vector<PendingCall<Probe::OnceResults>> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(SendOnce(ProbeStub(other), "x", WithId(id)));
  const Deadline patience = Deadline::After(kSoon);
  while (server_->statistics().calls_recognized < 3) ASSERT_FALSE(patience.passed());
  EXPECT_EQ(server_->load().calls, 4u);
  other->Close();
  ASSERT_TRUE(HasInFlight(*server_, 1));
  ASSERT_TRUE(HasConnections(1));
  held.Answer(7);
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_TRUE(HasInFlight(*server_, 0));
}

TEST_P(CallTest, CallThatWaitsForTheFirstLetsGoAtItsDeadline) {
  FakeClock clock;
  HeldRun held;
  probe_.on_once = held.handler();
  const Ends ends(this);
  Start(WithCounts());
  const RequestId id = RequestId::Random();
  auto first = SendOnce(stub(), "x", WithId(id));
  ASSERT_TRUE(Happens(held.begun));
  // One whose caller says nothing more.
  const auto faults = std::make_shared<FaultScript>();
  faults->Add(
      {.frames = FaultFrames::kCancels, .action = FaultAction::kDrop, .count = FaultRule::kAll});
  ChannelOptions silent;
  silent.decorator = faults;
  const std::shared_ptr<Channel> other = NewChannel(silent);
  ASSERT_THAT(other->Connect(Deadline::After(kSoon)), IsOk());
  CallOptions options = WithId(id);
  options.deadline = Deadline::After(absl::Hours(1));
  auto waits = SendOnce(ProbeStub(other), "x", options);
  const Deadline patience = Deadline::After(kSoon);
  while (server_->statistics().calls_recognized == 0) ASSERT_FALSE(patience.passed());
  EXPECT_EQ(server_->load().calls, 2u);
  clock.Advance(absl::Hours(1));
  ASSERT_TRUE(HasInFlight(*server_, 1));
  EXPECT_THAT(waits.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  held.Answer(7);
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_TRUE(HasInFlight(*server_, 0));
}

TEST_P(CallTest, CallWhoseAnswerIsLostIsMadeAgainAndRunsOnce) {
  Runs runs;
  probe_.on_once = runs.handler();
  ServerOptions options;
  const auto faults = std::make_shared<FaultScript>();
  options.decorator = faults;
  Start(options);
  ASSERT_TRUE(Works());
  for (uint32_t i = 1; i <= 5; ++i) {
    faults->Add({.frames = FaultFrames::kReturns, .action = FaultAction::kLose});
    const OnceResult result = SendOnce(stub(), "x", {.deadline = Deadline::After(kSoon)}).Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getRun(), i);
  }
  EXPECT_EQ(runs.count, 5u);
  // One that may not be repeated is not.
  faults->Add({.frames = FaultFrames::kReturns, .action = FaultAction::kLose});
  CallOptions never;
  never.repeat = Repeat::kNever;
  EXPECT_THAT(SendOnce(stub(), "x", never).Wait(), OutcomeIs(CallOutcome::kUnknown));
}

TEST_P(CallTest, ServerThatWasRestartedDoesNotRunWhatMayHaveRun) {
  absl::Notification begun;
  std::optional<DeferredCall> later;
  std::atomic<int> runs{0};
  probe_.on_once = [&](ServerContext& context, auto, auto) {
    if (++runs == 1) {
      later.emplace(context.Defer());
      begun.Notify();
      return Reply::Later();
    }
    return Reply(absl::OkStatus());
  };
  ChannelOptions options;
  options.backoff.initial = options.backoff.max = absl::Milliseconds(5);
  options.retry.policy.attempts_max = 100;
  Start({}, options);
  auto call = SendOnce(stub(), "x", {.deadline = Deadline::After(kSoon)});
  ASSERT_TRUE(Happens(begun));
  StopServer();
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  const OnceResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kAborted,
                               AllOf(StartsWith("Probe.once: an earlier attempt may have run"),
                                     HasSubstr("it was restarted"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_EQ(runs, 1);
  EXPECT_THAT(SendOnce(stub(), "x").Wait(), IsOk()) << "new calls are run";
}

// Who was there already, and so cannot tell by the age of the call that it is somebody else's.
TEST_P(CallTest, SuccessorDoesNotRunWhatMayHaveRunBefore) {
  absl::Notification begun;
  std::optional<DeferredCall> later;
  probe_.on_once = [&](ServerContext& context, auto, auto) {
    later.emplace(context.Defer());
    begun.Notify();
    return Reply::Later();
  };
  ProbeImpl successors_probe;
  std::atomic<int> runs{0};
  successors_probe.on_once = [&](ServerContext&, auto, auto) {
    ++runs;
    return Reply(absl::OkStatus());
  };
  ServerOptions server;
  server.take_over = true;
  ChannelOptions options;
  options.backoff.initial = options.backoff.max = absl::Milliseconds(5);
  options.retry.policy.attempts_max = 100;
  Start(server, options);
  ASSERT_TRUE(Works());
  server.wait = GetParam().wait;
  auto successor =
      ServerBuilder().SetOptions(server).AddService(&successors_probe).Listen(endpoint_).Start();
  ASSERT_THAT(successor, IsOk());
  auto call = SendOnce(stub(), "x", {.deadline = Deadline::After(kSoon)});
  ASSERT_TRUE(Happens(begun));
  StopServer();
  const OnceResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kAborted,
                               AllOf(StartsWith("Probe.once: an earlier attempt may have run"),
                                     HasSubstr("another server"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_EQ(runs, 0);
  EXPECT_THAT(SendOnce(stub(), "x").Wait(), IsOk()) << "new calls are run";
  channel_ = nullptr;
}

TEST_P(CallTest, WhatIsKeptOfAnswersIsBounded) {
  Runs runs;
  probe_.on_once = runs.handler();
  ServerOptions options;
  options.deduplication = {.answers_max = 2, .answer_bytes_max = 10'000};
  Start(options);
  const RequestId first = RequestId::Random();
  EXPECT_THAT(SendOnce(stub(), "x", WithId(first)).Wait(), IsOk());
  for (int i = 0; i < 2; ++i) EXPECT_THAT(SendOnce(stub(), "x").Wait(), IsOk());
  // Its answer was the oldest. That it ran is known, though this attempt knows of no other, as one
  // does not that was sent first and is read last.
  EXPECT_THAT(SendOnce(stub(), "x", WithId(first)).Wait(),
              StatusIs(absl::StatusCode::kAborted,
                       StartsWith("Probe.once: the call has run; its answer was dropped")));
  EXPECT_EQ(runs.count, 3u);
  const RequestId large = RequestId::Random();
  EXPECT_THAT(SendOnce(stub(), "x", WithId(large), 20'000).Wait(), IsOk());
  EXPECT_THAT(SendOnce(stub(), "x", WithId(large), 20'000).Wait(),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("answer_bytes_max")));
  EXPECT_EQ(runs.count, 4u);
}

TEST_P(CallTest, NoCallIsRunThatWouldBeForgottenTooSoon) {
  FakeClock clock;
  Runs runs;
  probe_.on_once = runs.handler();
  const Ends ends(this);
  ServerOptions options;
  options.deduplication = {.answers_max = 1, .calls_known_max = 3};
  Start(options);
  for (int i = 0; i < 3; ++i) EXPECT_THAT(SendOnce(stub(), "x").Wait(), IsOk());
  RetryPolicy twice;
  twice.attempts_max = 2;
  CallOptions call;
  call.retry = std::make_shared<const RetryPolicy>(twice);
  const OnceResult refused = SendOnce(stub(), "x", call).Wait();
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                AllOf(StartsWith("Probe.once: deduplication.calls_known_max"),
                                      HasSubstr("(2 attempts)"))));
  EXPECT_THAT(refused, OutcomeIs(CallOutcome::kRefused));
  EXPECT_EQ(runs.count, 3u);
  clock.Advance(options.deduplication.late_max);
  EXPECT_THAT(SendOnce(stub(), "x").Wait(), IsOk()) << "now the first may be forgotten";
  EXPECT_EQ(runs.count, 4u);
}

}  // namespace
}  // namespace mi7::conformance
