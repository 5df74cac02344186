#include "rpc/interceptors/call_tracing.h"

#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "base/fake_clock.h"
#include "rpc/interceptors/fake_call.h"

namespace mi7 {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

constexpr MethodInfo kMethod = {1, 2, "Calculator.divide"};

class Recorder final : public Tracer {
 public:
  bool Sample(const InterceptedCall&) override { return sample; }
  void OnSpanStart(CallSpan& span) override {
    span.data = std::make_shared<int>(42);
    started.push_back(span);
  }
  void OnSpanEnd(CallSpan& span, const absl::Status& status, absl::Duration duration) override {
    EXPECT_EQ(*static_cast<int*>(span.data.get()), 42);
    ended.push_back({span, {status, duration}});
  }

  bool sample = true;
  std::vector<CallSpan> started;
  std::vector<std::pair<CallSpan, std::pair<absl::Status, absl::Duration>>> ended;
};

class CallTracingTest : public testing::Test {
 protected:
  void Run(FakeCall& call, const absl::Status& status = absl::OkStatus()) {
    call.Start(*tracing_);
    call.End(*tracing_, status, absl::Microseconds(7));
  }
  const std::shared_ptr<Recorder> tracer_ = std::make_shared<Recorder>();
  const std::shared_ptr<Interceptor> tracing_ = MakeCallTracing(tracer_);
};

TEST_F(CallTracingTest, ACallWithoutATraceBeginsOne) {
  FakeCall call(kMethod, InterceptedCall::Side::kClient);
  Run(call, absl::AbortedError("why"));
  ASSERT_THAT(tracer_->started, SizeIs(1));
  const CallSpan& span = tracer_->started[0];
  EXPECT_EQ(span.side, InterceptedCall::Side::kClient);
  EXPECT_EQ(span.method, "Calculator.divide");
  EXPECT_EQ(span.peer, "fake:peer");
  EXPECT_EQ(span.parent_span_id, std::nullopt);
  ASSERT_NE(call.trace(), nullptr);
  EXPECT_EQ(*call.trace(), span.context) << "what is sent names this span";
  EXPECT_TRUE(call.trace()->sampled());
  ASSERT_THAT(tracer_->ended, SizeIs(1));
  EXPECT_EQ(tracer_->ended[0].first.context, span.context);
  EXPECT_EQ(tracer_->ended[0].second.first, absl::AbortedError("why"));
  EXPECT_EQ(tracer_->ended[0].second.second, absl::Microseconds(7));
}

TEST_F(CallTracingTest, ACallWithATraceIsAChild) {
  TraceContext parent = TraceContext::NewRoot(/*sampled=*/true);
  parent.state = "vendor=opaque";
  FakeCall call(kMethod);
  call.set_trace(std::make_shared<TraceContext>(parent));
  tracer_->sample = false;  // it is not asked
  Run(call);
  ASSERT_THAT(tracer_->started, SizeIs(1));
  const CallSpan& span = tracer_->started[0];
  EXPECT_EQ(span.context.trace_id, parent.trace_id);
  EXPECT_NE(span.context.span_id, parent.span_id);
  EXPECT_EQ(span.parent_span_id, parent.span_id);
  EXPECT_EQ(span.context.state, parent.state);
  EXPECT_EQ(*call.trace(), span.context);
}

TEST_F(CallTracingTest, AnUnsampledTraceIsPassedOnAndNotTold) {
  tracer_->sample = false;
  FakeCall first(kMethod);
  Run(first);
  ASSERT_NE(first.trace(), nullptr);
  EXPECT_FALSE(first.trace()->sampled());
  tracer_->sample = true;
  FakeCall second(kMethod);
  second.set_trace(first.trace());
  Run(second);
  EXPECT_EQ(second.trace()->trace_id, first.trace()->trace_id);
  EXPECT_NE(second.trace()->span_id, first.trace()->span_id);
  EXPECT_THAT(tracer_->started, IsEmpty());
  EXPECT_THAT(tracer_->ended, IsEmpty());
}

TEST_F(CallTracingTest, SpansBeginByTheWallsClockThatAFakeOneMovesOn) {
  const absl::Time before = absl::Now() - absl::Seconds(1);
  FakeCall first(kMethod);
  Run(first);
  FakeClock clock;
  clock.Advance(absl::Hours(1));
  FakeCall second(kMethod);
  Run(second);
  const absl::Time after = absl::Now() + absl::Seconds(1);
  ASSERT_THAT(tracer_->started, SizeIs(2));
  EXPECT_GE(tracer_->started[0].start, before);
  EXPECT_LE(tracer_->started[0].start, after);
  EXPECT_GE(tracer_->started[1].start, before + absl::Hours(1));
  EXPECT_LE(tracer_->started[1].start, after + absl::Hours(1));
}

}  // namespace
}  // namespace mi7
