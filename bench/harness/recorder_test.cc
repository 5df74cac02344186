#include "bench/harness/recorder.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/deadline.h"
#include "bench/harness/workload.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

struct Edges final : Recorder::Observer {
  void OnStart() override { ++started; }
  void OnBegin() override { ++begun; }
  void OnEnd() override { ++ended; }
  int started = 0;
  int begun = 0;
  int ended = 0;
};

Workload Short(int64_t measure_ms = 10) {
  Workload workload;
  workload.warmup_ns = 100'000;
  workload.measure_ns = measure_ms * 1'000'000;
  return workload;
}

TEST(RecorderTest, CountsOnlyTheMeasuredStretch) {
  std::vector<uint32_t> latencies(1 << 20);
  Edges edges;
  Recorder recorder(Short(), latencies, &edges);
  recorder.Begin();
  uint64_t made = 0;
  do {
    ++made;
  } while (recorder.Continue());
  EXPECT_TRUE(recorder.done());
  EXPECT_EQ(edges.started, 1);
  EXPECT_EQ(edges.begun, 1);
  EXPECT_EQ(edges.ended, 1);
  EXPECT_GT(recorder.calls(), 0u);
  EXPECT_LT(recorder.calls(), made);
  EXPECT_EQ(recorder.stored(), recorder.calls());
  EXPECT_GE(recorder.elapsed_ns(), Short().measure_ns);
}

TEST(RecorderTest, FullMemoryStopsStoringButNotCounting) {
  std::vector<uint32_t> latencies(3);
  Edges edges;
  Recorder recorder(Short(50), latencies, &edges);
  recorder.Begin();
  while (recorder.Continue()) {
  }
  EXPECT_EQ(recorder.stored(), 3u);
  EXPECT_GT(recorder.calls(), 3u);
}

TEST(RecorderTest, PipelinedCallsAreAllCountedAndSomeTimed) {
  std::vector<uint32_t> latencies(1 << 20);
  Edges edges;
  Recorder recorder(Short(50), latencies, &edges);
  recorder.Begin();
  while (recorder.Complete(recorder.Issue())) {
  }
  EXPECT_GT(recorder.calls(), 10 * recorder.stored());
  EXPECT_LT(recorder.calls(), 20 * recorder.stored());
  const uint64_t calls = recorder.calls();
  EXPECT_FALSE(recorder.Complete(recorder.Issue())) << "a late answer asks for no further call";
  EXPECT_EQ(recorder.calls(), calls) << "and is not counted";
}

TEST(RecorderTest, WhatNobodyAnswersIsOverWhenItIsConfirmed) {
  std::vector<uint32_t> latencies(1 << 20);
  Edges edges;
  Recorder recorder(Short(), latencies, &edges);
  recorder.Begin();
  uint64_t sent = 0;
  while (recorder.Sent(recorder.Issue())) ++sent;
  EXPECT_EQ(edges.begun, 0) << "the warm-up is not confirmed";
  EXPECT_TRUE(recorder.Confirm());
  EXPECT_EQ(edges.begun, 1);
  EXPECT_EQ(recorder.calls(), 0u) << "the warm-up does not count";
  sent = 1;
  while (recorder.Sent(recorder.Issue())) ++sent;
  EXPECT_FALSE(recorder.done()) << "some may not have arrived";
  const int64_t sent_ns = MonotonicNanos() - recorder.begun_ns();
  while (MonotonicNanos() - recorder.begun_ns() < 2 * sent_ns) {
  }
  EXPECT_FALSE(recorder.Confirm());
  EXPECT_TRUE(recorder.done());
  EXPECT_EQ(edges.ended, 1);
  EXPECT_EQ(recorder.calls(), sent) << "all of them count";
  EXPECT_GE(recorder.elapsed_ns(), 2 * sent_ns) << "and the time until they had arrived";
}

TEST(RecorderTest, ALotOfCallsIsTimedTogether) {
  std::vector<uint32_t> latencies(1 << 20);
  Edges edges;
  Recorder recorder(Short(), latencies, &edges);
  recorder.Begin();
  int64_t last_ns = MonotonicNanos();
  do {
    while (MonotonicNanos() - last_ns < 8'000) {
    }
    last_ns = MonotonicNanos();
  } while (recorder.ContinueAfter(8));
  EXPECT_EQ(recorder.calls(), 8 * recorder.stored()) << "all count, of a lot one is stored";
  // Not each of them: who loses the CPU between two readings of the clock makes one lot longer, and
  // the next one shorter.
  latencies.resize(recorder.stored());
  const auto median = latencies.begin() + static_cast<std::ptrdiff_t>(latencies.size() / 2);
  std::nth_element(latencies.begin(), median, latencies.end());
  EXPECT_GE(*median, 900u) << "as long as one of them";
  EXPECT_LT(*median, 8'000u) << "not as long as all of them";
  EXPECT_TRUE(recorder.done());
  EXPECT_EQ(edges.ended, 1);
}

TEST(RecorderTest, LargeMessagesAreTimedOneByOne) {
  Workload workload = Short();
  workload.payload_bytes = 1 << 20;
  std::vector<uint32_t> latencies(1 << 20);
  Edges edges;
  Recorder recorder(workload, latencies, &edges);
  recorder.Begin();
  while (recorder.Complete(recorder.Issue())) {
  }
  EXPECT_EQ(recorder.stored(), recorder.calls());
}

}  // namespace
}  // namespace mi7::bench
