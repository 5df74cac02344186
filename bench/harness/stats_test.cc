#include "bench/harness/stats.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

TEST(QuantileTest, InterpolatesBetweenNeighbours) {
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({3, 1, 2}, 0.5), 2);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4, 5}, 0.25), 2);
  EXPECT_DOUBLE_EQ(Quantile({1, 2}, 0), 1);
  EXPECT_DOUBLE_EQ(Quantile({1, 2}, 1), 2);
  EXPECT_TRUE(std::isnan(Quantile({}, 0.5)));
}

TEST(QuantileOfSortedTest, GivesALatencyThatWasSeen) {
  std::vector<uint32_t> latencies(100);
  std::iota(latencies.begin(), latencies.end(), 1);
  EXPECT_EQ(QuantileOfSorted(latencies, 0.5), 50u);
  EXPECT_EQ(QuantileOfSorted(latencies, 0.99), 99u);
  EXPECT_EQ(QuantileOfSorted(latencies, 1), 100u);
  EXPECT_EQ(QuantileOfSorted(latencies, 0), 1u);
  EXPECT_EQ(QuantileOfSorted({}, 0.5), 0u);
}

TEST(SummarizeTest, OneOutlierMovesNeitherMedianNorSpread) {
  const Spread spread = Summarize({10, 10, 11, 9, 10, 10, 1000, 10, 10});
  EXPECT_EQ(spread.rounds, 9u);
  EXPECT_DOUBLE_EQ(spread.median, 10);
  EXPECT_DOUBLE_EQ(spread.relative(), 0);
  EXPECT_DOUBLE_EQ(spread.max, 1000);
  EXPECT_DOUBLE_EQ(spread.min, 9);
}

TEST(SummarizeTest, NoRoundsGiveZeros) {
  EXPECT_EQ(Summarize({}).rounds, 0u);
  EXPECT_DOUBLE_EQ(Summarize({}).relative(), 0);
}

}  // namespace
}  // namespace mi7::bench
