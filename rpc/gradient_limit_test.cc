#include "rpc/gradient_limit.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "absl/time/time.h"

namespace mi7 {
namespace {

constexpr int64_t kMs = 1'000'000;

// A server of whose calls `served_at_once` run at a time, and the others wait: calls take 10 ms, or
// in proportion more. It always has as many as the limit allows.
class GradientLimitTest : public testing::Test {
 protected:
  static AdaptiveLimit Options() {
    AdaptiveLimit options;
    options.enabled = true;
    return options;
  }
  void RunWindows(GradientLimit& limit, int windows, double served_at_once) {
    for (int i = 0; i < windows; ++i) {
      const uint32_t in_flight = limit.limit();
      const double queueing = std::max(1.0, in_flight / served_at_once);
      RunWindow(limit, static_cast<int64_t>(10 * kMs * queueing), in_flight);
    }
  }
  void RunWindow(GradientLimit& limit, int64_t latency_ns, uint32_t in_flight,
                 bool beyond_limit = false) {
    for (int call = 0; call < 20; ++call) {
      now_ns_ += 10 * kMs;
      limit.OnSuccess(latency_ns, in_flight, beyond_limit, now_ns_);
    }
  }
  int64_t now_ns_ = 0;
};

TEST_F(GradientLimitTest, BeginsAsItIsTold) { EXPECT_EQ(GradientLimit(Options()).limit(), 32u); }

TEST_F(GradientLimitTest, GrowsWhileCallsTakeNoLonger) {
  GradientLimit limit(Options());
  RunWindows(limit, 10, 1e9);
  const uint32_t after_10 = limit.limit();
  EXPECT_GT(after_10, 40u);
  RunWindows(limit, 2000, 1e9);
  EXPECT_EQ(limit.limit(), 4096u) << "calls_max";
}

TEST_F(GradientLimitTest, StaysWhereTheServerBeginsToQueue) {
  GradientLimit limit(Options());
  RunWindows(limit, 300, 100);
  EXPECT_GE(limit.limit(), 100u);
  EXPECT_LE(limit.limit(), 250u);
}

TEST_F(GradientLimitTest, DoesNotRunAwayInALongOverload) {
  GradientLimit limit(Options());
  RunWindows(limit, 20'000, 100);
  EXPECT_LE(limit.limit(), 250u);
}

TEST_F(GradientLimitTest, ServerThatIsSlowerForGoodIsNotOverloadedForEver) {
  GradientLimit limit(Options());
  RunWindows(limit, 500, 1e9);
  const uint32_t before = limit.limit();
  for (int i = 0; i < 100; ++i) RunWindow(limit, 20 * kMs, limit.limit());
  EXPECT_LT(limit.limit(), before / 2);
  for (int i = 0; i < 2000; ++i) RunWindow(limit, 20 * kMs, limit.limit());
  EXPECT_GE(limit.limit(), before);
}

TEST_F(GradientLimitTest, SinksWhenTheServerBecomesSlower) {
  GradientLimit limit(Options());
  RunWindows(limit, 300, 100);
  const uint32_t before = limit.limit();
  RunWindows(limit, 20, 10);
  EXPECT_LT(limit.limit(), before / 2);
  EXPECT_GE(limit.limit(), 4u);
}

TEST_F(GradientLimitTest, NeverSinksBelowItsLeast) {
  AdaptiveLimit options = Options();
  options.calls_min = 7;
  GradientLimit limit(options);
  RunWindows(limit, 5, 1e9);
  for (int i = 0; i < 50; ++i) RunWindow(limit, (i + 1) * 1000 * kMs, limit.limit());
  EXPECT_GE(limit.limit(), 7u);
  EXPECT_LT(limit.limit(), 20u);
}

TEST_F(GradientLimitTest, ComesBackAfterAnOverload) {
  GradientLimit limit(Options());
  RunWindows(limit, 300, 100);
  RunWindows(limit, 50, 10);
  const uint32_t overloaded = limit.limit();
  RunWindows(limit, 300, 100);
  EXPECT_GT(limit.limit(), 2 * overloaded);
  EXPECT_GE(limit.limit(), 100u);
}

TEST_F(GradientLimitTest, WithRoomLeftNothingChanges) {
  GradientLimit limit(Options());
  for (int i = 0; i < 100; ++i) RunWindow(limit, 10 * kMs, 3);
  EXPECT_EQ(limit.limit(), 32u);
}

TEST_F(GradientLimitTest, TooFewCallsMakeNoWindow) {
  AdaptiveLimit options = Options();
  options.window_calls_min = 10;
  GradientLimit limit(options);
  for (int call = 0; call < 9; ++call) limit.OnSuccess(kMs, 32, false, now_ns_ += 1000 * kMs);
  EXPECT_EQ(limit.limit(), 32u);
  limit.OnSuccess(kMs, 32, false, now_ns_ += 1000 * kMs);
  EXPECT_GT(limit.limit(), 32u);
}

// 500 calls stay, in an overload that ends.
TEST_F(GradientLimitTest, CallBeyondTheLimitRaisesItAboveThoseThatStay) {
  GradientLimit limit(Options());
  RunWindows(limit, 20, 1e9);
  ASSERT_LT(limit.limit(), 200u);
  RunWindow(limit, 40 * kMs, 501, /*beyond_limit=*/true);
  EXPECT_LT(limit.limit(), 200u) << "it took long";
  RunWindow(limit, 10 * kMs, 501, /*beyond_limit=*/true);
  EXPECT_GT(limit.limit(), 500u);
  RunWindow(limit, 10 * kMs, 5000, /*beyond_limit=*/true);
  EXPECT_EQ(limit.limit(), 4096u) << "calls_max";
}

TEST_F(GradientLimitTest, CallBeyondTheLimitIsMeasuredAlsoInAProbe) {
  AdaptiveLimit options = Options();
  options.long_windows = 5;
  GradientLimit limit(options);
  RunWindows(limit, 20, 1e9);
  const uint32_t before = limit.limit();
  for (int i = 0; i < 10; ++i) RunWindow(limit, 40 * kMs, before);
  const uint32_t probed = limit.limit();
  EXPECT_LT(probed, before / 3);
  for (int i = 0; i < 10; ++i) RunWindow(limit, 40 * kMs, before);
  EXPECT_EQ(limit.limit(), probed) << "a queue that is not gone is not measured";
  for (int i = 0; i < 3; ++i) RunWindow(limit, 40 * kMs, before, /*beyond_limit=*/true);
  EXPECT_GT(limit.limit(), 2 * probed) << "the probe is over";
}

TEST_F(GradientLimitTest, PatienceIsThatOfItsCalls) {
  GradientLimit limit(Options());
  EXPECT_EQ(limit.patience_ns(), 1000 * kMs) << "ten windows";
  for (int i = 0; i < 10; ++i) RunWindow(limit, 10 * kMs, 32);
  EXPECT_EQ(limit.patience_ns(), 1000 * kMs);
  GradientLimit slow(Options());
  for (int i = 0; i < 10; ++i) RunWindow(slow, 2000 * kMs, 32);
  EXPECT_EQ(slow.patience_ns(), 20'000 * kMs);
  GradientLimit slower(Options());
  for (int i = 0; i < 10; ++i) RunWindow(slower, 3'600'000 * kMs, 32);
  EXPECT_EQ(slower.patience_ns(), 60'000 * kMs);
}

// A mixture of quick and slow methods is no queue: the least of each window is the same.
TEST_F(GradientLimitTest, AnotherMixtureOfMethodsIsNoQueue) {
  GradientLimit limit(Options());
  RunWindows(limit, 20, 1e9);
  const uint32_t before = limit.limit();
  for (int i = 0; i < 20; ++i) {
    for (int call = 0; call < 20; ++call) {
      limit.OnSuccess(call % 5 == 0 ? 10 * kMs : 900 * kMs, limit.limit(), false,
                      now_ns_ += 10 * kMs);
    }
  }
  EXPECT_GT(limit.limit(), before);
}

}  // namespace
}  // namespace mi7
