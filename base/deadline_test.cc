#include "base/deadline.h"

#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

namespace mi7 {
namespace {

TEST(DeadlineTest, DefaultIsInfiniteAndNeverPasses) {
  const Deadline deadline;
  EXPECT_TRUE(deadline.infinite());
  EXPECT_FALSE(deadline.passed());
  EXPECT_EQ(deadline.remaining_ns(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(deadline.remaining(), absl::InfiniteDuration());
  EXPECT_EQ(deadline, Deadline::Infinite());
}

TEST(DeadlineTest, AfterCountsFromNow) {
  const int64_t before_ns = MonotonicNanos();
  const Deadline deadline = Deadline::After(absl::Hours(1));
  const int64_t after_ns = MonotonicNanos();
  const int64_t hour_ns = int64_t{3600} * 1'000'000'000;
  EXPECT_GE(deadline.at_ns(), before_ns + hour_ns);
  EXPECT_LE(deadline.at_ns(), after_ns + hour_ns);
  EXPECT_FALSE(deadline.passed());
  EXPECT_LE(deadline.remaining(), absl::Hours(1));
}

TEST(DeadlineTest, ZeroAndNegativeTimeoutsHavePassed) {
  for (const absl::Duration timeout : {absl::ZeroDuration(), -absl::Nanoseconds(1),
                                       -absl::Hours(100'000), -absl::InfiniteDuration()}) {
    const Deadline deadline = Deadline::After(timeout);
    EXPECT_TRUE(deadline.passed()) << timeout;
    EXPECT_EQ(deadline.remaining_ns(), 0) << timeout;
    EXPECT_FALSE(deadline.infinite()) << timeout;
  }
}

TEST(DeadlineTest, UnrepresentableTimeoutIsInfinite) {
  EXPECT_TRUE(Deadline::After(absl::InfiniteDuration()).infinite());
  EXPECT_TRUE(Deadline::After(absl::Hours(24 * 366 * 300)).infinite());
  EXPECT_FALSE(Deadline::After(absl::Hours(24 * 365 * 100)).infinite());
}

TEST(DeadlineTest, EarlierComparesLess) {
  EXPECT_LT(Deadline::AtNanos(1), Deadline::AtNanos(2));
  EXPECT_LT(Deadline::AtNanos(2), Deadline::Infinite());
  EXPECT_TRUE(Deadline::AtNanos(0).passed());
}

}  // namespace
}  // namespace mi7
