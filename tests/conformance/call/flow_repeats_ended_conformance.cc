// `-> stream` calls that are not made again: those that a handler has answered, or that may have
// run, and those that are given up.

#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/interceptor.h"
#include "rpc/retry_info.h"
#include "tests/conformance/call/flow_repeats.h"
#include "tests/conformance/call/front.h"
#include "tests/conformance/call/stream_conformance.h"
#include "tests/conformance/call/until_told.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::Optional;

constexpr Repeat kRepeats[] = {Repeat::kNever, Repeat::kUnlessItRan, Repeat::kRetryable,
                               Repeat::kIdempotent};

// Nor where the policy would hedge, or repeat what was answered: the calls behind it have run.
TEST_P(StreamTest, CallsThatWereAnsweredAreNotMadeAgainWhateverTheirCallerPermits) {
  const absl::Status answers[] = {
      absl::UnavailableError("as asked"),
      WithRetryAfter(absl::ResourceExhaustedError("as asked"), absl::Milliseconds(1))};
  RetryPolicy policy;
  policy.hedge_delay = absl::Milliseconds(1);
  const auto hedging = std::make_shared<const RetryPolicy>(policy);
  Journal journal;
  feed_.on_pour = journal.Handler();
  Start();
  std::vector<uint64_t> all;
  for (const absl::Status& answer : answers) {
    for (const Repeat repeat : kRepeats) {
      SCOPED_TRACE(testing::Message() << answer << ", repeat " << static_cast<int>(repeat));
      journal.AnswerWith(answer);
      FeedStub sink = stub();
      all.push_back(all.size());
      static_cast<void>(Pour(sink, all.back(), 0, {.repeat = repeat, .retry = hedging}));
      const absl::Status finished = sink.FinishStream().Wait();
      EXPECT_THAT(finished, StatusIs(answer.code(), HasSubstr("as asked")));
      EXPECT_THAT(finished, OutcomeIs(CallOutcome::kAnswered));
      // The next series begins anew, behind any attempt that was under way.
      journal.AnswerWith(absl::OkStatus());
      all.push_back(all.size());
      ASSERT_THAT(Pour(sink, all.back()).Wait(), IsOk());
      EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
    }
  }
  EXPECT_THAT(journal.numbers(), ElementsAreArray(all));
}

// Its answer is lost, and the connection with it, while the server goes on.
TEST_P(StreamTest, CallsThatMayHaveRunAreNotMadeAgainWhateverTheirCallerPermits) {
  Journal journal;
  feed_.on_pour = journal.Handler();
  auto faults = std::make_shared<FaultScript>();
  ChannelOptions channel;
  channel.decorator = faults;
  Start({}, channel);
  std::vector<uint64_t> all;
  for (const Repeat repeat : kRepeats) {
    SCOPED_TRACE(testing::Message() << "repeat " << static_cast<int>(repeat));
    faults->Add({.frames = FaultFrames::kReturns, .action = FaultAction::kLose});
    FeedStub sink = stub();
    all.push_back(all.size());
    static_cast<void>(Pour(sink, all.back(), 0, {.repeat = repeat}));
    const absl::Status finished = sink.FinishStream().Wait();
    EXPECT_THAT(finished, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(finished, OutcomeIs(CallOutcome::kUnknown));
    faults->Clear();
    all.push_back(all.size());
    ASSERT_THAT(Pour(sink, all.back(), 0, {.wait_for_ready = true}).Wait(), IsOk());
    EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  }
  EXPECT_THAT(journal.numbers(), ElementsAreArray(all));
}

TEST_P(StreamTest, SeriesIsMadeAgainAsOftenAsItsPolicySays) {
  Start(WithLoad(1));
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 7)).Wait(), IsOk());
  ASSERT_TRUE(GivesItems(chat.reader(), 7, 8));  // it has the server's only place
  const auto refused_by = [this](const CallOptions& options) {
    const uint64_t before = server_->load().refused;
    FeedStub sink = stub();
    static_cast<void>(Pour(sink, 0, 0, options));
    const absl::Status finished = sink.FinishStream().Wait();
    EXPECT_THAT(finished, StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(finished, OutcomeIs(CallOutcome::kRefused));
    return server_->load().refused - before;
  };
  EXPECT_EQ(refused_by(Attempts(3)), 3u);
  EXPECT_EQ(refused_by(Attempts(1)), 1u);
  EXPECT_EQ(refused_by({.repeat = Repeat::kNever}), 1u);
  EXPECT_EQ(refused_by({.deadline = Deadline::After(absl::Hours(1))}), 5u) << "by default";
}

OwnedCoroutine PourAndFinish(FeedStub sink, CallOptions options) {
  static_cast<void>(co_await Pour(sink, 0, 0, options));
  static_cast<void>(co_await sink.FinishStream());
}

TEST_P(StreamTest, WhoeverGivesUpASeriesThatWaitsToBeMadeAgainEndsIt) {
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  server.load.retry_after = absl::Hours(1);
  for (const Way way : {Way::kCancel, Way::kDropCoroutine}) {
    SCOPED_TRACE(testing::Message() << way);
    Journal journal;
    feed_.on_pour = journal.Handler();
    journal.Hold();
    Start(server);
    const absl::Cleanup end = [&] { journal.AnswerAll(); };
    FeedStub first = stub();
    static_cast<void>(Pour(first, 7));
    ASSERT_TRUE(journal.AwaitBegun(1));  // it has the server's only place
    FeedStub sink = stub();
    std::optional<OwnedCoroutine> coroutine;
    CallCanceller canceller;
    if (way == Way::kDropCoroutine) {
      coroutine = PourAndFinish(sink, {.no_deadline = true});
    } else {
      canceller = Pour(sink, 0, 0, {.no_deadline = true}).canceller();
    }
    ASSERT_TRUE(AwaitRefused(*server_, 1));
    ASSERT_TRUE(Answers()) << "so the client knows it";
    if (coroutine) {
      coroutine->Destroy();
    } else {
      canceller.Cancel();
    }
    const absl::Status finished = sink.FinishStream().Wait();
    EXPECT_THAT(finished, StatusIs(absl::StatusCode::kCancelled));
    EXPECT_THAT(finished, OutcomeIs(CallOutcome::kNotSent)) << "it has not run";
    EXPECT_EQ(server_->load().refused, 1u);
    EXPECT_THAT(journal.numbers(), ElementsAre(7));
  }
}

// Does something when a call is about to end that was cancelled: nothing is sent for it any more,
// but its series does not know of that yet.
class AtCancellation final : public Interceptor {
 public:
  void OnEnd(InterceptedCall& call) override {
    if (absl::IsCancelled(call.status())) action();
  }
  std::function<void()> action;
};

// Its turn comes in that moment.
TEST_P(StreamTest, NothingIsMadeBehindACallThatIsBeingGivenUp) {
  for (const bool others_are_held : {false, true}) {
    SCOPED_TRACE(others_are_held);
    FakeClock clock;
    Journal journal;
    feed_.on_pour = journal.Handler();
    journal.Hold();
    const auto cancelling = std::make_shared<AtCancellation>();
    ServerOptions server;
    server.load.methods = {{"Feed.pour", 1}};
    ChannelOptions channel;
    channel.interceptors = {cancelling};
    Start(server, channel);
    const absl::Cleanup end = [&] { journal.AnswerAll(); };
    FeedStub sink = stub();
    ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
    ASSERT_TRUE(journal.AwaitBegun(1));
    FlowSending last = Pour(sink, 1);
    const CallCanceller canceller = last.canceller();
    ASSERT_TRUE(AwaitRefused(*server_, 1));
    ASSERT_TRUE(Answers()) << "so the client knows it";
    if (others_are_held) last = Pour(sink, 2);
    std::optional<absl::Status> told;
    last.Then([&](const absl::Status& status) { told = status; });
    // Nothing but the first call keeps it, once another one has had the time to be made again that
    // was refused later.
    FeedStub other = stub();
    static_cast<void>(Pour(other, 7, 0, Attempts(2)));
    ASSERT_TRUE(AwaitRefused(*server_, 2));
    ASSERT_TRUE(Answers());
    clock.Advance(absl::Seconds(1));
    ASSERT_TRUE(AwaitRefused(*server_, 3));
    journal.AnswerWith(absl::OkStatus());
    cancelling->action = [&] {
      EXPECT_TRUE(journal.Answer(1));
      for (int i = 0; i < 2; ++i) EXPECT_TRUE(Answers());
      EXPECT_EQ(told, std::nullopt);
    };
    canceller.Cancel();
    EXPECT_THAT(told, Optional(StatusIs(absl::StatusCode::kCancelled)));
    const absl::Status finished = sink.FinishStream().Wait();
    EXPECT_THAT(finished, StatusIs(absl::StatusCode::kCancelled));
    EXPECT_THAT(finished, OutcomeIs(CallOutcome::kNotSent));
    EXPECT_THAT(journal.numbers(), ElementsAre(0));
  }
}

// Nor is it made again, because a later one has run.
TEST_P(StreamTest, ASeriesThatEndsGoesNoFurtherBeforeItIsKnownHow) {
  FakeClock clock;
  constexpr absl::Duration kLate = absl::Seconds(20);
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  const auto late = std::make_shared<FaultScript>();
  const auto cancelling = std::make_shared<AtCancellation>();
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  server.load.retry_after = absl::Hours(1);
  server.keepalive = kNone;
  ChannelOptions channel;
  channel.keepalive = kNone;
  channel.decorator = late;
  channel.interceptors = {cancelling};
  Start(server, channel);
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_TRUE(journal.AwaitBegun(1));
  // The client is told later that the next one is refused, so that it goes on.
  late->Add({.frames = FaultFrames::kReturns,
             .action = FaultAction::kDelay,
             .count = FaultRule::kAll,
             .delay = kLate});
  FlowSending refused = Pour(sink, 1);
  const CallCanceller canceller = refused.canceller();
  ASSERT_THAT(refused.Wait(), IsOk());
  ASSERT_TRUE(AwaitRefused(*server_, 1));
  ASSERT_TRUE(journal.Answer(1));
  const Deadline patience = Deadline::After(kSoon);
  while (server_->load().calls != 0) ASSERT_FALSE(patience.passed());
  FlowSending last = Pour(sink, 2);
  ASSERT_TRUE(journal.AwaitBegun(2));
  while (late->hits() != 2) ASSERT_FALSE(patience.passed());
  late->Clear();
  std::optional<absl::Status> told;
  absl::Notification known;
  stub().Ask().Send().Then([&](const auto&) { known.Notify(); });
  const absl::Time until = absl::Now() + kSoon;
  do {
    ASSERT_LT(absl::Now(), until);
    clock.Advance(kLate);
  } while (!known.WaitForNotificationWithTimeout(absl::Milliseconds(10)));
  last.Then([&](const absl::Status& status) { told = status; });
  EXPECT_EQ(told, std::nullopt);
  cancelling->action = [&] {
    EXPECT_TRUE(journal.Answer(1));
    EXPECT_TRUE(Answers());
    EXPECT_EQ(told, std::nullopt);
  };
  canceller.Cancel();
  EXPECT_THAT(told, Optional(StatusIs(absl::StatusCode::kCancelled)));
  const absl::Status finished = sink.FinishStream().Wait();
  EXPECT_THAT(finished, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(finished, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_THAT(journal.numbers(), ElementsAre(0, 2));
}

// The handler that makes the series for its caller.
TEST_P(StreamTest, ASeriesThatWaitsToBeMadeAgainEndsWithTheCallThatItIsFor) {
  FakeClock clock;
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  server.load.retry_after = absl::Hours(1);
  for (const WaysToEnd ends : {WaysToEnd::kCancel, WaysToEnd::kDisconnect}) {
    SCOPED_TRACE(static_cast<int>(ends));
    Journal journal;
    feed_.on_pour = journal.Handler();
    journal.Hold();
    Start(server);
    const absl::Cleanup end = [&] { journal.AnswerAll(); };
    FeedStub first = stub();
    static_cast<void>(Pour(first, 7));
    ASSERT_TRUE(journal.AwaitBegun(1));
    absl::Status finished;
    absl::Notification ended;
    FeedStub sink = stub();
    Front front(GetParam(), [&](ServerContext& context, auto, auto) -> Reply {
      static_cast<void>(co_await Pour(sink, 0, 0, context.ForNestedCall()));
      finished = co_await sink.FinishStream();
      ended.Notify();
      co_return absl::OkStatus();
    });
    front.SendToGiveUp(ends);
    ASSERT_TRUE(AwaitRefused(*server_, 1));
    ASSERT_TRUE(Answers()) << "so the client knows it";
    front.GiveUp(ends, clock);
    ASSERT_TRUE(Happens(ended));
    EXPECT_THAT(finished, StatusIs(absl::StatusCode::kCancelled));
    EXPECT_THAT(finished, OutcomeIs(CallOutcome::kNotSent));
    EXPECT_EQ(server_->load().refused, 1u);
  }
}

// It waits for the one before it.
TEST_P(StreamTest, ADeadlineEndsASeriesThatWaitsToBeMadeAgain) {
  FakeClock clock;
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  Start(server);
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0, 0, {.no_deadline = true}).Wait(), IsOk());
  ASSERT_TRUE(journal.AwaitBegun(1));
  FlowSending late = Pour(sink, 1, 0, {.deadline = Deadline::After(kTimeGiven)});
  ASSERT_TRUE(AwaitRefused(*server_, 1));
  ASSERT_TRUE(Answers()) << "so the client knows it";
  clock.Advance(kTimeGiven);
  EXPECT_THAT(late.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  ASSERT_TRUE(journal.Answer(1));
  const absl::Status finished = sink.FinishStream().Wait();
  EXPECT_THAT(finished, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(finished, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_EQ(server_->load().refused, 1u);
  EXPECT_THAT(journal.numbers(), ElementsAre(0));
}

// When its time has come there is no connection to be had.
TEST_P(StreamTest, ASeriesThatWaitsToBeMadeAgainIsNotOnAChannelThatIsClosed) {
  FakeClock clock;
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  server.load.retry_after = absl::Hours(1);
  Start(server);
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub first = stub();
  static_cast<void>(Pour(first, 7));
  ASSERT_TRUE(journal.AwaitBegun(1));
  FeedStub sink = stub();
  static_cast<void>(Pour(sink, 0, 0, {.no_deadline = true}));
  ASSERT_TRUE(AwaitRefused(*server_, 1));
  ASSERT_TRUE(Answers()) << "so the client knows it";
  absl::Status finished;
  absl::Notification ended;
  sink.FinishStream().Then([&](const absl::Status& status) {
    finished = status;
    ended.Notify();
  });
  channel_->Close();
  clock.Advance(absl::Hours(1));
  ASSERT_TRUE(Happens(ended));
  EXPECT_THAT(finished, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("closed")));
  EXPECT_THAT(finished, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_THAT(journal.numbers(), ElementsAre(7));
}

}  // namespace
}  // namespace mi7::conformance
