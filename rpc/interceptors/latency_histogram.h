#pragma once

// A histogram of durations in a fixed amount of memory, whose buckets are a quarter of an octave
// wide: what it says of a duration is at most 25 % too much.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace mi7 {

// A value type. Durations in nanoseconds.
class LatencyHistogram {
 public:
  // Durations below 2^8 ns share the first bucket, those from 2^37 ns (137 s) on the last one.
  static constexpr int kOctaveMin = 8;
  static constexpr int kOctaveMax = 37;
  static constexpr size_t kBuckets = 2 + (kOctaveMax - kOctaveMin) * 4;

  static constexpr size_t BucketOf(int64_t ns) {
    if (ns < int64_t{1} << kOctaveMin) return 0;
    const int octave = std::bit_width(static_cast<uint64_t>(ns)) - 1;
    if (octave >= kOctaveMax) return kBuckets - 1;
    const size_t quarter = static_cast<size_t>(ns >> (octave - 2)) & 3;
    return 1 + static_cast<size_t>(octave - kOctaveMin) * 4 + quarter;
  }
  // The first duration that is too long for the bucket; INT64_MAX for the last one.
  static constexpr int64_t EndOf(size_t bucket) {
    if (bucket == 0) return int64_t{1} << kOctaveMin;
    if (bucket == kBuckets - 1) return INT64_MAX;
    const size_t index = bucket - 1;
    return (int64_t{5} + static_cast<int64_t>(index % 4))
           << (kOctaveMin + static_cast<int>(index / 4) - 2);
  }

  void Add(size_t bucket, uint64_t count) {
    counts_[bucket] += count;
    count_ += count;
  }
  void AddSum(uint64_t ns) { sum_ns_ += ns; }

  uint64_t count() const { return count_; }
  uint64_t sum_ns() const { return sum_ns_; }
  uint64_t count_in(size_t bucket) const { return counts_[bucket]; }
  // At least `fraction` (0 to 1) of the durations are shorter than this; 0 without any.
  int64_t Quantile(double fraction) const {
    const double wanted = fraction * static_cast<double>(count_);
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < kBuckets; ++bucket) {
      seen += counts_[bucket];
      if (seen != 0 && static_cast<double>(seen) >= wanted) return EndOf(bucket);
    }
    return 0;
  }

 private:
  std::array<uint64_t, kBuckets> counts_{};
  uint64_t count_ = 0;
  uint64_t sum_ns_ = 0;
};

static_assert(LatencyHistogram::BucketOf(255) == 0 && LatencyHistogram::BucketOf(256) == 1);
static_assert(LatencyHistogram::EndOf(1) == 320 && LatencyHistogram::BucketOf(319) == 1);
static_assert(LatencyHistogram::BucketOf(320) == 2 && LatencyHistogram::EndOf(4) == 512);
static_assert(LatencyHistogram::EndOf(LatencyHistogram::kBuckets - 2) ==
              int64_t{1} << LatencyHistogram::kOctaveMax);

}  // namespace mi7
