// How soon the handler of a stream learns that its caller has given up, and what the cancellation
// does not wait for.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fake_clock.h"
#include "rpc/client_streams.h"
#include "tests/conformance/call/stream_conformance.h"
#include "tests/conformance/call/until_told.h"

namespace mi7::conformance {
namespace {

// Streams of all kinds that their handlers leave to the test, which neither reads nor writes.
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

}  // namespace
}  // namespace mi7::conformance
