// Streams that a handler opens for its caller (ServerContext::ForNestedCall).

#include <memory>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/trace_context.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// How long the caller waits that gives up at a deadline, by a fake clock. Shorter than
// write_stall_timeout.
constexpr absl::Duration kTime = absl::Seconds(40);

// The handler at the end of the chain, which leaves its stream to the test.
struct Backend {
  ServerContext* context = nullptr;
  StreamWriter<Item> writer;
  DeferredCall call;
  absl::Notification there = {};

  WatchHandler Handler() {
    return [this](ServerContext& own, Feed::WatchParams::Reader, StreamWriter<Item> to) -> Reply {
      context = &own;
      writer = std::move(to);
      call = own.Defer();
      there.Notify();
      return Reply::Later();
    };
  }
};

Reply SendOne(StreamWriter<Item> writer, uint64_t number) {
  co_return co_await writer.Write(NewItem(writer, number));
}

TEST_P(StreamTest, NestedStreamHasItsCallersDeadlineAndEndsWithIt) {
  FakeClock clock;
  for (const bool by_deadline : {false, true}) {
    SCOPED_TRACE(by_deadline);
    Backend backend;
    absl::Status nested_end;
    absl::Notification ended;
    feed_.on_watch = backend.Handler();
    Start();
    ASSERT_TRUE(Answers());
    // A server before the one of the test, which hands on what it gets from there.
    const FeedStub to_backend = stub();
    FeedImpl front;
    front.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader,
                         StreamWriter<Item> writer) -> Reply {
      auto nested = to_backend.Watch(context.ForNestedCall()).Send();
      for (;;) {
        const ItemRead item = co_await nested.Read();
        if (!item.ok() || !*item) {
          nested_end = item.status();
          ended.Notify();
          co_return absl::OkStatus();
        }
        // It may be the caller's end that ends the wait for the next write.
        (co_await writer.Write(NewItem(writer, (*item)->getNumber() + 100))).IgnoreError();
      }
    };
    ServerOptions options;
    options.wait = GetParam().wait;
    const auto front_server = *ServerBuilder()
                                   .SetOptions(options)
                                   .AddService(&front)
                                   .Listen(GetParam().new_endpoint())
                                   .Start();
    ChannelOptions channel_options;
    channel_options.wait = GetParam().wait;
    const FeedStub to_front(*Channel::Create(front_server->endpoints()[0], channel_options));
    auto reader = to_front.Watch({.deadline = Deadline::After(kTime)}).Send();
    ASSERT_TRUE(Happens(backend.there));
    EXPECT_LE(backend.context->deadline().remaining(), kTime);
    EXPECT_GT(backend.context->deadline().remaining(), absl::ZeroDuration());
    for (uint64_t number = 0; number < 3; ++number) {
      ASSERT_THAT(backend.writer.Write(NewItem(backend.writer, number)).Wait(), IsOk());
      ASSERT_TRUE(GivesItems(reader, 100 + number, 101 + number));
    }
    EXPECT_FALSE(ended.HasBeenNotified());
    if (by_deadline) {
      clock.Advance(kTime);
    } else {
      reader.Cancel();
    }
    ASSERT_TRUE(Happens(ended));
    // At a deadline there are several clocks, of which each may be the first.
    EXPECT_TRUE(absl::IsCancelled(nested_end) ||
                (by_deadline && absl::IsDeadlineExceeded(nested_end)))
        << nested_end;
    const Deadline patience = Deadline::After(kSoon);
    while (!backend.context->cancelled()) {
      ASSERT_FALSE(patience.passed()) << "the end has not reached the backend";
      std::this_thread::yield();
    }
    backend.call.Finish(absl::CancelledError("as it should"));
  }
}

TEST_P(StreamTest, NestedStreamBelongsToItsCallersTrace) {
  const auto trace =
      TraceContext::Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "");
  ASSERT_TRUE(trace);
  // Of each kind: the number of the item that goes back, 1 when it has the trace.
  const auto has_trace = [&](const ServerContext& context) -> uint64_t {
    return context.trace() != nullptr && context.trace()->traceparent() == trace->traceparent();
  };
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader,
                       StreamWriter<Item> writer) {
    return SendOne(std::move(writer), has_trace(context));
  };
  feed_.on_upload = [&](ServerContext& context, StreamReader<Item>,
                        Feed::UploadResults::Builder results) -> Reply {
    results.setCount(has_trace(context));
    return absl::OkStatus();
  };
  Start();
  const FeedStub to_backend = stub();
  FeedImpl front;
  front.on_chat = [&](ServerContext& context, StreamReader<Item>,
                      StreamWriter<Item> writer) -> Reply {
    auto nested = to_backend.Watch(context.ForNestedCall()).Send();
    const ItemRead item = co_await nested.Read();
    if (!item.ok()) co_return item.status();
    auto upload = to_backend.Upload(context.ForNestedCall());
    const auto response = co_await upload.Finish();
    if (!response.ok()) co_return response.status();
    const uint64_t both = (*item)->getNumber() + 10 * response->getCount();
    co_return co_await writer.Write(NewItem(writer, both));
  };
  ServerOptions options;
  options.wait = GetParam().wait;
  const auto front_server = *ServerBuilder()
                                 .SetOptions(options)
                                 .AddService(&front)
                                 .Listen(GetParam().new_endpoint())
                                 .Start();
  const FeedStub to_front(*Channel::Create(front_server->endpoints()[0], {}));
  auto traced = to_front.Chat({.trace = std::make_shared<const TraceContext>(*trace)});
  EXPECT_TRUE(GivesItems(traced.reader(), 11, 12));
  auto untraced = to_front.Chat();
  EXPECT_TRUE(GivesItems(untraced.reader(), 0, 1));
}

}  // namespace
}  // namespace mi7::conformance
