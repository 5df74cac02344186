// Streams and `-> stream` calls that a handler makes for its caller end when that one gives up,
// whatever the handler waits for in them.

#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/task.h"
#include "tests/conformance/call/front.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// So many items of kBytes, which nobody takes, use a window up: the last one waits.
constexpr uint32_t kWindow = 10'000;
constexpr size_t kBytes = 1000;
constexpr size_t kFit = 10;

enum class Wait { kUploadWrite, kUploadFinish, kChatRead, kChatWrite, kPour, kFinishStream };
constexpr Wait kWaits[] = {Wait::kUploadWrite, Wait::kUploadFinish, Wait::kChatRead,
                           Wait::kChatWrite,   Wait::kPour,         Wait::kFinishStream};

Task<absl::Status> WriteToTheEnd(StreamWriter<Item>& writer, absl::Notification& waits) {
  absl::Status sent;
  for (size_t number = 1; sent.ok(); ++number) {
    StreamWriting writing = writer.Write(NewItem(writer, number, kBytes));
    if (number == kFit) waits.Notify();
    sent = co_await std::move(writing);
  }
  co_return sent;
}

Task<absl::Status> PourToTheEnd(FeedStub& sink, CallOptions options, absl::Notification& waits) {
  absl::Status sent;
  for (size_t number = 1; sent.ok(); ++number) {
    auto request = sink.Pour(options);
    FillItem(*request, number, kBytes);
    FlowSending sending = request.Send();
    if (number == kFit) waits.Notify();
    sent = co_await std::move(sending);
  }
  co_return sent;
}

// Opens a stream, or makes calls, and waits as `wait` says. The status with which that ends;
// `waits` is told before.
Task<absl::Status> WaitIn(Wait wait, FeedStub backend, CallOptions options,
                          absl::Notification& waits) {
  switch (wait) {
    case Wait::kUploadWrite: {
      auto upload = backend.Upload(options);
      co_return co_await WriteToTheEnd(upload.writer(), waits);
    }
    case Wait::kUploadFinish: {
      auto upload = backend.Upload(options);
      auto answer = upload.Finish();
      waits.Notify();
      co_return (co_await std::move(answer)).status();
    }
    case Wait::kChatRead: {
      auto chat = backend.Chat(options);
      auto reading = chat.reader().Read();
      waits.Notify();
      co_return (co_await std::move(reading)).status();
    }
    case Wait::kChatWrite: {
      auto chat = backend.Chat(options);
      co_return co_await WriteToTheEnd(chat.writer(), waits);
    }
    case Wait::kPour: {
      const absl::Status ended = co_await PourToTheEnd(backend, options, waits);
      const absl::Status finished = co_await backend.FinishStream();
      co_return finished == ended ? ended : absl::InternalError("not what the calls were told");
    }
    case Wait::kFinishStream: {
      auto request = backend.Pour(options);
      if (absl::Status sent = co_await request.Send(); !sent.ok()) co_return sent;
      FlowSending finishing = backend.FinishStream();
      waits.Notify();
      co_return co_await std::move(finishing);
    }
  }
  co_return absl::InternalError("no such wait");
}

// Handlers of all kinds, which leave their calls to the test and take nothing of what comes.
class Backend {
 public:
  explicit Backend(FeedImpl& feed) {
    feed.on_upload = [this](ServerContext& context, StreamReader<Item> reader,
                            Feed::UploadResults::Builder) {
      return Keep(context, std::move(reader), {});
    };
    feed.on_chat = [this](ServerContext& context, StreamReader<Item> reader,
                          StreamWriter<Item> writer) {
      return Keep(context, std::move(reader), std::move(writer));
    };
    feed.on_pour = [this](ServerContext& context, Item::Reader) { return Keep(context, {}, {}); };
  }
  bool AwaitCalls(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return kept_.size() == count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kSoon);
  }
  // Whether each of them is told that its caller has given up.
  testing::AssertionResult AllAreTold() {
    absl::MutexLock lock(&mutex_);
    const Deadline patience = Deadline::After(kSoon);
    for (size_t i = 0; i < kept_.size(); ++i) {
      while (!kept_[i].context->stop_token().stop_requested()) {
        if (patience.passed()) return testing::AssertionFailure() << "call " << i << " is not told";
        std::this_thread::yield();
      }
    }
    return testing::AssertionSuccess();
  }
  void AnswerAll() {
    std::vector<Kept> kept;
    {
      absl::MutexLock lock(&mutex_);
      kept.swap(kept_);
    }
    for (Kept& one : kept) one.call.Finish(absl::AbortedError("answered"));
  }

 private:
  struct Kept {
    ServerContext* context;  // until `call` is answered
    StreamReader<Item> reader;
    StreamWriter<Item> writer;
    DeferredCall call;
  };
  Reply Keep(ServerContext& context, StreamReader<Item> reader, StreamWriter<Item> writer) {
    absl::MutexLock lock(&mutex_);
    kept_.push_back({&context, std::move(reader), std::move(writer), context.Defer()});
    return Reply::Later();
  }

  absl::Mutex mutex_;
  std::vector<Kept> kept_ ABSL_GUARDED_BY(mutex_);
};

TEST_P(StreamTest, NestedStreamsOfAllKindsEndWithTheirCallerWhateverIsWaitedFor) {
  FakeClock clock;
  Limits limits;
  limits.stream_window_bytes = kWindow;
  for (const WaysToEnd end : kEnds) {
    for (const Wait wait : kWaits) {
      SCOPED_TRACE(testing::Message()
                   << "end " << static_cast<int>(end) << ", wait " << static_cast<int>(wait));
      Backend backend(feed_);
      Start(limits);
      ASSERT_TRUE(Answers());
      absl::Notification waits, ended;
      absl::Status status;
      Front front(GetParam(),
                  [&, to_backend = stub()](ServerContext& context, Probe::EchoParams::Reader,
                                           Probe::EchoResults::Builder) -> Reply {
                    status = co_await WaitIn(wait, to_backend, context.ForNestedCall(), waits);
                    ended.Notify();
                    co_return absl::OkStatus();
                  });
      // What is not told would wait for ever, and the server before for it.
      const absl::Cleanup answer_all = [&] { backend.AnswerAll(); };
      front.SendToGiveUp(end);
      ASSERT_TRUE(Happens(waits));
      ASSERT_TRUE(backend.AwaitCalls(wait == Wait::kPour ? kFit : 1));
      EXPECT_FALSE(ended.HasBeenNotified());
      front.GiveUp(end, clock);
      ASSERT_TRUE(Happens(ended)) << "though nothing is answered";
      // At a deadline there are several clocks, of which each may be the first.
      EXPECT_TRUE(absl::IsCancelled(status) ||
                  (end == WaysToEnd::kDeadline && absl::IsDeadlineExceeded(status)))
          << status;
      EXPECT_TRUE(backend.AllAreTold());
    }
  }
}

// Those who block are woken in the same way.
TEST_P(StreamTest, ThreadsThatWaitInNestedStreamsAreWokenByTheEndOfTheirCaller) {
  FakeClock clock;
  Limits limits;
  limits.stream_window_bytes = kWindow;
  enum class Blocks { kWrite, kPour, kFinishStream };
  for (const Blocks blocks : {Blocks::kWrite, Blocks::kPour, Blocks::kFinishStream}) {
    SCOPED_TRACE(static_cast<int>(blocks));
    Backend backend(feed_);
    Start(limits);
    ASSERT_TRUE(Answers());
    absl::Notification waits, ended;
    absl::Status status;
    std::thread worker;
    Front front(
        GetParam(),
        [&, sink = stub()](ServerContext& context, Probe::EchoParams::Reader,
                           Probe::EchoResults::Builder) -> Reply {
          worker = std::thread([&, sink, own = &context, later = context.Defer()]() mutable {
            const CallOptions options = own->ForNestedCall();
            std::optional<ClientStream<Item, Feed::UploadResults>> upload;
            if (blocks == Blocks::kWrite) upload.emplace(sink.Upload(options));
            const size_t count = blocks == Blocks::kFinishStream ? 1 : kFit;
            for (size_t number = 1; status.ok() && number <= count; ++number) {
              if (number == kFit) waits.Notify();
              if (upload) {
                status = upload->Write(NewItem(upload->writer(), number, kBytes)).Wait();
              } else {
                auto request = sink.Pour(options);
                FillItem(*request, number, kBytes);
                status = request.Send().Wait();
              }
            }
            if (blocks == Blocks::kFinishStream) {
              waits.Notify();
              status = sink.FinishStream().Wait();
            }
            ended.Notify();
            later.Finish(absl::OkStatus());
          });
          return Reply::Later();
        });
    const absl::Cleanup answer_all = [&] {
      backend.AnswerAll();
      if (worker.joinable()) worker.join();
    };
    front.SendToGiveUp(WaysToEnd::kCancel);
    ASSERT_TRUE(Happens(waits));
    ASSERT_TRUE(backend.AwaitCalls(blocks == Blocks::kPour ? kFit : 1));
    EXPECT_FALSE(ended.HasBeenNotified());
    front.GiveUp(WaysToEnd::kCancel, clock);
    ASSERT_TRUE(Happens(ended));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
    EXPECT_TRUE(backend.AllAreTold());
  }
}

}  // namespace
}  // namespace mi7::conformance
