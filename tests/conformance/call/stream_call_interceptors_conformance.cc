// Interceptors and streams as calls: their start and their end, and who may open them.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/fake_clock.h"
#include "rpc/client_streams.h"
#include "rpc/interceptor.h"
#include "rpc/interceptors/token_auth.h"
#include "rpc/trace_context.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Hook = std::function<void(InterceptedCall&)>;

class Hooks final : public Interceptor {
 public:
  Hooks(Hook start, Hook end) : start_(std::move(start)), end_(std::move(end)) {}
  void OnStart(InterceptedCall& call) override {
    if (start_) start_(call);
  }
  void OnEnd(InterceptedCall& call) override {
    if (end_) end_(call);
  }

 private:
  const Hook start_, end_;
};

std::shared_ptr<Interceptor> On(Hook start, Hook end = nullptr) {
  return std::make_shared<Hooks>(std::move(start), std::move(end));
}
ServerOptions ServerWith(Interceptors interceptors) {
  ServerOptions options;
  options.interceptors = std::move(interceptors);
  return options;
}
ChannelOptions ChannelWith(Interceptors interceptors) {
  ChannelOptions options;
  options.interceptors = std::move(interceptors);
  return options;
}

// What happened, in order. Thread-safe.
class Events {
 public:
  void Add(std::string event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
  }
  std::vector<std::string> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(events_, {});
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

std::string Text(const InterceptedCall& call) {
  return absl::StrCat(call.side() == InterceptedCall::Side::kClient ? "client" : "server", " ",
                      call.method().name);
}
std::string EndText(const InterceptedCall& call) {
  return absl::StrCat(Text(call), " ended ", absl::StatusCodeToString(call.status().code()));
}

TEST_P(StreamTest, InterceptorsSeeAndChangeTheStartAndTheEndOfAStream) {
  Events events;
  std::atomic<bool> fails{false};
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                      StreamWriter<Item> writer) -> Reply {
    EXPECT_EQ(context.metadata().Get("by"), "client, server");
    EXPECT_GT(context.deadline().remaining(), absl::Minutes(30));
    EXPECT_LE(context.deadline().remaining(), absl::Hours(1));
    events.Add("handler");
    const ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    if (const absl::Status sent = co_await writer.Write(NewItem(writer, 7)); !sent.ok()) {
      co_return sent;
    }
    co_return fails ? absl::NotFoundError("no such thing") : absl::OkStatus();
  };
  const auto server = On(
      [&](InterceptedCall& call) {
        events.Add(Text(call));
        EXPECT_GT(call.deadline().remaining(), absl::Minutes(90));
        EXPECT_LE(call.deadline().remaining(), absl::Hours(2));
        call.set_deadline(Deadline::After(absl::Hours(1)));
        const std::string by = absl::StrCat(call.metadata().Get("by").value_or(""), ", server");
        call.EditMetadata() = Metadata{{"by", by}};
      },
      [&](InterceptedCall& call) {
        events.Add(EndText(call));
        call.response_metadata().trailing.Add("by", "server");
        if (absl::IsNotFound(call.status())) call.Fail(absl::DataLossError("it was there"));
      });
  const auto client = On(
      [&](InterceptedCall& call) {
        events.Add(Text(call));
        EXPECT_TRUE(call.deadline().infinite());
        call.set_deadline(Deadline::After(absl::Hours(2)));
        call.EditMetadata().Add("by", "client");
      },
      [&](InterceptedCall& call) {
        events.Add(EndText(call));
        EXPECT_EQ(call.response_metadata().trailing, (Metadata{{"by", "server"}}));
        call.response_metadata().trailing.Add("by", "client");
        if (absl::IsDataLoss(call.status())) call.Fail(absl::AbortedError("it is lost"));
      });
  Start(ServerWith({server}), ChannelWith({client}));
  for (const bool failing : {false, true}) {
    SCOPED_TRACE(failing);
    fails = failing;
    const auto received = std::make_shared<ResponseMetadata>();
    auto chat = stub().Chat({.received = received});
    // The stream may be over before the next message could be written.
    chat.writer().Write(NewItem(chat.writer(), 1)).Wait().IgnoreError();
    ASSERT_TRUE(GivesItems(chat.reader(), 7, 8));
    const ItemRead end = chat.reader().Read().Wait();
    if (failing) {
      EXPECT_THAT(end, StatusIs(absl::StatusCode::kAborted, "it is lost"));
      EXPECT_THAT(events.Take(), ElementsAre("client Feed.chat", "server Feed.chat", "handler",
                                             "server Feed.chat ended NOT_FOUND",
                                             "client Feed.chat ended DATA_LOSS"));
    } else {
      EXPECT_TRUE(end.ok() && !*end) << end.status();
      EXPECT_THAT(events.Take(),
                  ElementsAre("client Feed.chat", "server Feed.chat", "handler",
                              "server Feed.chat ended OK", "client Feed.chat ended OK"));
    }
    EXPECT_EQ(received->trailing, (Metadata{{"by", "server"}, {"by", "client"}}));
  }
}

// Of each kind, by an interceptor at either end: it goes no further.
TEST_P(StreamTest, InterceptorsEndStreamsBeforeTheyBegin) {
  std::atomic<int> ran{0}, reached{0};
  feed_.on_watch = [&](ServerContext&, Feed::WatchParams::Reader, StreamWriter<Item>) {
    ++ran;
    return absl::OkStatus();
  };
  feed_.on_upload = [&](ServerContext&, StreamReader<Item>, Feed::UploadResults::Builder) {
    ++ran;
    return absl::OkStatus();
  };
  feed_.on_chat = [&](ServerContext&, StreamReader<Item>, StreamWriter<Item>) {
    ++ran;
    return absl::OkStatus();
  };
  for (const bool at_client : {true, false}) {
    SCOPED_TRACE(at_client);
    Events events;
    const auto outer = On(nullptr, [&](InterceptedCall& call) { events.Add(EndText(call)); });
    const auto refuses = On([](InterceptedCall& call) {
      if (call.method().name != absl::string_view("Feed.ask")) {
        call.Fail(absl::PermissionDeniedError("not for you"));
      }
    });
    const auto inner = On([&](InterceptedCall& call) {
      if (call.method().name != absl::string_view("Feed.ask")) ++reached;
    });
    const Interceptors all = {outer, refuses, inner};
    Start(at_client ? ServerWith({inner}) : ServerWith(all),
          at_client ? ChannelWith(all) : ChannelOptions());
    const std::string side = at_client ? "client" : "server";
    const auto refused = StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("not for you"));
    EXPECT_THAT(Watch(3).Read().Wait(), refused);
    EXPECT_THAT(events.Take(), ElementsAre(side + " Feed.watch ended PERMISSION_DENIED"));
    auto upload = stub().Upload();
    upload.Write(NewItem(upload.writer(), 0)).Wait().IgnoreError();
    EXPECT_THAT(upload.Finish().Wait(), refused);
    EXPECT_THAT(events.Take(), ElementsAre(side + " Feed.upload ended PERMISSION_DENIED"));
    auto chat = stub().Chat();
    EXPECT_THAT(chat.reader().Read().Wait(), refused);
    EXPECT_THAT(events.Take(), ElementsAre(side + " Feed.chat ended PERMISSION_DENIED"));
    EXPECT_TRUE(Answers());
    channel_ = nullptr;
    server_ = nullptr;
  }
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(reached, 0);
}

TEST_P(StreamTest, InterceptorsAnswerStreamsThemselves) {
  std::atomic<int> ran{0};
  feed_.on_upload = [&](ServerContext&, StreamReader<Item>, Feed::UploadResults::Builder) {
    ++ran;
    return absl::OkStatus();
  };
  const auto answers = On([](InterceptedCall& call) {
    if (call.method().name == absl::string_view("Feed.upload")) {
      call.Answer<Feed::UploadResults>().setCount(42);
    }
  });
  for (const bool at_client : {true, false}) {
    SCOPED_TRACE(at_client);
    Start(at_client ? ServerOptions() : ServerWith({answers}),
          at_client ? ChannelWith({answers}) : ChannelOptions());
    auto upload = stub().Upload();
    upload.Write(NewItem(upload.writer(), 0)).Wait().IgnoreError();
    const auto response = upload.Finish().Wait();
    ASSERT_THAT(response, IsOk());
    EXPECT_EQ(response->getCount(), 42u);
    EXPECT_TRUE(Answers());
    channel_ = nullptr;
    server_ = nullptr;
  }
  EXPECT_EQ(ran, 0);
}

// What a streaming call has of them: the parameters of one that streams results, and the results of
// one that streams parameters.
TEST_P(StreamTest, InterceptorsChangeParametersAndResultsOfStreams) {
  const auto is = [](InterceptedCall& call, absl::string_view name) {
    return call.method().name == name;
  };
  const auto client = On(
      [&](InterceptedCall& call) {
        if (!is(call, "Feed.watch")) return;
        EXPECT_EQ(call.Params<Feed::WatchParams>().getCount(), 2u);
        call.EditParams<Feed::WatchParams>().setCount(3);
      },
      [&](InterceptedCall& call) {
        if (!is(call, "Feed.upload")) return;
        EXPECT_EQ(call.Results<Feed::UploadResults>().getCount(), 20u);
        call.EditResults<Feed::UploadResults>().setBytes(99);
      });
  const auto server = On(
      [&](InterceptedCall& call) {
        if (!is(call, "Feed.watch")) return;
        EXPECT_EQ(call.Params<Feed::WatchParams>().getCount(), 3u);
        call.EditParams<Feed::WatchParams>().setBytes(10);
      },
      [&](InterceptedCall& call) {
        if (!is(call, "Feed.upload")) return;
        const uint64_t count = call.Results<Feed::UploadResults>().getCount();
        call.EditResults<Feed::UploadResults>().setCount(10 * count);
      });
  Start(ServerWith({server}), ChannelWith({client}));
  auto reader = Watch(2);
  EXPECT_TRUE(GivesItems(reader, 0, 3, 10));
  const ItemRead end = reader.Read().Wait();
  EXPECT_TRUE(end.ok() && !*end) << end.status();
  auto upload = stub().Upload();
  for (uint64_t number = 0; number < 2; ++number) {
    ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, 7)).Wait(), IsOk());
  }
  const auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), 20u);
  EXPECT_EQ(response->getBytes(), 99u);
}

TEST_P(StreamTest, InterceptorsOfTheClientSeeInitialMetadataOfStreams) {
  const Metadata initial = {{"shard", "7"}};
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader params,
                       StreamWriter<Item> writer) {
    context.initial_metadata() = initial;
    return SendItems(context, params, std::move(writer));
  };
  std::atomic<int> seen{0};
  const auto client = On(nullptr, [&](InterceptedCall& call) {
    if (call.method().name != absl::string_view("Feed.watch")) return;
    EXPECT_EQ(call.response_metadata().initial, initial) << call.status();
    ++seen;
  });
  Start({}, ChannelWith({client}));
  for (const uint64_t count : {0u, 1u, 20u}) {
    for (const bool asked_for : {false, true}) {
      SCOPED_TRACE(count);
      const auto received = std::make_shared<ResponseMetadata>();
      auto reader = Watch(count, 0, {.received = asked_for ? received : nullptr});
      EXPECT_TRUE(GivesItems(reader, 0, count));
      EXPECT_FALSE(*reader.Read().Wait());
      if (asked_for) {
        EXPECT_EQ(received->initial, initial);
      }
    }
  }
  EXPECT_EQ(seen, 6);
  // Also of one that ends otherwise.
  auto reader = Watch(1'000'000, 1000);
  EXPECT_TRUE(GivesItems(reader, 0, 1, 1000));
  reader.Cancel();
  EXPECT_EQ(seen, 7);
}

TEST_P(StreamTest, InterceptorsSetTheTraceOfAStream) {
  const auto trace = [](const char* text) {
    return std::make_shared<const TraceContext>(*TraceContext::Parse(text, ""));
  };
  const auto first = trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  const auto second = trace("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
  Events traces;
  feed_.on_watch = [&](ServerContext& context, auto&&...) -> Reply {
    traces.Add(context.trace() == nullptr ? "none" : context.trace()->traceparent());
    return absl::OkStatus();
  };
  const auto client = On([&](InterceptedCall& call) { call.set_trace(first); });
  const auto server = On([&](InterceptedCall& call) {
    traces.Add(call.trace() == nullptr ? "none" : call.trace()->traceparent());
    call.set_trace(second);
  });
  Start(ServerWith({server}), ChannelWith({client}));
  EXPECT_FALSE(*Watch(0).Read().Wait());
  EXPECT_THAT(traces.Take(), ElementsAre(first->traceparent(), second->traceparent()));
}

TEST_P(StreamTest, InterceptorsSeeEveryEndOfAStreamOnce) {
  constexpr absl::Duration kTime = absl::Seconds(40);  // less than write_stall_timeout
  FakeClock clock;
  enum class Way { kCancel, kDrop, kDeadline, kLoss };
  for (const Way way : {Way::kCancel, Way::kDrop, Way::kDeadline, Way::kLoss}) {
    SCOPED_TRACE(static_cast<int>(way));
    Events events;
    std::atomic<int> ends{0};
    const auto watcher = On(nullptr, [&](InterceptedCall& call) {
      if (call.method().name != absl::string_view("Feed.chat")) return;
      events.Add(EndText(call));
      ++ends;
    });
    Start(ServerWith({watcher}), ChannelWith({watcher}));
    ASSERT_TRUE(Answers());
    CallOptions options;
    if (way == Way::kDeadline) options.deadline = Deadline::After(kTime);
    std::optional<BidiStream<Item, Item>> chat = stub().Chat(options);
    ASSERT_THAT(chat->writer().Write(NewItem(chat->writer(), 7)).Wait(), IsOk());
    ASSERT_TRUE(GivesItems(chat->reader(), 7, 8));
    if (way == Way::kCancel) chat->Cancel();
    if (way == Way::kDrop) chat.reset();
    if (way == Way::kDeadline) clock.Advance(kTime);
    if (way == Way::kLoss) channel_->Close();
    if (chat) {
      EXPECT_FALSE(chat->reader().Read().Wait().ok());
    }
    const Deadline patience = Deadline::After(kSoon);
    while (ends < 2) {
      ASSERT_FALSE(patience.passed());
      std::this_thread::yield();
    }
    channel_ = nullptr;
    server_ = nullptr;
    const std::string client =
        absl::StrCat("client Feed.chat ended ", way == Way::kDeadline ? "DEADLINE_EXCEEDED"
                                                : way == Way::kLoss   ? "UNAVAILABLE"
                                                                      : "CANCELLED");
    // At a deadline there are two clocks, of which each may be the first.
    const std::string server =
        absl::StrCat("server Feed.chat ended ", way == Way::kLoss ? "UNAVAILABLE" : "CANCELLED");
    const std::string or_else =
        way == Way::kDeadline ? "server Feed.chat ended DEADLINE_EXCEEDED" : server;
    EXPECT_THAT(events.Take(),
                testing::UnorderedElementsAre(client, testing::AnyOf(server, or_else)));
  }
}

TEST_P(StreamTest, TokensAreVerifiedAndStreamsAuthorized) {
  StaticTokens tokens;
  tokens.Add("of alice", {"alice", {"chatters"}}).Add("of bob", {"bob"});
  MethodPolicy policy;
  policy.Allow("Feed.chat", {"chatters"}).AllowAuthenticated("Feed.watch");
  std::atomic<int> chats{0}, watches{0};
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                      StreamWriter<Item> writer) -> Reply {
    ++chats;
    EXPECT_EQ(context.metadata().Get(kIdentityKey), "alice");
    EXPECT_EQ(context.metadata().Get(kTokenKey), std::nullopt);
    return EchoItems(context, std::move(reader), std::move(writer));
  };
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader params,
                       StreamWriter<Item> writer) -> Reply {
    ++watches;
    return SendItems(context, params, std::move(writer));
  };
  Start(ServerWith({MakeTokenAuth(tokens.Verifier(), policy)}));
  using enum absl::StatusCode;
  const struct {
    const char* token;
    absl::StatusCode chat, watch, upload;
  } kCallers[] = {
      {"of alice", kOk, kOk, kPermissionDenied},
      {"of bob", kPermissionDenied, kOk, kPermissionDenied},
      {"of eve", kUnauthenticated, kUnauthenticated, kUnauthenticated},
      {"", kUnauthenticated, kUnauthenticated, kUnauthenticated},  // sends none
  };
  for (const auto& caller : kCallers) {
    SCOPED_TRACE(caller.token);
    const std::string token = caller.token;
    channel_ =
        NewChannel(token.empty() ? ChannelOptions()
                                 : ChannelWith({MakeTokenSender([token] { return token; })}));
    auto chat = stub().Chat();
    chat.writer().Write(NewItem(chat.writer(), 5)).Wait().IgnoreError();
    const ItemRead item = chat.reader().Read().Wait();
    EXPECT_EQ(item.status().code(), caller.chat) << item.status();
    if (item.ok()) {
      EXPECT_TRUE(*item && IsItem(**item, 5));
    }
    auto watch = Watch(1);
    EXPECT_EQ(watch.Read().Wait().status().code(), caller.watch);
    EXPECT_EQ(stub().Upload().Finish().Wait().status().code(), caller.upload) << "no rule";
  }
  EXPECT_EQ(chats, 1);
  EXPECT_EQ(watches, 2);
}

}  // namespace
}  // namespace mi7::conformance
