#pragma once

// Order statistics over a few rounds or over many latencies.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mi7::bench {

// The value at `quantile` (0 to 1) of `values`, interpolated linearly between neighbours; NaN when
// `values` is empty. Takes a copy because it sorts.
double Quantile(std::vector<double> values, double quantile);

// The same for sorted latencies, by the nearest-rank method: always a latency that was really seen;
// 0 when empty.
uint32_t QuantileOfSorted(std::span<const uint32_t> latencies_ns, double quantile);

// How the rounds of one figure are distributed.
struct Spread {
  size_t rounds = 0;
  double median = 0;
  double min = 0;
  double lower_quartile = 0;
  double upper_quartile = 0;
  double max = 0;

  // Width of the middle half of the rounds as a share of the median (0.05 = 5 %).
  double relative() const { return median == 0 ? 0 : (upper_quartile - lower_quartile) / median; }
};

// Statistics of `rounds`; all fields are 0 when it is empty.
Spread Summarize(const std::vector<double>& rounds);

}  // namespace mi7::bench
