// What is known of a stream that failed: that it was not sent, that it was refused, or that it may
// have run; when no attempt at it has come further, its user relies on it.

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <capnp/message.h>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "rpc/call_outcome.h"
#include "rpc/interceptor.h"
#include "rpc/retry_info.h"
#include "rpc/status_details.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// Keeps the calls of all streaming methods.
class Holder {
 public:
  void HoldAll(FeedImpl& feed) {
    feed.on_watch = [this](ServerContext& context, auto&&...) { return Hold(context); };
    feed.on_upload = [this](ServerContext& context, auto&&...) { return Hold(context); };
    feed.on_chat = [this](ServerContext& context, auto&&...) { return Hold(context); };
    feed.on_pour = [this](ServerContext& context, auto&&...) { return Hold(context); };
  }
  bool AwaitHeld(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() == count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kSoon);
  }
  void AnswerAll() {
    std::vector<DeferredCall> calls;
    {
      absl::MutexLock lock(&mutex_);
      calls.swap(held_);
    }
    for (DeferredCall& call : calls) call.Finish(absl::OkStatus());
  }

 private:
  Reply Hold(ServerContext& context) {
    absl::MutexLock lock(&mutex_);
    held_.push_back(context.Defer());
    return Reply::Later();
  }
  absl::Mutex mutex_;
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
};

// A stream of each kind, begun.
class EachKind {
 public:
  explicit EachKind(FeedStub stub)
      : watch_(NewWatch(stub)), upload_(stub.Upload()), chat_(stub.Chat()), sink_(std::move(stub)) {
    auto request = sink_.Pour();
    FillItem(*request, 1, 0);
    request.Send().Then([](const absl::Status&) {});
    // They may be over before this could be written.
    upload_.Write(NewItem(upload_.writer(), 1)).Then([](const absl::Status&) {});
    chat_.writer().Write(NewItem(chat_.writer(), 1)).Then([](const absl::Status&) {});
  }

  // How each ended.
  std::map<std::string, absl::Status> Ends() {
    return {{"watch", watch_.Read().Wait().status()},
            {"upload", upload_.Finish().Wait().status()},
            {"chat", chat_.reader().Read().Wait().status()},
            {"pour", sink_.FinishStream().Wait()}};
  }

 private:
  static StreamReader<Item> NewWatch(FeedStub& stub) {
    auto request = stub.Watch();
    request->setCount(1);
    return request.Send();
  }
  StreamReader<Item> watch_;
  ClientStream<Item, Feed::UploadResults> upload_;
  BidiStream<Item, Item> chat_;
  FeedStub sink_;
};

TEST_P(StreamTest, RefusedStreamsOfEachKindSaySoAndMayBeMadeAgain) {
  ServerOptions server;
  server.load.calls_max = 1;
  server.load.retry_after = absl::Milliseconds(1);
  ChannelOptions client;
  client.retry.policy.attempts_max = 3;
  Start(server, client);
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 7)).Wait(), IsOk());
  ASSERT_TRUE(GivesItems(chat.reader(), 7, 8));  // it has the server's only place
  EachKind refused(stub());
  for (const auto& [kind, end] : refused.Ends()) {
    SCOPED_TRACE(kind);
    EXPECT_THAT(end, StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(end, OutcomeIs(CallOutcome::kRefused));
    EXPECT_TRUE(RetryAfter(end).has_value()) << "with the server's advice";
    EXPECT_TRUE(absl::StrContains(end.message(), "(3 attempts)")) << end;
  }
  EXPECT_EQ(server_->load().refused, 4 * 3u);
  chat.writer().Close();
  ASSERT_FALSE(*chat.reader().Read().Wait());
  // The user repeats them, one after the other because there is one place.
  auto again = Watch(1);
  EXPECT_TRUE(GivesItems(again, 0, 1));
  ASSERT_FALSE(*again.Read().Wait());
  EXPECT_THAT(stub().Upload().Finish().Wait(), IsOk());
  FeedStub sink = stub();
  auto request = sink.Pour();
  EXPECT_THAT(request.Send().Wait(), IsOk());
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
}

TEST_P(StreamTest, StreamsThatWereNotSentSaySoAndMayBeMadeAgain) {
  Start();
  server_ = nullptr;
  channel_ = NewChannel();
  EachKind unsent(stub());
  for (const auto& [kind, end] : unsent.Ends()) {
    SCOPED_TRACE(kind);
    EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(end, OutcomeIs(CallOutcome::kNotSent));
  }
  server_ = *ServerBuilder().AddService(&feed_).Listen(endpoint_).Start();
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  auto again = Watch(1);
  EXPECT_TRUE(GivesItems(again, 0, 1));
}

TEST_P(StreamTest, StreamsThatHadBegunMayHaveRun) {
  Holder holder;
  holder.HoldAll(feed_);
  Start();
  EachKind begun(stub());
  ASSERT_TRUE(holder.AwaitHeld(4));
  server_ = nullptr;
  for (const auto& [kind, end] : begun.Ends()) {
    SCOPED_TRACE(kind);
    EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(end, OutcomeIs(CallOutcome::kUnknown));
  }
  holder.AnswerAll();
}

TEST_P(StreamTest, StreamsOfEveryKindEndWithTheDetailsOfTheirStatus) {
  const auto fail = [](ServerContext&, auto&&...) -> Reply {
    absl::Status status = absl::NotFoundError("it is gone");
    capnp::MallocMessageBuilder message;
    message.initRoot<Item>().setNumber(77);
    AttachDetail<Item>(message, status);
    return status;
  };
  feed_.on_watch = fail;
  feed_.on_upload = fail;
  feed_.on_chat = fail;
  feed_.on_pour = fail;
  Start();
  for (const auto& [kind, status] : EachKind(stub()).Ends()) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound)) << kind;
    uint64_t number = 0;
    EXPECT_TRUE(ReadDetail<Item>(status, [&](Item::Reader item) { number = item.getNumber(); }))
        << kind;
    EXPECT_EQ(number, 77u) << kind;
  }
}

class SetsDeadline final : public Interceptor {
 public:
  void OnStart(InterceptedCall& call) override {
    call.set_deadline(Deadline::After(absl::Milliseconds(10)));
  }
};

TEST_P(StreamTest, ADeadlineThatAnInterceptorSetEndsStreamsOfEveryKind) {
  Holder holder;
  holder.HoldAll(feed_);
  ChannelOptions options;
  options.interceptors = {std::make_shared<SetsDeadline>()};
  Start({}, options);
  for (const auto& [kind, status] : EachKind(stub()).Ends()) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded)) << kind;
  }
  holder.AnswerAll();
}

}  // namespace
}  // namespace mi7::conformance
