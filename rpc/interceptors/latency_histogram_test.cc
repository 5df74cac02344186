#include "rpc/interceptors/latency_histogram.h"

#include <gtest/gtest.h>

namespace mi7 {
namespace {

using Histogram = LatencyHistogram;

TEST(LatencyHistogramTest, BucketsTouchAndAreNarrow) {
  for (size_t bucket = 0; bucket + 1 < Histogram::kBuckets; ++bucket) {
    const int64_t end = Histogram::EndOf(bucket);
    EXPECT_EQ(Histogram::BucketOf(end - 1), bucket);
    EXPECT_EQ(Histogram::BucketOf(end), bucket + 1);
    if (bucket > 0) {
      EXPECT_LE(end, Histogram::EndOf(bucket - 1) * 5 / 4);
    }
  }
  EXPECT_EQ(Histogram::BucketOf(0), 0u);
  EXPECT_EQ(Histogram::BucketOf(INT64_MAX), Histogram::kBuckets - 1);
  EXPECT_EQ(Histogram::EndOf(Histogram::kBuckets - 1), INT64_MAX);
}

TEST(LatencyHistogramTest, QuantilesAreAtMostAQuarterTooLong) {
  Histogram histogram;
  for (int64_t us = 1; us <= 1000; ++us) {
    histogram.Add(Histogram::BucketOf(us * 1000), 1);
    histogram.AddSum(static_cast<uint64_t>(us) * 1000);
  }
  EXPECT_EQ(histogram.count(), 1000u);
  EXPECT_EQ(histogram.sum_ns(), 500'500'000u);
  for (const double fraction : {0.01, 0.5, 0.9, 0.99, 1.0}) {
    const double exact = fraction * 1e6;
    EXPECT_GE(static_cast<double>(histogram.Quantile(fraction)), exact);
    EXPECT_LE(static_cast<double>(histogram.Quantile(fraction)), exact * 1.26);
  }
  EXPECT_LE(histogram.Quantile(0), 1280) << "the shortest";
}

TEST(LatencyHistogramTest, AnEmptyOneSaysNothing) {
  EXPECT_EQ(Histogram().Quantile(0.5), 0);
  EXPECT_EQ(Histogram().count(), 0u);
}

}  // namespace
}  // namespace mi7
