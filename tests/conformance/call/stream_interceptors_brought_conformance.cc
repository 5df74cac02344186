// The interceptors that mi7 brings, around real streams and `-> stream` calls. Tokens and streams:
// stream_call_interceptors_conformance.cc.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rpc/interceptors/call_log.h"
#include "rpc/interceptors/call_metrics.h"
#include "rpc/interceptors/call_tracing.h"
#include "rpc/interceptors/token_auth.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// The same at both ends.
void AddTo(ServerOptions& server, ChannelOptions& channel, const Interceptors& interceptors) {
  server.interceptors = channel.interceptors = interceptors;
}

TEST_P(StreamTest, StreamsAreLoggedWhenTheyEnd) {
  absl::Mutex mutex;
  std::vector<std::string> lines;
  CallLogOptions log;
  log.sink = [&](LogLevel, absl::string_view text) {
    absl::MutexLock lock(&mutex);
    lines.emplace_back(text);
  };
  const auto take_lines = [&] {
    absl::MutexLock lock(&mutex);
    return std::exchange(lines, {});
  };
  feed_.on_watch = [](auto&&...) -> Reply { return absl::NotFoundError("no such prefix"); };
  ServerOptions server;
  ChannelOptions channel;
  AddTo(server, channel, {MakeCallLog(log)});
  Start(server, channel);
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 7)).Wait(), IsOk());
  ASSERT_TRUE(GivesItems(chat.reader(), 7, 8));
  EXPECT_THAT(take_lines(), IsEmpty());
  chat.writer().Close();
  EXPECT_FALSE(*chat.reader().Read().Wait());
  EXPECT_THAT(take_lines(), ElementsAre(AllOf(StartsWith("side=server method=Feed.chat peer="),
                                              HasSubstr(" code=OK latency_us=")),
                                        AllOf(StartsWith("side=client method=Feed.chat peer="),
                                              HasSubstr(" code=OK latency_us="))));
  EXPECT_THAT(Watch(1).Read().Wait(), StatusIs(absl::StatusCode::kNotFound));
  const auto not_found = AllOf(HasSubstr("method=Feed.watch"), HasSubstr(" code=NOT_FOUND"),
                               HasSubstr("message=\"no such prefix\""));
  EXPECT_THAT(take_lines(), ElementsAre(not_found, not_found));
}

TEST_P(StreamTest, StreamsAreCountedAsLongAsTheyLast) {
  const auto metrics = std::make_shared<CallMetrics>();
  ServerOptions server;
  ChannelOptions channel;
  AddTo(server, channel, {metrics});
  Start(server, channel);
  const auto expect = [&](uint64_t in_flight, uint64_t ok, uint64_t failed) {
    const std::vector<CallMetrics::Method> methods = metrics->Snapshot();
    ASSERT_EQ(methods.size(), 2u) << "one method at both ends";
    for (const CallMetrics::Method& method : methods) {
      EXPECT_EQ(method.name, "Feed.chat");
      EXPECT_EQ(method.started, in_flight + ok + failed);
      EXPECT_EQ(method.in_flight(), in_flight);
      EXPECT_EQ(method.ended_with(absl::StatusCode::kOk), ok);
      EXPECT_EQ(method.ended_with(absl::StatusCode::kAborted), failed);
    }
  };
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 7)).Wait(), IsOk());
  ASSERT_TRUE(GivesItems(chat.reader(), 7, 8));
  expect(1, 0, 0);
  chat.writer().Close();
  EXPECT_FALSE(*chat.reader().Read().Wait());
  expect(0, 1, 0);
}

// Keeps the spans that ended.
class Spans final : public Tracer {
 public:
  bool Sample(const InterceptedCall&) override { return true; }
  void OnSpanStart(CallSpan&) override {}
  void OnSpanEnd(CallSpan& span, const absl::Status& status, absl::Duration) override {
    EXPECT_THAT(status, IsOk());
    absl::MutexLock lock(&mutex_);
    spans_.push_back(span);
  }
  std::vector<CallSpan> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(spans_, {});
  }

 private:
  absl::Mutex mutex_;
  std::vector<CallSpan> spans_ ABSL_GUARDED_BY(mutex_);
};

// A stream whose handler opens another one: four spans of one trace, each the child of the one
// before.
TEST_P(StreamTest, SpansOfNestedStreamsAreOneTrace) {
  const auto spans = std::make_shared<Spans>();
  std::optional<FeedStub> to_itself;
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item>,
                      StreamWriter<Item> writer) -> Reply {
    auto nested = to_itself->Watch(context.ForNestedCall()).Send();
    const ItemRead end = co_await nested.Read();
    if (!end.ok()) co_return end.status();
    co_return co_await writer.Write(NewItem(writer, 7));
  };
  ServerOptions server;
  ChannelOptions channel;
  AddTo(server, channel, {MakeCallTracing(spans)});
  Start(server, channel);
  to_itself.emplace(NewChannel(channel));
  auto chat = stub().Chat();
  EXPECT_TRUE(GivesItems(chat.reader(), 7, 8));
  EXPECT_FALSE(*chat.reader().Read().Wait());
  const std::vector<CallSpan> ended = spans->Take();  // inner calls end first
  ASSERT_EQ(ended.size(), 4u);
  for (size_t i = 0; i < ended.size(); ++i) {
    const CallSpan& span = ended[ended.size() - 1 - i];
    EXPECT_EQ(span.method, i < 2 ? "Feed.chat" : "Feed.watch");
    EXPECT_EQ(span.side,
              i % 2 == 0 ? InterceptedCall::Side::kClient : InterceptedCall::Side::kServer);
    EXPECT_EQ(span.context.trace_id, ended[0].context.trace_id);
    if (i == 0) {
      EXPECT_EQ(span.parent_span_id, std::nullopt);
    } else {
      EXPECT_EQ(span.parent_span_id, ended[ended.size() - i].context.span_id);
    }
  }
}

// --- `-> stream` calls: each is a call, whose end FinishStream waits for.

TEST_P(StreamTest, FlowCallsAreCountedWithTheirStatus) {
  const auto metrics = std::make_shared<CallMetrics>();
  feed_.on_pour = [](ServerContext&, Item::Reader item) -> Reply {
    return item.getNumber() == 3 ? absl::DataLossError("the disk is full") : absl::OkStatus();
  };
  ServerOptions server;
  ChannelOptions channel;
  AddTo(server, channel, {metrics});
  Start(server, channel);
  FeedStub sink = stub();
  for (uint64_t number = 0; number < 4; ++number) {
    auto request = sink.Pour();
    request->setNumber(number);
    ASSERT_THAT(request.Send().Wait(),
                testing::AnyOf(IsOk(), StatusIs(absl::StatusCode::kDataLoss)));
  }
  EXPECT_THAT(sink.FinishStream().Wait(), StatusIs(absl::StatusCode::kDataLoss));
  for (uint64_t number = 0; number < 2; ++number) {
    EXPECT_THAT(sink.Drip().Send().Wait(), IsOk());
  }
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  const std::vector<CallMetrics::Method> methods = metrics->Snapshot();
  ASSERT_EQ(methods.size(), 4u) << "two methods at both ends";
  for (const CallMetrics::Method& method : methods) {
    SCOPED_TRACE(method.name);
    const bool pours = method.name == "Feed.pour";
    EXPECT_EQ(method.started, pours ? 4u : 2u);
    EXPECT_EQ(method.in_flight(), 0u);
    EXPECT_EQ(method.ended_with(absl::StatusCode::kOk), pours ? 3u : 2u);
    EXPECT_EQ(method.ended_with(absl::StatusCode::kDataLoss), pours ? 1u : 0u);
  }
}

TEST_P(StreamTest, FlowCallsThatAreNotSentAreNotCounted) {
  const auto metrics = std::make_shared<CallMetrics>();
  feed_.on_pour = [&](auto&&...) -> Reply { return absl::DataLossError("the disk is full"); };
  ServerOptions server;
  ChannelOptions channel;
  AddTo(server, channel, {metrics});
  Start(server, channel);
  FeedStub sink = stub();
  uint64_t sent = 0;
  const Deadline patience = Deadline::After(kSoon);
  while (sink.Pour().Send().Wait().ok()) {
    ++sent;
    ASSERT_FALSE(patience.passed());
  }
  const auto started = [&] { return metrics->Snapshot()[0].started; };
  const uint64_t before = started();
  EXPECT_THAT(before, testing::AnyOf(sent, sent + 1)) << "the last one may have been sent";
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(sink.Pour().Send().Wait().ok());
  EXPECT_EQ(started(), before);
  EXPECT_FALSE(sink.FinishStream().Wait().ok());
}

TEST_P(StreamTest, FlowCallsAreAuthorizedOneByOne) {
  StaticTokens tokens;
  tokens.Add("of alice", {"alice", {"pourers"}}).Add("of bob", {"bob"});
  MethodPolicy policy;
  policy.Allow("Feed.pour", {"pourers"}).AllowAuthenticated("Feed.drip");
  std::atomic<int> ran{0};
  feed_.on_pour = [&](ServerContext& context, Item::Reader item) -> Reply {
    ++ran;
    EXPECT_EQ(context.metadata().Get(kIdentityKey), item.getNumber() == 0 ? "alice" : "bob");
    EXPECT_EQ(context.metadata().Get(kTokenKey), std::nullopt);
    return absl::OkStatus();
  };
  ServerOptions server;
  server.interceptors = {MakeTokenAuth(tokens.Verifier(), policy)};
  Start(server);
  using enum absl::StatusCode;
  const struct {
    const char* token;
    absl::StatusCode pour, drip;
  } kCallers[] = {
      {"of alice", kOk, kOk},
      {"of bob", kPermissionDenied, kOk},
      {"of eve", kUnauthenticated, kUnauthenticated},
      {"", kUnauthenticated, kUnauthenticated},  // sends none
  };
  for (uint64_t number = 0; const auto& caller : kCallers) {
    SCOPED_TRACE(caller.token);
    ChannelOptions channel;
    if (const std::string token = caller.token; !token.empty()) {
      channel.interceptors = {MakeTokenSender([token] { return token; })};
    }
    channel_ = NewChannel(channel);
    FeedStub sink = stub();
    const auto end = [&](auto request) {
      request->setNumber(number);
      // Which may be sent before the refusal is known.
      request.Send().Wait().IgnoreError();
      return sink.FinishStream().Wait().code();
    };
    EXPECT_EQ(end(sink.Pour()), caller.pour);
    EXPECT_EQ(end(sink.Drip()), caller.drip);
    ++number;
  }
  EXPECT_EQ(ran, 3);
}

}  // namespace
}  // namespace mi7::conformance
