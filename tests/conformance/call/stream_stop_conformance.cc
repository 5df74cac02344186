// Handlers of streams whose coroutines ask to be stopped when their callers give up.

#include <atomic>
#include <memory>
#include <stop_token>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "tests/conformance/call/stream_conformance.h"
#include "tests/conformance/call/until_told.h"

namespace mi7::conformance {
namespace {

struct NoteEnd {
  absl::Notification* ended;
  ~NoteEnd() { ended->Notify(); }
};

// The ways in which a caller gives up a stream that it has a handle of.
TEST_P(StreamTest, CoroutineThatAsksForItStopsInARead) {
  FakeClock clock;
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  for (const Way way : {Way::kCancel, Way::kDrop, Way::kDeadline, Way::kDisconnect}) {
    SCOPED_TRACE(testing::Message() << way);
    absl::Notification waits, freed;
    std::atomic<bool> went_on{false};
    feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                        StreamWriter<Item>) -> Reply {
      co_await context.StopWhenCancelled();
      const NoteEnd end{&freed};
      for (;;) {
        const ItemRead read = co_await reader.Read();
        if (!read.ok() || !*read) break;
        waits.Notify();
      }
      went_on = true;
      co_return absl::OkStatus();
    };
    Start({.keepalive = kNone}, {.keepalive = kNone});
    CallOptions options;
    if (way == Way::kDeadline) options.deadline = Deadline::After(absl::Hours(1));
    {
      auto chat = stub().Chat(options);
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 1)).Wait(), IsOk());
      ASSERT_TRUE(Happens(waits));
      if (way == Way::kCancel) chat.Cancel();
      if (way == Way::kDeadline) clock.Advance(absl::Hours(1));
      if (way == Way::kDisconnect) channel_->Close();
      if (way != Way::kDrop) {
        EXPECT_TRUE(Happens(freed));
      }
    }
    EXPECT_TRUE(Happens(freed));
    EXPECT_FALSE(went_on);
    server_ = nullptr;  // no handler goes on
  }
}

TEST_P(StreamTest, CoroutineThatAsksForItStopsInAWriteWithoutCredit) {
  absl::Notification freed;
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader,
                       StreamWriter<Item> writer) -> Reply {
    co_await context.StopWhenCancelled();
    const NoteEnd end{&freed};
    for (uint64_t number = 0;; ++number) {
      static_cast<void>(co_await writer.Write(NewItem(writer, number, 10'000)));
      ++written_;
    }
  };
  Limits limits;
  limits.stream_window_bytes = 64u << 10;
  Start(limits);
  {
    auto reader = Watch(1, 0);
    const ItemRead read = reader.Read().Wait();
    ASSERT_TRUE(read.ok() && *read);
    const Deadline patience = Deadline::After(kSoon);
    while (written_ < 6) ASSERT_FALSE(patience.passed()) << written_;
  }  // dropped
  EXPECT_TRUE(Happens(freed));
  server_ = nullptr;  // no handler goes on
}

// Calls of its own, made without ForNestedCall: it learns when the window has room again.
TEST_P(StreamTest, CoroutineThatAsksForItStopsInAPourAndTakesBackTheCallThatItSentLast) {
  struct Pour {
    ServerContext* context;
    DeferredCall call;
  };
  absl::Mutex mutex;
  std::vector<Pour> pours;
  feed_.on_pour = [&](ServerContext& context, Item::Reader) {
    absl::MutexLock lock(&mutex);
    pours.push_back({&context, context.Defer()});
    return Reply::Later();
  };
  const auto await_pours = [&](size_t count) {
    absl::MutexLock lock(&mutex);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return pours.size() == count; };
    return mutex.AwaitWithTimeout(absl::Condition(&there), kSoon);
  };
  absl::Notification given_up, freed, taken_back;
  std::atomic<bool> went_on{false};
  std::shared_ptr<Channel> to_sink;
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item>, StreamWriter<Item>) -> Reply {
    co_await context.StopWhenCancelled();
    const NoteEnd end{&freed};
    const std::stop_callback note(context.stop_token(), [&] { given_up.Notify(); });
    FeedStub sink(to_sink);
    for (uint64_t number = 0; number < 2; ++number) {
      auto request = sink.Pour();
      FillItem(*request, number, 1000);
      static_cast<void>(co_await request.Send());
    }
    went_on = true;
    co_return absl::OkStatus();
  };
  Limits limits;
  limits.stream_window_bytes = 1500;
  Start(limits);
  ChannelOptions options;
  options.limits = limits;
  to_sink = NewChannel(options);
  {
    auto chat = stub().Chat();
    ASSERT_TRUE(await_pours(2));
  }  // dropped
  EXPECT_TRUE(Happens(given_up));
  EXPECT_FALSE(freed.HasBeenNotified()) << "it waits for the window";
  Pour first, last;
  {
    absl::MutexLock lock(&mutex);
    first = std::move(pours[0]);
    last = std::move(pours[1]);
  }
  const std::stop_callback note(last.context->stop_token(), [&] { taken_back.Notify(); });
  EXPECT_FALSE(first.context->cancelled());
  EXPECT_FALSE(taken_back.HasBeenNotified());
  first.call.Finish(absl::OkStatus());
  EXPECT_TRUE(Happens(freed));
  EXPECT_TRUE(Happens(taken_back));
  EXPECT_FALSE(went_on);
  last.call.Finish(absl::OkStatus());
  to_sink = nullptr;
  server_ = nullptr;  // no handler goes on
}

}  // namespace
}  // namespace mi7::conformance
