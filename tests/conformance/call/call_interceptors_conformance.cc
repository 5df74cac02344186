// Interceptors on both sides of a call.

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "rpc/client_call.h"
#include "rpc/interceptor.h"
#include "rpc/metadata.h"
#include "rpc/request.h"
#include "rpc/task.h"
#include "rpc/trace_context.h"
#include "tests/conformance/call/call_conformance.h"
#include "tests/conformance/call/until_told.h"

namespace mi7::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

using Hook = std::function<void(InterceptedCall&)>;

// Runs the hooks of a test.
class Hooks final : public Interceptor {
 public:
  explicit Hooks(Hook on_start, Hook on_end = {})
      : on_start_(std::move(on_start)), on_end_(std::move(on_end)) {}
  void OnStart(InterceptedCall& call) override {
    if (on_start_) on_start_(call);
  }
  void OnEnd(InterceptedCall& call) override {
    if (on_end_) on_end_(call);
  }

 private:
  const Hook on_start_;
  const Hook on_end_;
};

std::shared_ptr<Interceptor> AtStart(Hook hook) { return std::make_shared<Hooks>(std::move(hook)); }
std::shared_ptr<Interceptor> AtEnd(Hook hook) {
  return std::make_shared<Hooks>(Hook(), std::move(hook));
}

// What happened, in order. Thread-safe.
class Story {
 public:
  void Add(std::string what) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(std::move(what));
  }
  std::vector<std::string> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(events_, {});
  }
  // An interceptor that tells.
  std::shared_ptr<Interceptor> Teller(const std::string& name) {
    return std::make_shared<Hooks>(
        [this, name](InterceptedCall& call) {
          Add(absl::StrCat(name, " ", call.method().name, " starts"));
        },
        [this, name](InterceptedCall& call) {
          Add(absl::StrCat(name, " ends ", absl::StatusCodeToString(call.status().code())));
        });
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

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

TEST_P(CallTest, InterceptorsRunInOrderAroundTheCall) {
  Story story;
  probe_.on_echo = [&story](ServerContext& context, Probe::EchoParams::Reader params,
                            Probe::EchoResults::Builder results) -> Reply {
    story.Add("handler");
    if (params.getText() == "fail") return absl::AbortedError("asked to");
    return Echo(context, params, results);
  };
  Start(ServerWith({story.Teller("server outer"), story.Teller("server inner")}),
        ChannelWith({story.Teller("client outer"), story.Teller("client inner")}));
  for (const std::string text : {"text", "fail"}) {
    const std::string end = absl::StrCat(" ends ", text == "fail" ? "ABORTED" : "OK");
    EchoText(text).status().IgnoreError();
    EXPECT_THAT(story.Take(),
                ElementsAre("client outer Probe.echo starts", "client inner Probe.echo starts",
                            "server outer Probe.echo starts", "server inner Probe.echo starts",
                            "handler", "server inner" + end, "server outer" + end,
                            "client inner" + end, "client outer" + end));
  }
}

TEST_P(CallTest, InterceptorsKnowWhoCalls) {
  std::string client_peer;
  std::string server_peer;
  std::string peer_of_context;
  std::vector<InterceptedCall::Side> sides;
  const auto look = [&](std::string& peer) {
    return std::make_shared<Hooks>(
        [&](InterceptedCall& call) {
          peer = call.peer();
          sides.push_back(call.side());
        },
        [](InterceptedCall& call) { EXPECT_GT(call.elapsed(), absl::ZeroDuration()); });
  };
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) -> Reply {
    peer_of_context = context.peer();
    return Echo(context, params, results);
  };
  Start(ServerWith({look(server_peer)}), ChannelWith({look(client_peer)}));
  EXPECT_THAT(EchoText("text"), IsOk());
  EXPECT_EQ(client_peer, endpoint_);
  EXPECT_EQ(server_peer, peer_of_context);
  EXPECT_THAT(sides, ElementsAre(InterceptedCall::Side::kClient, InterceptedCall::Side::kServer));
}

// Of a call that starts with metadata {"by": "caller"}, the text "text" and no deadline.
TEST_P(CallTest, InterceptorsChangeTheRequestOnBothSides) {
  const auto trace = std::make_shared<const TraceContext>(TraceContext::NewRoot(true));
  const auto change = [](const char* name) {
    return AtStart([name](InterceptedCall& call) {
      EXPECT_FALSE(call.metadata().empty());
      call.EditMetadata().Add("by", name);
      auto params = call.EditParams<Probe::EchoParams>();
      params.setText(absl::StrCat(params.asReader().getText().cStr(), ", ", name).c_str());
      EXPECT_THAT(call.Params<Probe::EchoParams>().getText().cStr(), HasSubstr(name));
    });
  };
  const auto deadline = AtStart([](InterceptedCall& call) {
    EXPECT_TRUE(call.deadline().infinite());
    call.set_deadline(Deadline::After(kSoon));
  });
  const auto traced = AtStart([&](InterceptedCall& call) {
    EXPECT_EQ(call.trace(), nullptr);
    call.set_trace(trace);
  });
  for (const bool on_client : {true, false}) {
    SCOPED_TRACE(on_client ? "client" : "server");
    probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                         Probe::EchoResults::Builder results) -> Reply {
      EXPECT_EQ(context.metadata(), (Metadata{{"by", "caller"}, {"by", "one"}, {"by", "two"}}));
      EXPECT_FALSE(context.deadline().infinite());
      EXPECT_TRUE(context.trace() != nullptr && *context.trace() == *trace);
      return Echo(context, params, results);
    };
    const Interceptors interceptors = {change("one"), deadline, traced, change("two")};
    Start(ServerWith(on_client ? Interceptors() : interceptors),
          ChannelWith(on_client ? interceptors : Interceptors()));
    const auto metadata = std::make_shared<const Metadata>(Metadata{{"by", "caller"}});
    for (int i = 0; i < 2; ++i) {
      const auto text = EchoText("text", {.metadata = metadata});
      ASSERT_THAT(text, IsOk());
      EXPECT_EQ(*text, "text, one, two");
    }
    EXPECT_EQ(*metadata, (Metadata{{"by", "caller"}})) << "the caller's own stays";
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, InterceptorsChangeTheResponseOnBothSides) {
  const auto change = [](const char* name) {
    return AtEnd([name](InterceptedCall& call) {
      EXPECT_THAT(call.status(), IsOk());
      call.response_metadata().trailing.Add("by", name);
      auto results = call.EditResults<Probe::EchoResults>();
      results.setText(absl::StrCat(results.asReader().getText().cStr(), ", ", name).c_str());
      EXPECT_THAT(call.Results<Probe::EchoResults>().getText().cStr(), HasSubstr(name));
    });
  };
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    context.trailing_metadata().Add("by", "handler");
    return Echo(context, params, results);
  };
  for (const bool on_client : {true, false}) {
    SCOPED_TRACE(on_client ? "client" : "server");
    const Interceptors interceptors = {change("one"), change("two")};
    Start(ServerWith(on_client ? Interceptors() : interceptors),
          ChannelWith(on_client ? interceptors : Interceptors()));
    const auto received = std::make_shared<ResponseMetadata>();
    const auto text = EchoText("text", {.received = received});
    ASSERT_THAT(text, IsOk());
    EXPECT_EQ(*text, "text, two, one");
    EXPECT_EQ(received->trailing, (Metadata{{"by", "handler"}, {"by", "two"}, {"by", "one"}}));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, InterceptorsEndACallBeforeItBegins) {
  Story story;
  probe_.on_echo = [&story](ServerContext& context, Probe::EchoParams::Reader params,
                            Probe::EchoResults::Builder results) -> Reply {
    story.Add("handler");
    return Echo(context, params, results);
  };
  const auto fail = std::make_shared<Hooks>(
      [](InterceptedCall& call) { call.Fail(absl::PermissionDeniedError("not you")); },
      [&story](InterceptedCall&) { story.Add("its own end"); });
  const auto answer = AtStart(
      [](InterceptedCall& call) { call.Answer<Probe::EchoResults>().setText("from the cache"); });
  for (const bool on_client : {true, false}) {
    for (const bool ok : {true, false}) {
      SCOPED_TRACE(absl::StrCat(on_client ? "client " : "server ", ok));
      const Interceptors interceptors = {story.Teller("outer"),
                                         ok ? answer : std::shared_ptr<Interceptor>(fail),
                                         story.Teller("never")};
      Start(ServerWith(on_client ? Interceptors() : interceptors),
            ChannelWith(on_client ? interceptors : Interceptors()));
      const EchoResult result = SendEcho("text").Wait();
      if (ok) {
        ASSERT_THAT(result, IsOk());
        EXPECT_EQ(result->getText(), "from the cache");
        EXPECT_THAT(story.Take(), ElementsAre("outer Probe.echo starts", "outer ends OK"));
      } else {
        EXPECT_THAT(result, StatusIs(absl::StatusCode::kPermissionDenied, StartsWith("not you")));
        EXPECT_THAT(result, OutcomeIs(on_client ? CallOutcome::kNotSent : CallOutcome::kAnswered));
        EXPECT_THAT(story.Take(), ElementsAre("outer Probe.echo starts", "its own end",
                                              "outer ends PERMISSION_DENIED"));
      }
      channel_ = nullptr;
      server_ = nullptr;
    }
  }
}

TEST_P(CallTest, InterceptorsDecideHowACallEnded) {
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "fail") return absl::NotFoundError("no such thing");
    return Echo(context, params, results);
  };
  const auto turn = AtEnd([](InterceptedCall& call) {
    if (absl::IsNotFound(call.status())) {
      call.Answer<Probe::EchoResults>().setText("a default");
    } else {
      call.Fail(absl::DataLossError("spoilt"));
    }
  });
  for (const bool on_client : {true, false}) {
    SCOPED_TRACE(on_client ? "client" : "server");
    Start(ServerWith(on_client ? Interceptors() : Interceptors{turn}),
          ChannelWith(on_client ? Interceptors{turn} : Interceptors()));
    const auto text = EchoText("fail");
    ASSERT_THAT(text, IsOk());
    EXPECT_EQ(*text, "a default");
    EXPECT_EQ(EchoText("text").status(), absl::DataLossError("spoilt"));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, ThrowingInterceptorsFailTheCallAlone) {
  const auto when = [](const std::string& text) {
    return [text](InterceptedCall&) {
      if (!text.empty()) throw std::runtime_error(text);
    };
  };
  Story story;
  for (const bool on_client : {true, false}) {
    for (const bool at_start : {true, false}) {
      SCOPED_TRACE(absl::StrCat(on_client ? "client " : "server ", at_start));
      const auto thrower = std::make_shared<Hooks>(at_start ? when("oops") : when(""),
                                                   at_start ? when("") : when("oops"));
      const Interceptors interceptors = {story.Teller("outer"), thrower};
      Start(ServerWith(on_client ? Interceptors() : interceptors),
            ChannelWith(on_client ? interceptors : Interceptors()));
      for (int i = 0; i < 2; ++i) {
        EXPECT_THAT(SendEcho("text").Wait(),
                    StatusIs(absl::StatusCode::kInternal,
                             StartsWith("interceptor of Probe.echo threw an exception: oops")));
        EXPECT_THAT(story.Take(), ElementsAre("outer Probe.echo starts", "outer ends INTERNAL"));
      }
      channel_ = nullptr;
      server_ = nullptr;
    }
  }
}

TEST_P(CallTest, MalformedParamsThatAnInterceptorReadsAreInvalidArgument) {
  Start(ServerWith(
            {AtStart([](InterceptedCall& call) { call.Params<Probe::EchoParams>().getText(); })}),
        {});
  ASSERT_TRUE(Works());
  const InterfaceInfo& probe = ProbeService::info();
  ClientCallRef call(channel_->NewCall(probe, probe.methods[0], {}));
  call->request().initRoot<Probe::EchoParams>().setText("some text");
  const auto segment = call->request().getSegmentsForOutput()[0];
  auto* const words = const_cast<uint64_t*>(reinterpret_cast<const uint64_t*>(segment.begin()));
  // The pointer to the text, first of the struct that the root pointer leads to, which need not be
  // the next word: a list beyond the end.
  words[1 + (static_cast<int32_t>(words[0]) >> 2)] = uint64_t{0x0000'7fff'0000'0001};
  call->Start();
  EXPECT_THAT(PendingCall<Probe::EchoResults>(std::move(call)).Wait(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       StartsWith("interceptor of Probe.echo: malformed Cap'n Proto message: ")));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, StateStaysWithItsCallAndInterceptor) {
  const auto counting = [](int from) {
    return std::make_shared<Hooks>([from](InterceptedCall& call) { call.State<int>() += from; },
                                   [from](InterceptedCall& call) {
                                     EXPECT_EQ(call.State<int>(), from);
                                     call.response_metadata().trailing.Add(
                                         "state", absl::StrCat(call.State<int>()));
                                   });
  };
  Start(ServerWith({counting(1), counting(2)}), ChannelWith({counting(3), counting(4)}));
  for (int i = 0; i < 2; ++i) {
    const auto received = std::make_shared<ResponseMetadata>();
    EXPECT_THAT(EchoText("text", {.received = received}), IsOk());
    EXPECT_EQ(received->trailing,
              (Metadata{{"state", "2"}, {"state", "1"}, {"state", "4"}, {"state", "3"}}));
  }
}

TEST_P(CallTest, InterceptorsSeeDeferredAnswersAndThoseOfUnknownMethods) {
  Story story;
  Start(ServerWith({story.Teller("server")}), {});
  auto pending = SendHold(7);
  ProbeImpl::Held held = probe_.TakeHeld();
  EXPECT_THAT(story.Take(), ElementsAre("server Probe.hold starts"));
  held.Answer();
  EXPECT_THAT(pending.Wait(), IsOk());
  EXPECT_THAT(story.Take(), ElementsAre("server ends OK"));

  EXPECT_THAT(stub().Unheard().Send().Wait(), StatusIs(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(story.Take(),
              ElementsAre("server Probe.unheard starts", "server ends UNIMPLEMENTED"));

  const InterfaceInfo& probe = ProbeService::info();
  const MethodInfo of_the_future = {probe.id, 99, "Probe.ofTheFuture"};
  ClientCallRef call(channel_->NewCall(probe, of_the_future, {}));
  call->request().initRoot<Probe::EchoParams>();
  call->Start();
  EXPECT_THAT(PendingCall<Probe::EchoResults>(std::move(call)).Wait(),
              StatusIs(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(story.Take(), ElementsAre("server unknown starts", "server ends UNIMPLEMENTED"));
}

// However a call ends, the client's interceptors see it end, once, before its caller does.
TEST_P(CallTest, InterceptorsSeeEveryEnd) {
  Story story;
  Start({}, ChannelWith({story.Teller("client")}));
  ASSERT_TRUE(Works());
  story.Take();
  const auto ends = [&story](const char* code) {
    return testing::ElementsAre("client Probe.hold starts", absl::StrCat("client ends ", code));
  };

  EXPECT_THAT(SendHold(1, {.deadline = Deadline::AtNanos(1)}).Wait(),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(story.Take(), ends("DEADLINE_EXCEEDED"));

  EXPECT_THAT(SendHold(2, {.deadline = Deadline::After(absl::Milliseconds(5))}).Wait(),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(story.Take(), ends("DEADLINE_EXCEEDED"));

  auto cancelled = SendHold(3);
  cancelled.Cancel();
  EXPECT_THAT(cancelled.Wait(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(story.Take(), ends("CANCELLED"));

  static_cast<void>(SendHold(4));  // dropped
  EXPECT_THAT(story.Take(), ends("CANCELLED"));

  const auto await = [](ProbeStub stub) -> OwnedCoroutine {
    auto request = stub.Hold();
    static_cast<void>(co_await request.Send());
  };
  await(stub()).Destroy();
  EXPECT_THAT(story.Take(), ends("CANCELLED"));

  EXPECT_THAT(SendHold(5, {.metadata = std::make_shared<Metadata>(Metadata{{"Bad", ""}})}).Wait(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(story.Take(), ends("INVALID_ARGUMENT"));

  auto lost = SendHold(6);
  ProbeImpl::Held held = probe_.TakeHeld();
  while (held.number < 6) held = probe_.TakeHeld();  // earlier ones that had left
  ASSERT_EQ(held.number, 6u);
  StopServer();
  EXPECT_THAT(lost.Wait(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(story.Take(), ends("UNAVAILABLE"));

  channel_->Close();
  EXPECT_THAT(SendHold(7).Wait(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(story.Take(), ends("FAILED_PRECONDITION"));
}

TEST_P(CallTest, InterceptorsRunForCallbacksAndCoroutines) {
  Story story;
  Start(ServerWith({story.Teller("server")}), ChannelWith({story.Teller("client")}));
  ASSERT_TRUE(Works());
  const auto whole = ElementsAre("client Probe.echo starts", "server Probe.echo starts",
                                 "server ends OK", "client ends OK", "caller");
  story.Take();
  absl::Notification called;
  SendEcho("text").Then([&](EchoResult) {
    story.Add("caller");
    called.Notify();
  });
  ASSERT_TRUE(Happens(called));
  EXPECT_THAT(story.Take(), whole);
  const auto coroutine = [&]() -> Task<absl::Status> {
    const EchoResult result = co_await SendEcho("text");
    story.Add("caller");
    co_return result.status();
  };
  EXPECT_THAT(BlockOn(coroutine()), IsOk());
  EXPECT_THAT(story.Take(), whole);
}

TEST_P(CallTest, ADeadlineThatAnInterceptorSetIsEnforced) {
  Start({}, ChannelWith({AtStart([](InterceptedCall& call) {
          if (call.deadline().infinite())
            call.set_deadline(Deadline::After(absl::Milliseconds(10)));
        })}));
  ASSERT_TRUE(Works());
  EXPECT_THAT(SendHold(1).Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  absl::Notification called;
  absl::Status status;
  SendHold(2).Then([&](auto result) {
    status = result.status();
    called.Notify();
  });
  ASSERT_TRUE(Happens(called));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_P(CallTest, ResultsOfAnInterceptorsOverTheLimitFailTheCall) {
  const auto large =
      AtStart([](InterceptedCall& call) { call.Answer<Probe::EchoResults>().initData(100'000); });
  for (const bool on_client : {true, false}) {
    ServerOptions server = ServerWith(on_client ? Interceptors() : Interceptors{large});
    ChannelOptions channel = ChannelWith(on_client ? Interceptors{large} : Interceptors());
    server.limits.message_bytes_max = channel.limits.message_bytes_max = 64 << 10;
    server.limits.extra_bytes_max = channel.limits.extra_bytes_max = 4096;
    Start(server, channel);
    EXPECT_THAT(SendEcho("text").Wait(),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("message_bytes_max")));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

}  // namespace
}  // namespace mi7::conformance
