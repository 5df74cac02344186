// How soon the handler of a stream, or of a `-> stream` call, learns that its caller has given up,
// and what the cancellation does not wait for.

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/client_streams.h"
#include "tests/conformance/call/stream_conformance.h"
#include "tests/conformance/call/until_told.h"

namespace mi7::conformance {
namespace {

// Streams of all kinds, and `-> stream` calls, that their handlers leave to the test, which neither
// reads nor writes.
class Held {
 public:
  struct Stream {
    ServerContext* context;
    StreamReader<Item> reader;
    StreamWriter<Item> writer;
    DeferredCall call;
  };

  void HoldAll(FeedImpl& feed) {
    feed.on_watch = [this](ServerContext& context, auto, StreamWriter<Item> writer) {
      return Hold(context, {}, std::move(writer));
    };
    feed.on_upload = [this](ServerContext& context, StreamReader<Item> reader, auto) {
      return Hold(context, std::move(reader), {});
    };
    feed.on_chat = [this](ServerContext& context, StreamReader<Item> reader,
                          StreamWriter<Item> writer) {
      return Hold(context, std::move(reader), std::move(writer));
    };
    feed.on_pour = [this](ServerContext& context, Item::Reader) { return Hold(context, {}, {}); };
  }
  // nullptr: none has come.
  std::unique_ptr<Stream> Take() {
    absl::MutexLock lock(&mutex_);
    const auto any = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !streams_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&any), kSoon)) return nullptr;
    std::unique_ptr<Stream> stream = std::move(streams_.front());
    streams_.erase(streams_.begin());
    return stream;
  }

 private:
  Reply Hold(ServerContext& context, StreamReader<Item> reader, StreamWriter<Item> writer) {
    absl::MutexLock lock(&mutex_);
    streams_.push_back(std::unique_ptr<Stream>(
        new Stream{&context, std::move(reader), std::move(writer), context.Defer()}));
    return Reply::Later();
  }

  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
};

enum class Kind { kWatch, kUpload, kChat };
constexpr Kind kKinds[] = {Kind::kWatch, Kind::kUpload, Kind::kChat};

// Of a chat of its own.
OwnedCoroutine AwaitRead(FeedStub stub) {
  auto chat = stub.Chat();
  static_cast<void>(co_await chat.reader().Read());
}

// A stream that will be given up.
class Doomed {
 public:
  Doomed(const FeedStub& stub, Kind kind, Way way) : way_(way) {
    if (way == Way::kDropCoroutine) {
      coroutine_ = AwaitRead(stub);
      return;
    }
    CallOptions options;
    if (way == Way::kDeadline) options.deadline = Deadline::After(kTimeGiven);
    FeedStub own = stub;
    if (kind == Kind::kWatch) watch_ = own.Watch(options).Send();
    if (kind == Kind::kUpload) upload_ = own.Upload(options);
    if (kind == Kind::kChat) chat_ = own.Chat(options);
  }
  void GiveUp(FakeClock& clock, Channel& channel) {
    switch (way_) {
      case Way::kCancel:
        if (watch_) watch_->Cancel();
        if (upload_) upload_->Cancel();
        if (chat_) chat_->Cancel();
        return;
      case Way::kDrop:
        watch_.reset();
        upload_.reset();
        chat_.reset();
        return;
      case Way::kDropCoroutine:
        return coroutine_->Destroy();
      case Way::kDeadline:
        return clock.Advance(kTimeGiven);
      case Way::kDisconnect:
        return channel.Close();
    }
  }
  // Of an upload or a chat.
  StreamWriter<Item>& writer() { return upload_ ? upload_->writer() : chat_->writer(); }

 private:
  const Way way_;
  std::optional<StreamReader<Item>> watch_;
  std::optional<ClientStream<Item, Feed::UploadResults>> upload_;
  std::optional<BidiStream<Item, Item>> chat_;
  std::optional<OwnedCoroutine> coroutine_;
};

// Writes until there is no credit left.
void WriteAll(StreamWriter<Item>& writer) {
  constexpr int kMost = 1000;
  for (int i = 0; i < kMost && writer.ready(); ++i) {
    static_cast<void>(writer.Write(NewItem(writer, 0, 1000)));
  }
  EXPECT_FALSE(writer.ready());
}

constexpr Keepalive kNoKeepalive = {.interval = absl::InfiniteDuration()};

TEST_P(StreamTest, HandlersOfStreamsAreToldAtOnceThatTheirCallersHaveGivenUp) {
  FakeClock clock;
  Held held;
  held.HoldAll(feed_);
  Start({.keepalive = kNoKeepalive});
  for (const Kind kind : kKinds) {
    for (const Way way : kWays) {
      if (way == Way::kDropCoroutine && kind != Kind::kChat) continue;
      SCOPED_TRACE(testing::Message() << static_cast<int>(kind) << " " << way);
      channel_ = NewChannel({.keepalive = kNoKeepalive});
      std::vector<absl::Duration> times;
      for (int round = 0; round < kRounds; ++round) {
        if (way == Way::kDisconnect) channel_ = NewChannel({.keepalive = kNoKeepalive});
        if (round % 2 == 0) {
          ASSERT_TRUE(Answers()) << "and now it is used in a blocking way";
        }
        Doomed stream(stub(), kind, way);
        const std::unique_ptr<Held::Stream> there = held.Take();
        ASSERT_NE(there, nullptr);
        EXPECT_FALSE(there->context->cancelled());
        times.push_back(UntilTold(*there->context, [&] { stream.GiveUp(clock, *channel_); }));
        ASSERT_LT(times.back(), absl::InfiniteDuration());
        EXPECT_TRUE(there->context->cancelled());
        there->call.Finish(absl::CancelledError("as it should"));
      }
      EXPECT_LE(Median(times), kAtOnce);
    }
  }
}

// Neither of one's own nor of other streams of the connection, in whatever direction, and the
// streams that stand go on standing.
TEST_P(StreamTest, CancellationsOfStreamsWaitForNoCredit) {
  FakeClock clock;
  Held held;
  held.HoldAll(feed_);
  Limits limits;
  limits.stream_window_bytes = 10'000;
  ServerOptions server;
  server.limits = limits;
  server.keepalive = kNoKeepalive;
  ChannelOptions channel;
  channel.limits = limits;
  channel.keepalive = kNoKeepalive;
  Start(server, channel);
  for (const Way way : {Way::kCancel, Way::kDrop, Way::kDeadline, Way::kDisconnect}) {
    for (const Kind kind : {Kind::kUpload, Kind::kChat}) {
      SCOPED_TRACE(testing::Message() << way << " " << static_cast<int>(kind));
      channel_ = NewChannel(channel);
      ASSERT_TRUE(Answers());
      auto stands = stub().Chat();
      const std::unique_ptr<Held::Stream> stands_there = held.Take();
      ASSERT_NE(stands_there, nullptr);
      WriteAll(stands.writer());
      WriteAll(stands_there->writer);
      Doomed stream(stub(), kind, way);
      const std::unique_ptr<Held::Stream> there = held.Take();
      ASSERT_NE(there, nullptr);
      WriteAll(stream.writer());
      if (kind == Kind::kChat) WriteAll(there->writer);
      EXPECT_FALSE(there->context->cancelled());
      ASSERT_LT(UntilTold(*there->context, [&] { stream.GiveUp(clock, *channel_); }),
                absl::InfiniteDuration());
      // The stream ends a moment later than the token is stopped.
      absl::Status read;
      for (int i = 0; read.ok() && i < 20; ++i) read = there->reader.Read().Wait().status();
      EXPECT_FALSE(read.ok());
      EXPECT_EQ(absl::IsUnavailable(read), way == Way::kDisconnect) << read;
      there->call.Finish(absl::CancelledError("as it should"));
      if (way != Way::kDisconnect) {
        EXPECT_FALSE(stands_there->context->cancelled());
        EXPECT_FALSE(stands.writer().ready());
        EXPECT_FALSE(stands_there->writer.ready());
      }
      stands_there->call.Finish(absl::CancelledError("as it should"));
    }
  }
}

// --- `-> stream` calls

FlowSending PourBytes(FeedStub& sink, size_t bytes = 0, const CallOptions& options = {}) {
  auto request = sink.Pour(options);
  FillItem(*request, 0, bytes);
  return request.Send();
}

// Two calls of kPourBytes are a window: the second one waits for the answer to the first.
constexpr size_t kPourBytes = 1000;
constexpr uint32_t kPourWindow = 1500;

OwnedCoroutine PourAndFinish(FeedStub sink) {
  static_cast<void>(co_await PourBytes(sink, kPourBytes));
  static_cast<void>(co_await sink.FinishStream());
}

// A call that will be given up; the last one of its sink.
class DoomedPour {
 public:
  DoomedPour(FeedStub& sink, Way way) : way_(way) {
    if (way == Way::kDropCoroutine) {
      // Waits in the call where it does not fit the window, else in FinishStream.
      coroutine_ = PourAndFinish(sink);
      return;
    }
    CallOptions options;
    if (way == Way::kDeadline) options.deadline = Deadline::After(kTimeGiven);
    canceller_ = PourBytes(sink, kPourBytes, options).canceller();
  }
  void GiveUp(FakeClock& clock, Channel& channel) {
    if (way_ == Way::kCancel) canceller_.Cancel();
    if (way_ == Way::kDropCoroutine) coroutine_->Destroy();
    if (way_ == Way::kDeadline) clock.Advance(kTimeGiven);
    if (way_ == Way::kDisconnect) channel.Close();
  }

 private:
  const Way way_;
  CallCanceller canceller_;
  std::optional<OwnedCoroutine> coroutine_;
};

testing::AssertionResult EndsAsGivenUp(FeedStub& sink, Way way) {
  struct End {
    absl::Status status;
    absl::Notification told;
  };
  const auto end = std::make_shared<End>();
  sink.FinishStream().Then([end](absl::Status finished) {
    end->status = std::move(finished);
    end->told.Notify();
  });
  if (!Happens(end->told)) return testing::AssertionFailure() << "it does not end";
  const absl::Status& status = end->status;
  const absl::StatusCode code = way == Way::kDeadline     ? absl::StatusCode::kDeadlineExceeded
                                : way == Way::kDisconnect ? absl::StatusCode::kUnavailable
                                                          : absl::StatusCode::kCancelled;
  if (status.code() == code && OutcomeOf(status) == CallOutcome::kUnknown) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << status;
}

// Whether the window has room for the next call, or a call waits for it and streams stand beside
// it that wait for credit in both directions.
TEST_P(StreamTest, HandlersOfFlowCallsAreToldAtOnceThatTheirCallersHaveGivenUp) {
  FakeClock clock;
  Held held;
  held.HoldAll(feed_);
  Limits limits;
  limits.stream_window_bytes = kPourWindow;
  ServerOptions server;
  server.limits = limits;
  server.keepalive = kNoKeepalive;
  ChannelOptions channel;
  channel.limits = limits;
  channel.keepalive = kNoKeepalive;
  Start(server, channel);
  for (const bool without_credit : {false, true}) {
    for (const Way way : {Way::kCancel, Way::kDropCoroutine, Way::kDeadline, Way::kDisconnect}) {
      SCOPED_TRACE(testing::Message() << way << " " << without_credit);
      std::vector<absl::Duration> times;
      for (int round = 0; round < kRounds; ++round) {
        channel_ = NewChannel(channel);
        ASSERT_TRUE(Answers());
        std::optional<BidiStream<Item, Item>> stands;
        std::unique_ptr<Held::Stream> stands_there, first_there;
        FeedStub sink = stub();
        if (without_credit) {
          stands.emplace(stub().Chat());
          stands_there = held.Take();
          ASSERT_NE(stands_there, nullptr);
          WriteAll(stands->writer());
          WriteAll(stands_there->writer);
          ASSERT_THAT(PourBytes(sink, kPourBytes).Wait(), IsOk());
          first_there = held.Take();
          ASSERT_NE(first_there, nullptr);
        }
        DoomedPour call(sink, way);
        const std::unique_ptr<Held::Stream> there = held.Take();
        ASSERT_NE(there, nullptr);
        EXPECT_FALSE(there->context->cancelled());
        times.push_back(UntilTold(*there->context, [&] { call.GiveUp(clock, *channel_); }));
        ASSERT_LT(times.back(), absl::InfiniteDuration());
        for (const auto& other : {&stands_there, &first_there}) {
          if (*other == nullptr) continue;
          if (way != Way::kDisconnect) {
            EXPECT_FALSE((*other)->context->cancelled());
          }
          (*other)->call.Finish(absl::OkStatus());
        }
        // The client may notice a deadline later than the server.
        ASSERT_TRUE(EndsAsGivenUp(sink, way));
        there->call.Finish(absl::OkStatus());
      }
      EXPECT_LE(Median(times), kAtOnce);
    }
  }
}

OwnedCoroutine PourAndWaitElsewhere(FeedStub sink) {
  const FlowSending sending = PourBytes(sink);
  co_await std::suspend_always();
}

// Nobody has a handle of one such call: what was sent goes on, and is answered, when it is dropped
// and when a coroutine ends that has not waited for it.
TEST_P(StreamTest, FlowCallsThatNobodyWaitsForGoOn) {
  Held held;
  held.HoldAll(feed_);
  Start();
  for (const bool in_coroutine : {false, true}) {
    SCOPED_TRACE(in_coroutine);
    FeedStub sink = stub();
    if (in_coroutine) {
      OwnedCoroutine coroutine = PourAndWaitElsewhere(sink);
      coroutine.Destroy();
    } else {
      static_cast<void>(PourBytes(sink));
    }
    const std::unique_ptr<Held::Stream> there = held.Take();
    ASSERT_NE(there, nullptr);
    ASSERT_TRUE(Answers()) << "what was sent before has arrived";
    EXPECT_FALSE(there->context->cancelled());
    there->call.Finish(absl::DataLossError("told"));
    EXPECT_THAT(sink.FinishStream().Wait(), StatusIs(absl::StatusCode::kDataLoss, "told"));
  }
}

// Its loop is inside a callback that does not return, and many answers wait for it.
TEST_P(StreamTest, CancellationsOfFlowCallsReachTheServerWhileTheClientReadsNothing) {
  constexpr int kUnread = 64;
  constexpr unsigned kBytes = 64 << 10;  // all of them are less than Limits::queued_bytes_max
  for (const bool waits : {false, true}) {
    SCOPED_TRACE(waits);
    std::atomic<int> answered{0};
    absl::Notification blocked, go_on;
    Countdown ended(kUnread);
    ProbeImpl probe;
    probe.on_echo = [&](ServerContext&, auto, Probe::EchoResults::Builder results) {
      results.initData(kBytes);
      ++answered;
      return absl::OkStatus();
    };
    Held held;
    held.HoldAll(feed_);
    ServerOptions server;
    server.wait = GetParam().wait;
    server_ = *ServerBuilder()
                   .SetOptions(server)
                   .AddService(&feed_)
                   .AddService(&probe)
                   .Listen(GetParam().new_endpoint())
                   .Start();
    // Before what their calls use.
    const absl::Cleanup end = [&] {
      channel_->Close();
      channel_ = nullptr;
      server_ = nullptr;
    };
    endpoint_ = server_->endpoints()[0];
    ChannelOptions channel;
    channel.limits.stream_window_bytes = kPourWindow;
    channel_ = NewChannel(channel);
    ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
    FeedStub sink = stub();
    std::unique_ptr<Held::Stream> first;
    if (waits) {
      ASSERT_THAT(PourBytes(sink, kPourBytes).Wait(), IsOk());
      first = held.Take();
      ASSERT_NE(first, nullptr);
    }
    const CallCanceller canceller = PourBytes(sink, kPourBytes).canceller();
    const std::unique_ptr<Held::Stream> there = held.Take();
    ASSERT_NE(there, nullptr);
    ProbeStub others(channel_);
    others.Hold().Send().Then([&](auto) {
      blocked.Notify();
      EXPECT_TRUE(Happens(go_on));
    });
    // So that the callback runs on the client's loop, not on this thread.
    std::thread([answer = probe.TakeHeld()]() mutable { answer.Answer(); }).join();
    ASSERT_TRUE(Happens(blocked));
    for (int i = 0; i < kUnread; ++i) {
      others.Echo().Send().Then([&](EchoResult result) {
        EXPECT_THAT(result, IsOk());
        ended.DecrementCount();
      });
      // One by one: what finds no room at once waits for the loop.
      const Deadline patience = Deadline::After(kSoon);
      while (answered == i && !patience.passed()) std::this_thread::yield();
      EXPECT_EQ(answered, i + 1);
    }
    EXPECT_LT(UntilTold(*there->context, [&] { canceller.Cancel(); }), absl::InfiniteDuration());
    there->call.Finish(absl::OkStatus());
    if (first != nullptr) first->call.Finish(absl::OkStatus());
    go_on.Notify();
    ended.Wait();
    EXPECT_TRUE(EndsAsGivenUp(sink, Way::kCancel));
  }
}

}  // namespace
}  // namespace mi7::conformance
