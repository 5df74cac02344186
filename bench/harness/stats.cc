#include "bench/harness/stats.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mi7::bench {

double Quantile(std::vector<double> values, double quantile) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const double position = std::clamp(quantile, 0.0, 1.0) * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, values.size() - 1);
  const double part = position - static_cast<double>(below);
  return values[below] + part * (values[above] - values[below]);
}

uint32_t QuantileOfSorted(std::span<const uint32_t> latencies_ns, double quantile) {
  if (latencies_ns.empty()) return 0;
  const double rank = std::ceil(quantile * static_cast<double>(latencies_ns.size()));
  return latencies_ns[std::min(latencies_ns.size() - 1,
                               static_cast<size_t>(std::max(1.0, rank)) - 1)];
}

Spread Summarize(const std::vector<double>& rounds) {
  if (rounds.empty()) return {};
  return {.rounds = rounds.size(),
          .median = Quantile(rounds, 0.5),
          .min = Quantile(rounds, 0),
          .lower_quartile = Quantile(rounds, 0.25),
          .upper_quartile = Quantile(rounds, 0.75),
          .max = Quantile(rounds, 1)};
}

}  // namespace mi7::bench
