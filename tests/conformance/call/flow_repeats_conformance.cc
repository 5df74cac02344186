// `-> stream` calls that have not run are made again, in their order: by a successor of a server
// that is shut down, by a server that had too much to do.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/interceptors/call_metrics.h"
#include "rpc/task.h"
#include "tests/conformance/call/flow_repeats.h"
#include "tests/conformance/call/stream_conformance.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Task<absl::Status> PourAll(FeedStub sink, uint64_t count, std::function<void(uint64_t)> at) {
  for (uint64_t number = 0; number < count; ++number) {
    at(number);
    if (!(co_await Pour(sink, number, 100)).ok()) break;
  }
  co_return co_await sink.FinishStream();
}

// Servers that follow one another at one endpoint.
class Succession {
 public:
  ~Succession() { Join(); }
  // `server` is shut down, on a thread, and there is another one in its place.
  void Replace(std::unique_ptr<Server>& server, FeedImpl& service, const std::string& endpoint,
               const ServerOptions& options) {
    auto successor =
        ServerBuilder().SetOptions(options).AddService(&service).Listen(endpoint).Start();
    ASSERT_THAT(successor, IsOk());
    shutdowns_.emplace_back(
        [old = server.get()] { EXPECT_THAT(old->Shutdown(Deadline::After(kSoon)), IsOk()); });
    servers_.push_back(std::exchange(server, *std::move(successor)));
  }
  // Returns when all that were shut down have ended.
  void Join() {
    for (std::thread& shutdown : shutdowns_) shutdown.join();
    shutdowns_.clear();
  }

 private:
  std::vector<std::unique_ptr<Server>> servers_;
  std::vector<std::thread> shutdowns_;
};

// No call begins before the one before it has, whichever server it comes to. Its user notices
// nothing, however many are in flight: what a server refuses that goes away, for the first time,
// takes nothing of the channel's budget of repetitions.
TEST_P(StreamTest, SeriesGoesOnAtTheSuccessorsOfServersThatAreShutDown) {
  struct Case {
    uint32_t window;
    uint64_t count;
    uint64_t successors;
  };
  // With some 30 calls in flight, and with more than the budget has. No call has to be made a third
  // time, because that takes of it: each successor has the time to answer all that are in flight.
  for (const Case& test : {Case{5000, 3000, 4}, Case{Limits{}.stream_window_bytes, 9000, 3}}) {
    SCOPED_TRACE(test.window);
    Journal journal;
    feed_.on_pour = journal.Handler(100);
    ServerOptions options;
    options.take_over = true;
    ChannelOptions channel;
    channel.limits.stream_window_bytes = test.window;
    Start(options, channel);
    options.wait = GetParam().wait;
    Succession succession;
    EXPECT_THAT(BlockOn(PourAll(stub(), test.count,
                                [&](uint64_t number) {
                                  if (number % (test.count / test.successors) == 100) {
                                    succession.Replace(server_, feed_, endpoint_, options);
                                  }
                                })),
                IsOk());
    succession.Join();
    EXPECT_TRUE(IsSeries(journal.numbers(), test.count));
    for (const Journal::Entry& entry : journal.entries()) ASSERT_TRUE(entry.whole) << entry.number;
    channel_ = nullptr;
    server_ = nullptr;
  }
}

// The client does not know yet that it goes away.
TEST_P(StreamTest, ACallThatAServerRefusesWhichIsShutDownIsMadeAgainByItsSuccessor) {
  FakeClock clock;
  constexpr absl::Duration kLate = absl::Seconds(5);
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  auto late = std::make_shared<FaultScript>();
  ServerOptions server;
  server.take_over = true;
  server.keepalive = kNone;
  ChannelOptions channel;
  channel.keepalive = kNone;
  channel.decorator = late;
  // More than the channel's budget of repetitions has.
  constexpr uint64_t kCount = 300;
  Start(server, channel);
  server.wait = GetParam().wait;
  Succession succession;
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_TRUE(journal.AwaitBegun(1));
  late->Add({.way = FaultWay::kReceived,
             .action = FaultAction::kDelay,
             .count = FaultRule::kAll,
             .delay = kLate});
  succession.Replace(server_, feed_, endpoint_, server);
  const auto await_hits = [&late, until = absl::Now() + kSoon](uint64_t hits) {
    while (late->hits() < hits && absl::Now() < until) std::this_thread::yield();
    return late->hits() >= hits;
  };
  ASSERT_TRUE(await_hits(1)) << "that it goes away, which it says twice";
  for (uint64_t number = 1; number < kCount; ++number) {
    ASSERT_THAT(Pour(sink, number).Wait(), IsOk());
  }
  ASSERT_TRUE(await_hits(kCount + 1)) << "that it has refused these";
  EXPECT_EQ(late->hits(), kCount + 1);
  EXPECT_THAT(journal.numbers(), ElementsAre(0));
  late->Clear();
  clock.Advance(kLate);
  journal.AnswerWith(absl::OkStatus());
  // They still wait for the one that it goes on with.
  ASSERT_TRUE(Answers());
  EXPECT_THAT(journal.numbers(), ElementsAre(0));
  ASSERT_TRUE(journal.Answer(1));
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_TRUE(IsSeries(journal.numbers(), kCount));
  for (const Journal::Entry& entry : journal.entries()) {
    EXPECT_EQ(entry.attempt, entry.number == 0 ? 1 : 2) << entry.number;
  }
  channel_ = nullptr;
}

// Those may be refused yet, and would come behind it.
TEST_P(StreamTest, ACallWaitsForThoseAtTheServerThatGoesAway) {
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  ServerOptions options;
  options.take_over = true;
  Start(options);
  options.wait = GetParam().wait;
  Succession succession;
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  // The server may begin a call before the client says that it is connected.
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_TRUE(journal.AwaitBegun(1));
  succession.Replace(server_, feed_, endpoint_, options);
  const Deadline patience = Deadline::After(kSoon);
  while (channel_->state() == ChannelState::kReady) ASSERT_FALSE(patience.passed());
  ASSERT_TRUE(Answers()) << "so there is a connection to the successor";
  FlowSending sending = Pour(sink, 1);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Answers());
  EXPECT_THAT(journal.numbers(), ElementsAre(0));
  ASSERT_TRUE(journal.Answer(1));
  EXPECT_THAT(sending.Wait(), IsOk());
  // From then on they go on as ever.
  ASSERT_THAT(Pour(sink, 2).Wait(), IsOk());
  EXPECT_TRUE(journal.Answer(2));
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  for (const Journal::Entry& entry : journal.entries()) EXPECT_EQ(entry.attempt, 1);
  EXPECT_TRUE(IsSeries(journal.numbers(), 3));
  channel_ = nullptr;
}

// Of requests of any size, which are kept.
TEST_P(StreamTest, CallsThatAreRefusedForTheServersLoadAreMadeAgainInTheirOrder) {
  constexpr size_t kBytes = 100'000;
  FakeClock clock;
  Journal journal;
  feed_.on_pour = journal.Handler(kBytes);
  journal.Hold();
  ChannelOptions options;
  options.limits.stream_window_bytes = 2 << 20;
  const auto metrics = std::make_shared<CallMetrics>();
  options.interceptors = {metrics};
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 2}};
  Start(server, options);
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub sink = stub();
  for (uint64_t number = 0; number < 2; ++number) {
    ASSERT_THAT(Pour(sink, number, kBytes).Wait(), IsOk());
  }
  ASSERT_TRUE(journal.AwaitBegun(2));
  // As many as can be sent before the first of them is told to be refused; then the user waits.
  absl::Notification may_go_on;
  uint64_t count = 3;
  Pour(sink, 2, kBytes).Then([&](const absl::Status& status) {
    EXPECT_THAT(status, IsOk());
    may_go_on.Notify();
  });
  ASSERT_TRUE(AwaitRefused(*server_, 1));
  if (may_go_on.HasBeenNotified()) {
    static_cast<void>(Pour(sink, count++, kBytes));
  }
  // They are not as long as others are in flight.
  for (int i = 0; i < 20; ++i) {
    clock.Advance(absl::Milliseconds(100));
    ASSERT_TRUE(Answers());
  }
  EXPECT_LE(server_->load().refused, count - 2);
  EXPECT_THAT(journal.numbers(), ElementsAre(0, 1));
  for (uint64_t answered = 0; answered < count; ++answered) EXPECT_TRUE(journal.Answer(1));
  ASSERT_TRUE(Happens(may_go_on));
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_TRUE(IsSeries(journal.numbers(), count));
  for (const Journal::Entry& entry : journal.entries()) {
    EXPECT_TRUE(entry.whole) << entry.number;
    if (entry.number < 2) {
      EXPECT_EQ(entry.attempt, 1);
    }
    if (entry.number == 2) {
      EXPECT_GE(entry.attempt, 2);
    }
  }
  for (const CallMetrics::Method& method : metrics->Snapshot()) {
    if (method.name != "Feed.pour") continue;
    EXPECT_EQ(method.started, count) << "each is one call";
  }
}

// Its user was told that it may be sent before the one before it was refused.
TEST_P(StreamTest, ACallThatIsMadeWhileOthersAreHeldComesBehindThem) {
  FakeClock clock;
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  Start(server);
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_TRUE(journal.AwaitBegun(1));
  static_cast<void>(Pour(sink, 1));
  ASSERT_TRUE(AwaitRefused(*server_, 1));
  ASSERT_TRUE(Answers()) << "so the client knows it";
  static_cast<void>(Pour(sink, 2));
  // Nor are they sent when their time has come, as long as the first one runs.
  for (int i = 0; i < 20; ++i) {
    clock.Advance(absl::Milliseconds(100));
    ASSERT_TRUE(Answers());
  }
  EXPECT_EQ(server_->load().refused, 1u);
  journal.AnswerWith(absl::OkStatus());
  ASSERT_TRUE(journal.Answer(1));
  absl::Notification finished;
  sink.FinishStream().Then([&](const absl::Status& status) {
    EXPECT_THAT(status, IsOk());
    finished.Notify();
  });
  const Deadline patience = Deadline::After(kSoon);
  while (!finished.HasBeenNotified() && !patience.passed()) {
    clock.Advance(absl::Milliseconds(100));
    ASSERT_TRUE(Answers());
  }
  ASSERT_TRUE(Happens(finished));
  EXPECT_THAT(journal.entries(), ElementsAre(Journal::Entry{0, 1, true}, Journal::Entry{1, 2, true},
                                             Journal::Entry{2, 1, true}));
}

// Then it would come behind that.
TEST_P(StreamTest, ACallIsNotMadeAgainOnceALaterOneHasRun) {
  for (const absl::Status& later : {absl::OkStatus(), absl::DataLossError("the later one")}) {
    SCOPED_TRACE(later);
    FakeClock clock;
    constexpr absl::Duration kLate = absl::Seconds(20);
    constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
    Journal journal;
    feed_.on_pour = journal.Handler();
    journal.Hold();
    // The client is not told yet, so that it goes on.
    auto late = std::make_shared<FaultScript>();
    late->Add({.frames = FaultFrames::kReturns,
               .action = FaultAction::kDelay,
               .count = FaultRule::kAll,
               .delay = kLate});
    ServerOptions server = WithLoad(1);
    server.keepalive = kNone;
    ChannelOptions channel;
    channel.keepalive = kNone;
    channel.decorator = late;
    Start(server, channel);
    const absl::Cleanup end = [&] { journal.AnswerAll(); };
    FeedStub sink = stub();
    ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
    ASSERT_TRUE(journal.AwaitBegun(1));
    ASSERT_THAT(Pour(sink, 1).Wait(), IsOk());
    ASSERT_TRUE(AwaitRefused(*server_, 1));
    journal.AnswerWith(later);
    ASSERT_TRUE(journal.Answer(1));
    const Deadline patience = Deadline::After(kSoon);
    while (server_->load().calls != 0) ASSERT_FALSE(patience.passed());
    static_cast<void>(Pour(sink, 2));
    while (late->hits() != 3) ASSERT_FALSE(patience.passed());
    absl::Notification told;
    absl::Status finished;
    sink.FinishStream().Then([&](const absl::Status& status) {
      finished = status;
      // The next series begins anew, at once.
      journal.AnswerWith(absl::OkStatus());
      static_cast<void>(Pour(sink, 3));
      told.Notify();
    });
    late->Clear();
    clock.Advance(kLate);
    ASSERT_TRUE(Happens(told));
    EXPECT_THAT(finished, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("overloaded")));
    EXPECT_THAT(finished, OutcomeIs(CallOutcome::kRefused));
    EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
    EXPECT_THAT(journal.numbers(), ElementsAre(0, 2, 3));
  }
}

TEST_P(StreamTest, NothingIsMadeAgainBehindACallThatMayHaveRun) {
  Journal journal;
  feed_.on_pour = journal.Handler();
  journal.Hold();
  ServerOptions server;
  server.load.methods = {{"Feed.pour", 1}};
  Start(server);
  const absl::Cleanup end = [&] { journal.AnswerAll(); };
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_TRUE(journal.AwaitBegun(1));
  static_cast<void>(Pour(sink, 1));
  ASSERT_TRUE(AwaitRefused(*server_, 1));
  ASSERT_TRUE(Answers()) << "so the client knows it";
  server_ = nullptr;  // with the first one
  const absl::Status finished = sink.FinishStream().Wait();
  EXPECT_THAT(finished, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(finished, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(journal.numbers(), ElementsAre(0));
}

}  // namespace
}  // namespace mi7::conformance
