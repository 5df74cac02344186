// The interceptors that mi7 brings, around real calls. What each does by itself is tested beside
// it.

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rpc/interceptors/call_log.h"
#include "rpc/interceptors/call_metrics.h"
#include "rpc/interceptors/call_tracing.h"
#include "rpc/interceptors/token_auth.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

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

TEST_P(CallTest, CallsAreLoggedAtBothEnds) {
  absl::Mutex mutex;
  std::vector<std::string> lines;
  CallLogOptions options;
  options.sink = [&](LogLevel, absl::string_view text) {
    absl::MutexLock lock(&mutex);
    lines.emplace_back(text);
  };
  const std::shared_ptr<Interceptor> log = MakeCallLog(options);
  Start(ServerWith({log}), ChannelWith({log}));
  EXPECT_THAT(EchoText("text"), IsOk());
  absl::MutexLock lock(&mutex);
  EXPECT_THAT(lines, ElementsAre(AllOf(StartsWith("side=server method=Probe.echo peer="),
                                       HasSubstr(" code=OK latency_us=")),
                                 AllOf(StartsWith("side=client method=Probe.echo peer="),
                                       HasSubstr(" code=OK latency_us="))));
}

TEST_P(CallTest, CallsAreCountedAtBothEnds) {
  const auto metrics = std::make_shared<CallMetrics>();
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "fail") return absl::NotFoundError("asked to");
    return Echo(context, params, results);
  };
  Start(ServerWith({metrics}), ChannelWith({metrics}));
  for (int i = 0; i < 3; ++i) EXPECT_THAT(EchoText("text"), IsOk());
  EXPECT_THAT(EchoText("fail"), StatusIs(absl::StatusCode::kNotFound));
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  const std::vector<CallMetrics::Method> methods = metrics->Snapshot();
  ASSERT_EQ(methods.size(), 4u);
  for (const CallMetrics::Method& method : methods) {
    SCOPED_TRACE(method.name);
    if (method.name == "Probe.echo") {
      EXPECT_EQ(method.started, 4u);
      EXPECT_EQ(method.ended_with(absl::StatusCode::kOk), 3u);
      EXPECT_EQ(method.ended_with(absl::StatusCode::kNotFound), 1u);
      EXPECT_EQ(method.in_flight(), 0u);
      EXPECT_GT(method.latency.Quantile(0.5), 0);
    } else {
      EXPECT_EQ(method.name, "Probe.hold");
      EXPECT_EQ(method.in_flight(), 1u);
    }
  }
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

// Client -> server -> backend: four spans of one trace, each the child of the one before.
TEST_P(CallTest, SpansOfNestedCallsAreOneTrace) {
  const auto spans = std::make_shared<Spans>();
  const Interceptors tracing = {MakeCallTracing(spans)};
  ProbeImpl backend_probe;
  ServerOptions options = ServerWith(tracing);
  options.wait = GetParam().wait;
  const auto backend = *ServerBuilder()
                            .SetOptions(options)
                            .AddService(&backend_probe)
                            .Listen(GetParam().new_endpoint())
                            .Start();
  const ProbeStub to_backend(*Channel::Create(backend->endpoints()[0], ChannelWith(tracing)));
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) -> Reply {
    auto request = to_backend.Echo({.trace = context.trace()});
    request->setText(params.getText());
    const EchoResult nested = co_await request.Send();
    if (!nested.ok()) co_return nested.status();
    results.setText(nested->getText());
    co_return absl::OkStatus();
  };
  Start(ServerWith(tracing), ChannelWith(tracing));
  EXPECT_THAT(EchoText("text"), IsOk());
  std::vector<CallSpan> ended = spans->Take();
  ASSERT_EQ(ended.size(), 4u);
  std::reverse(ended.begin(), ended.end());  // inner calls end first
  EXPECT_EQ(ended[0].parent_span_id, std::nullopt);
  for (size_t i = 0; i < ended.size(); ++i) {
    EXPECT_EQ(ended[i].side,
              i % 2 == 0 ? InterceptedCall::Side::kClient : InterceptedCall::Side::kServer);
    EXPECT_EQ(ended[i].context.trace_id, ended[0].context.trace_id);
    if (i > 0) {
      EXPECT_EQ(ended[i].parent_span_id, ended[i - 1].context.span_id);
    }
  }
}

TEST_P(CallTest, TokensAreVerifiedAndMethodsAuthorized) {
  StaticTokens tokens;
  tokens.Add("of alice", {"alice", {"echoers"}}).Add("of bob", {"bob"});
  MethodPolicy policy;
  policy.Allow("Probe.echo", {"echoers"}).AllowAnybody("Named.*");
  std::string identity;
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) -> Reply {
    identity = std::string(context.metadata().Get(kIdentityKey).value_or("nobody"));
    EXPECT_EQ(context.metadata().Get(kTokenKey), std::nullopt);
    return Echo(context, params, results);
  };
  StartServer(ServerWith({MakeTokenAuth(tokens.Verifier(), policy)}));
  const std::map<std::string, absl::StatusCode> expected = {
      {"of alice", absl::StatusCode::kOk},
      {"of bob", absl::StatusCode::kPermissionDenied},
      {"of eve", absl::StatusCode::kUnauthenticated},
      {"", absl::StatusCode::kUnauthenticated},  // sends none
  };
  for (const auto& [token, code] : expected) {
    SCOPED_TRACE(token);
    const auto source = [token = token] { return token; };
    channel_ =
        NewChannel(token.empty() ? ChannelOptions() : ChannelWith({MakeTokenSender(source)}));
    const absl::StatusOr<std::string> echo = EchoText("text");
    EXPECT_EQ(echo.status().code(), code) << echo.status();
    if (code != absl::StatusCode::kOk) {
      EXPECT_THAT(echo, OutcomeIs(CallOutcome::kAnswered));
    }
    // For anybody, but not with a token that is wrong.
    EXPECT_EQ(stub().Name().Send().Wait().status().code(),
              token == "of eve" ? absl::StatusCode::kUnauthenticated : absl::StatusCode::kOk);
  }
  EXPECT_EQ(identity, "alice");
}

}  // namespace
}  // namespace mi7::conformance
