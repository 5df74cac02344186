// Timeouts that a stream does not bring itself, the method's, the channel's and an interceptor's,
// and streams that are too late for their handler.

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/client_streams.h"
#include "rpc/interceptor.h"
#include "rpc/task.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// Of Feed.remaining and Feed.drip.
constexpr uint64_t kMethodMs = 100'000;
constexpr uint64_t kEndless = 0;

// The time left of `ms` when little of it was used.
testing::Matcher<uint64_t> AboutMs(uint64_t ms) {
  return testing::AllOf(testing::Gt(ms / 2), testing::Le(ms));
}

CallOptions WithTimeout(absl::Duration timeout) { return {.deadline = Deadline::After(timeout)}; }

uint64_t RemainingAtHandler(const FeedStub& stub, const CallOptions& options = {}) {
  auto reader = stub.Remaining(options).Send();
  const ItemRead item = reader.Read().Wait();
  EXPECT_THAT(item, IsOk());
  return item.ok() && *item ? (*item)->getNumber() : ~uint64_t{0};
}

TEST_P(StreamTest, MethodsTimeoutIsThatOfItsStreams) {
  std::atomic<uint64_t> poured_ms{~uint64_t{0}};
  feed_.on_pour = [&](ServerContext& context, Item::Reader) {
    poured_ms = RemainingMs(context);
    return absl::OkStatus();
  };
  ChannelOptions channel;
  channel.default_timeout = absl::Hours(1);
  Start({}, channel);
  EXPECT_THAT(RemainingAtHandler(stub()), AboutMs(kMethodMs)) << "it goes before the channel's";
  EXPECT_THAT(RemainingAtHandler(stub(), WithTimeout(absl::Seconds(50))), AboutMs(50'000));
  EXPECT_THAT(RemainingAtHandler(stub(), WithTimeout(absl::Seconds(500))), AboutMs(500'000));
  EXPECT_EQ(RemainingAtHandler(stub(), {.no_deadline = true}), kEndless);
  // Of `-> stream` calls, too.
  FeedStub sink = stub();
  auto drip = sink.Drip();
  EXPECT_THAT(drip.Send().Wait(), IsOk());
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_THAT(poured_ms.load(), AboutMs(kMethodMs));
  auto pour = sink.Pour();
  EXPECT_THAT(pour.Send().Wait(), IsOk());
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_THAT(poured_ms.load(), AboutMs(3'600'000)) << "the channel's";
}

// In each way of waiting, and of each kind.
TEST_P(StreamTest, ChannelsDefaultTimeoutEndsStreams) {
  const auto never = [](ServerContext& context) -> Reply {
    co_return co_await context.Sleep(absl::Hours(1));
  };
  feed_.on_watch = [&](ServerContext& context, auto&&...) { return never(context); };
  feed_.on_upload = [&](ServerContext& context, auto&&...) { return never(context); };
  feed_.on_chat = [&](ServerContext& context, auto&&...) { return never(context); };
  feed_.on_pour = [&](ServerContext& context, auto&&...) { return never(context); };
  ChannelOptions channel;
  channel.default_timeout = absl::Milliseconds(20);
  Start({}, channel);
  const auto too_late = StatusIs(absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Watch(1).Read().Wait(), too_late);
  EXPECT_THAT(stub().Upload().Finish().Wait(), too_late);
  FeedStub sink = stub();
  sink.Pour().Send().Wait().IgnoreError();
  EXPECT_THAT(sink.FinishStream().Wait(), too_late);

  auto chat = stub().Chat();
  absl::Notification told;
  absl::Status status;
  chat.reader().Read().Then([&](ItemRead item) {
    status = item.status();
    told.Notify();
  });
  ASSERT_TRUE(Happens(told));
  EXPECT_THAT(status, too_late);

  EXPECT_THAT(BlockOn([](FeedStub stub) -> Task<absl::Status> {
                auto reader = stub.Watch().Send();
                co_return (co_await reader.Read()).status();
              }(stub())),
              too_late);
}

// Gives each call another deadline on the server, and tells how it ended there.
class Timekeeper final : public Interceptor {
 public:
  void OnStart(InterceptedCall& call) override {
    call.set_deadline(Deadline::After(absl::Seconds(seconds.load())));
  }
  void OnEnd(InterceptedCall& call) override { ended = call.status().code(); }
  bool HasEnded(absl::StatusCode code) const {
    const Deadline patience = Deadline::After(kSoon);
    while (ended != code && !patience.passed()) std::this_thread::yield();
    return ended == code;
  }

  std::atomic<int> seconds{0};
  std::atomic<absl::StatusCode> ended{absl::StatusCode::kOk};
};

// Of each kind, in each way of waiting that a handler has.
TEST_P(StreamTest, DeadlineThatAServersInterceptorSetsIsThatOfTheStream) {
  constexpr absl::Duration kTime = absl::Seconds(40);  // shorter than write_stall_timeout
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  FakeClock clock;
  std::atomic<int> begun{0};
  std::atomic<uint64_t> left_ms{0};
  const auto note = [&](const ServerContext& context) {
    left_ms = RemainingMs(context);
    ++begun;
  };
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader,
                       StreamWriter<Item> writer) -> Reply {
    note(context);
    for (;;) {
      const absl::Status sent = co_await writer.Write(NewItem(writer, 0, 1000));
      if (!sent.ok()) co_return sent;
    }
  };
  feed_.on_upload = [&](ServerContext& context, StreamReader<Item> reader,
                        Feed::UploadResults::Builder) -> Reply {
    note(context);
    const ItemRead item = co_await reader.Read();
    co_return item.status();
  };
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                      StreamWriter<Item>) -> Reply {
    note(context);
    const ItemRead item = co_await reader.Read();
    co_return item.status();
  };
  feed_.on_pour = [&](ServerContext& context, Item::Reader) -> Reply {
    note(context);
    co_return co_await context.Sleep(absl::Hours(2));
  };
  const auto keeper = std::make_shared<Timekeeper>();
  // So little that it finds room in a socket that nobody reads, or the clock would run into
  // write_stall_timeout.
  Limits limits;
  limits.stream_window_bytes = 10'000;
  Start({.limits = limits, .keepalive = kNone, .interceptors = {keeper}},
        {.limits = limits, .keepalive = kNone});
  // The caller gives up later than the server does, or earlier.
  for (const bool shorter : {true, false}) {
    keeper->seconds = shorter ? 40 : 3600;
    const absl::Duration callers = shorter ? absl::Hours(1) : kTime;
    for (int kind = 0; kind < 4; ++kind) {
      SCOPED_TRACE(testing::Message() << shorter << kind);
      keeper->ended = absl::StatusCode::kOk;
      const int before = begun;
      const CallOptions options = WithTimeout(callers);
      FeedStub sink = stub();
      auto watch = kind == 0 ? stub().Watch(options).Send() : StreamReader<Item>();
      std::optional<ClientStream<Item, Feed::UploadResults>> upload;
      std::optional<BidiStream<Item, Item>> chat;
      if (kind == 1) upload = stub().Upload(options);
      if (kind == 2) chat = stub().Chat(options);
      if (kind == 3) sink.Pour(options).Send().Wait().IgnoreError();
      const Deadline patience = Deadline::After(kSoon);
      while (begun == before) ASSERT_FALSE(patience.passed());
      EXPECT_THAT(left_ms.load(), AboutMs(shorter ? 40'000 : 3'600'000));
      clock.Advance(kTime);
      ASSERT_TRUE(keeper->HasEnded(shorter ? absl::StatusCode::kDeadlineExceeded
                                           : absl::StatusCode::kCancelled))
          << absl::StatusCodeToString(keeper->ended);
      absl::Status end;
      if (kind == 0) {
        for (const auto& item : watch.Messages()) static_cast<void>(item);
        end = watch.status();
      } else if (kind == 1) {
        end = upload->Finish().Wait().status();
      } else if (kind == 2) {
        end = chat->reader().Read().Wait().status();
      } else {
        end = sink.FinishStream().Wait();
      }
      EXPECT_THAT(end, StatusIs(absl::StatusCode::kDeadlineExceeded));
      EXPECT_THAT(end, OutcomeIs(shorter ? CallOutcome::kAnswered : CallOutcome::kUnknown));
    }
  }
}

// Keeps each call on the server until its deadline has passed.
class Dawdler final : public Interceptor {
 public:
  void OnStart(InterceptedCall& call) override {
    while (!call.deadline().infinite() && !call.deadline().passed()) std::this_thread::yield();
  }
  void OnEnd(InterceptedCall& call) override {
    if (absl::IsDeadlineExceeded(call.status())) ++late;
  }

  std::atomic<uint64_t> late{0};
};

TEST_P(StreamTest, StreamsThatAreTooLateAreNotBegunAndCounted) {
  std::atomic<int> ran{0};
  const auto run = [&] {
    ++ran;
    return Reply(absl::OkStatus());
  };
  feed_.on_watch = [&](auto&&...) { return run(); };
  feed_.on_upload = [&](auto&&...) { return run(); };
  feed_.on_chat = [&](auto&&...) { return run(); };
  feed_.on_pour = [&](auto&&...) { return run(); };
  const auto dawdler = std::make_shared<Dawdler>();
  ServerOptions options;
  options.interceptors = {dawdler};
  Start(options);
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  uint64_t late = 0;
  for (int kind = 0; kind < 4; ++kind) {
    SCOPED_TRACE(kind);
    ++late;
    const Deadline patience = Deadline::After(kSoon);
    // Where its time is over before it was sent, the server hears nothing of it.
    while (server_->statistics().calls_dropped_late < late) {
      ASSERT_FALSE(patience.passed());
      const CallOptions soon = WithTimeout(absl::Milliseconds(10));
      absl::Status status;
      if (kind == 0) {
        status = stub().Watch(soon).Send().Read().Wait().status();
      } else if (kind == 1) {
        status = stub().Upload(soon).Finish().Wait().status();
      } else if (kind == 2) {
        auto chat = stub().Chat(soon);
        status = chat.reader().Read().Wait().status();
      } else {
        FeedStub sink = stub();
        auto request = sink.Pour(soon);
        request.Send().Wait().IgnoreError();
        status = sink.FinishStream().Wait();
      }
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded));
      // The caller may have its end before the server.
      const Deadline moment = Deadline::After(absl::Milliseconds(100));
      while (server_->statistics().calls_dropped_late < late && !moment.passed()) {
        std::this_thread::yield();
      }
    }
    late = server_->statistics().calls_dropped_late;
  }
  const Deadline patience = Deadline::After(kSoon);
  while (dawdler->late < late) ASSERT_FALSE(patience.passed());
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(server_->statistics().calls_accepted, 0u);
  EXPECT_THAT(Watch(1).Read().Wait(), IsOk()) << "without a deadline nothing is too late";
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace mi7::conformance
