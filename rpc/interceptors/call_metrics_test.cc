#include "rpc/interceptors/call_metrics.h"

#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/interceptors/fake_call.h"

namespace mi7 {
namespace {

using Side = InterceptedCall::Side;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr MethodInfo kAdd = {0xcafe, 0, "Calculator.add"};
constexpr MethodInfo kDivide = {0xcafe, 1, "Calculator.divide"};

void Make(CallMetrics& metrics, const MethodInfo& method, const absl::Status& status,
          absl::Duration latency, Side side = Side::kServer) {
  FakeCall call(method, side);
  call.Start(metrics);
  call.End(metrics, status, latency);
}

TEST(CallMetricsTest, CountsByMethodSideAndCode) {
  CallMetrics metrics;
  EXPECT_THAT(metrics.Snapshot(), IsEmpty());
  Make(metrics, kAdd, absl::OkStatus(), absl::Microseconds(10));
  Make(metrics, kAdd, absl::OkStatus(), absl::Microseconds(30));
  Make(metrics, kAdd, absl::NotFoundError(""), absl::Milliseconds(5));
  Make(metrics, kDivide, absl::OkStatus(), absl::Nanoseconds(1));
  Make(metrics, kAdd, absl::OkStatus(), absl::Microseconds(50), Side::kClient);
  FakeCall unfinished(kDivide);
  unfinished.Start(metrics);

  const std::vector<CallMetrics::Method> methods = metrics.Snapshot();
  ASSERT_THAT(methods, SizeIs(3));
  EXPECT_EQ(methods[0].name, "Calculator.add");
  EXPECT_EQ(methods[0].side, Side::kServer);
  EXPECT_EQ(methods[0].started, 3u);
  EXPECT_EQ(methods[0].ended_with(absl::StatusCode::kOk), 2u);
  EXPECT_EQ(methods[0].ended_with(absl::StatusCode::kNotFound), 1u);
  EXPECT_EQ(methods[0].in_flight(), 0u);
  EXPECT_EQ(methods[0].latency.count(), 3u);
  EXPECT_EQ(methods[0].latency.sum_ns(), 5'040'000u);
  EXPECT_GE(methods[0].latency.Quantile(0.5), 30'000);
  EXPECT_LE(methods[0].latency.Quantile(0.5), 37'500);
  EXPECT_EQ(methods[1].name, "Calculator.divide");
  EXPECT_EQ(methods[1].started, 2u);
  EXPECT_EQ(methods[1].in_flight(), 1u);
  EXPECT_EQ(methods[2].side, Side::kClient);
  EXPECT_EQ(methods[2].started, 1u);
}

// A series that came twice would make Prometheus refuse all of them.
TEST(CallMetricsTest, MethodsOfOneNameAreCountedTogether) {
  CallMetrics metrics;
  constexpr MethodInfo kOtherAdd = {0xbeef, 0, "Calculator.add"};
  Make(metrics, kAdd, absl::OkStatus(), absl::Microseconds(10));
  Make(metrics, kOtherAdd, absl::AbortedError(""), absl::Microseconds(30));
  const std::vector<CallMetrics::Method> methods = metrics.Snapshot();
  ASSERT_THAT(methods, SizeIs(1));
  EXPECT_EQ(methods[0].started, 2u);
  EXPECT_EQ(methods[0].latency.count(), 2u);
  EXPECT_EQ(methods[0].ended_with(absl::StatusCode::kAborted), 1u);
}

TEST(CallMetricsTest, MethodsBeyondTheLimitAreCountedTogether) {
  CallMetrics metrics(/*methods_max=*/4);
  for (uint16_t i = 0; i < 100; ++i) {
    const std::string name = "Many.method" + std::to_string(i);
    const MethodInfo method = {0xbeef, i, name.c_str()};
    for (int repeat = 0; repeat < 2; ++repeat) {
      Make(metrics, method, absl::OkStatus(), absl::Microseconds(1));
    }
  }
  const std::vector<CallMetrics::Method> methods = metrics.Snapshot();
  ASSERT_THAT(methods, SizeIs(5));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(methods[i].name, "Many.method" + std::to_string(i));
    EXPECT_EQ(methods[i].started, 2u);
  }
  EXPECT_EQ(methods[4].name, "other");
  EXPECT_EQ(methods[4].started, 192u);
  EXPECT_EQ(methods[4].in_flight(), 0u);

  CallMetrics none(/*methods_max=*/0);
  Make(none, kAdd, absl::OkStatus(), absl::Microseconds(1));
  ASSERT_THAT(none.Snapshot(), SizeIs(1));
  EXPECT_EQ(none.Snapshot()[0].name, "other");
}

TEST(CallMetricsTest, ThreadsLoseNothing) {
  CallMetrics metrics;
  constexpr int kThreads = 8;
  constexpr uint16_t kMethods = 20;
  constexpr uint64_t kCalls = 500;
  std::vector<std::string> names;
  for (int id = 0; id < kMethods; ++id) names.push_back("Some.method" + std::to_string(id));
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&metrics, &names] {
      for (uint64_t i = 0; i < kCalls * kMethods; ++i) {
        const auto id = static_cast<uint16_t>(i % kMethods);
        const MethodInfo method = {0xf00d, id, names[id].c_str()};
        Make(metrics, method, absl::OkStatus(), absl::Microseconds(1));
        if (i % 1000 == 0) metrics.Snapshot();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<CallMetrics::Method> methods = metrics.Snapshot();
  ASSERT_THAT(methods, SizeIs(kMethods)) << "each was made once";
  for (const CallMetrics::Method& method : methods) {
    EXPECT_EQ(method.started, kThreads * kCalls);
    EXPECT_EQ(method.latency.count(), kThreads * kCalls);
    EXPECT_EQ(method.ended_with(absl::StatusCode::kOk), kThreads * kCalls);
  }
}

TEST(CallMetricsTest, PrometheusText) {
  CallMetrics metrics;
  const MethodInfo odd = {1, 1, "A\"b\\c"};
  Make(metrics, kAdd, absl::OkStatus(), absl::Microseconds(3));
  Make(metrics, kAdd, absl::AbortedError(""), absl::Milliseconds(30));
  Make(metrics, odd, absl::OkStatus(), absl::Hours(1), Side::kClient);
  const std::string text = metrics.PrometheusText();
  for (const char* line : {
           "# TYPE mi7_calls_started_total counter\n",
           "mi7_calls_started_total{side=\"server\",method=\"Calculator.add\"} 2\n",
           "mi7_calls_ended_total{side=\"server\",method=\"Calculator.add\",code=\"OK\"} 1\n",
           "mi7_calls_ended_total{side=\"server\",method=\"Calculator.add\",code=\"ABORTED\"} 1\n",
           "mi7_calls_in_flight{side=\"server\",method=\"Calculator.add\"} 0\n",
           "# TYPE mi7_call_latency_seconds histogram\n",
           "mi7_call_latency_seconds_bucket{side=\"server\",method=\"Calculator.add\","
           "le=\"0.000001024\"} 0\n",
           "mi7_call_latency_seconds_bucket{side=\"server\",method=\"Calculator.add\","
           "le=\"0.000004096\"} 1\n",
           "mi7_call_latency_seconds_bucket{side=\"server\",method=\"Calculator.add\","
           "le=\"+Inf\"} 2\n",
           "mi7_call_latency_seconds_sum{side=\"server\",method=\"Calculator.add\"} 0.030003000\n",
           "mi7_call_latency_seconds_count{side=\"server\",method=\"Calculator.add\"} 2\n",
           "mi7_calls_started_total{side=\"client\",method=\"A\\\"b\\\\c\"} 1\n",
           "mi7_call_latency_seconds_bucket{side=\"client\",method=\"A\\\"b\\\\c\",le=\"+Inf\"} "
           "1\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  // Each line is a comment, or a name with labels and a number.
  EXPECT_EQ(text.back(), '\n');
}

}  // namespace
}  // namespace mi7
