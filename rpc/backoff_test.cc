#include "rpc/backoff.h"

#include <set>

#include <gtest/gtest.h>

#include "absl/time/time.h"

namespace mi7 {
namespace {

TEST(BackoffTest, GrowsByTheMultiplierUpToTheMaximum) {
  Backoff backoff({.initial = absl::Milliseconds(10),
                   .max = absl::Milliseconds(70),
                   .multiplier = 2,
                   .jitter = 0},
                  1);
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(10));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(20));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(40));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(70));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(70));
}

TEST(BackoffTest, SuccessStartsOver) {
  Backoff backoff({.initial = absl::Milliseconds(10), .multiplier = 2, .jitter = 0}, 1);
  backoff.Next();
  backoff.Next();
  backoff.Reset();
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(10));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(20));
}

TEST(BackoffTest, StaysFiniteAfterManyFailures) {
  Backoff backoff({.max = absl::Seconds(3), .jitter = 0}, 1);
  for (int i = 0; i < 100'000; ++i) backoff.Next();
  EXPECT_EQ(backoff.Next(), absl::Seconds(3));
}

TEST(BackoffTest, JitterStaysInItsShareAndVaries) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{12345}, ~uint64_t{0}}) {
    SCOPED_TRACE(seed);
    Backoff backoff(
        {.initial = absl::Seconds(1), .max = absl::Seconds(1), .multiplier = 1, .jitter = 0.2},
        seed);
    std::set<absl::Duration> seen;
    absl::Duration sum = absl::ZeroDuration();
    for (int i = 0; i < 1000; ++i) {
      const absl::Duration wait = backoff.Next();
      ASSERT_GE(wait, absl::Milliseconds(800) - absl::Nanoseconds(1));
      ASSERT_LE(wait, absl::Milliseconds(1200) + absl::Nanoseconds(1));
      seen.insert(wait);
      sum += wait;
    }
    EXPECT_GT(seen.size(), 990u);
    EXPECT_NEAR(absl::ToDoubleSeconds(sum), 1000, 20);  // 5 standard deviations are 18
  }
}

TEST(BackoffTest, SeedsCloseToEachOtherGiveFirstWaitsFarFromEachOther) {
  // As of channels that lose the same server: addresses, and times of the same millisecond.
  constexpr uint64_t kSeed = 0x55d3'a1b2'c000 ^ 123'456'789'012'345;
  const BackoffOptions options = {.initial = absl::Seconds(1), .jitter = 1};
  for (const uint64_t step : {uint64_t{1}, uint64_t{2}, uint64_t{64}, uint64_t{20'000}}) {
    SCOPED_TRACE(step);
    std::set<int64_t> tenths;  // of 0 to 2 s
    for (uint64_t i = 0; i < 100; ++i) {
      tenths.insert(Backoff(options, kSeed + i * step).Next() / absl::Milliseconds(100));
    }
    EXPECT_GE(tenths.size(), 17u) << "of 20, of which random ones miss more than 3 hardly ever";
  }
}

TEST(BackoffTest, SeedDecides) {
  Backoff first({}, 7), same({}, 7), other({}, 9);
  bool differs = false;
  for (int i = 0; i < 10; ++i) {
    const absl::Duration wait = first.Next();
    EXPECT_EQ(wait, same.Next());
    differs = differs || wait != other.Next();
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace mi7
