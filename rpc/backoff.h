#pragma once

// How long to wait before connecting again. After gRPC's "connection backoff protocol"
// (https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md), with shorter defaults: a
// local server that restarts should be back in use within a moment.

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace mi7 {

// The waits between attempts to connect. A value type.
struct BackoffOptions {
  absl::Duration initial = absl::Milliseconds(50);
  absl::Duration max = absl::Seconds(10);
  double multiplier = 1.6;
  // Each wait is varied at random by up to this share, so that the clients of a restarted server
  // do not come back all at once.
  double jitter = 0.2;

  friend bool operator==(const BackoffOptions&, const BackoffOptions&) = default;
};

// Not thread-safe.
class Backoff {
 public:
  // `seed`: of the jitter. Any difference between two seeds will do.
  Backoff(const BackoffOptions& options, uint64_t seed)
      : options_(options), next_(options.initial), random_(Scatter(seed) | 1) {}

  // The wait after a further failed attempt.
  absl::Duration Next() {
    const absl::Duration base = std::min(next_, options_.max);
    next_ = base * options_.multiplier;
    return base * (1.0 + options_.jitter * RandomInMinusOneToOne());
  }
  // After a success.
  void Reset() { next_ = options_.initial; }

 private:
  // Seeds are addresses and times, which are close to each other where several back off together.
  // The generator alone would begin with nearly the same for all of them, and the first wait is
  // often the only one. The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable
  // pseudorandom number generators", 2014).
  static uint64_t Scatter(uint64_t seed) {
    seed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9;
    seed = (seed ^ seed >> 27) * 0x94D049BB133111EB;
    return seed ^ seed >> 31;
  }

  // xorshift64 (Marsaglia, "Xorshift RNGs", 2003): plenty for jitter.
  double RandomInMinusOneToOne() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return static_cast<double>(random_ >> 11) / static_cast<double>(uint64_t{1} << 52) - 1.0;
  }

  BackoffOptions options_;
  absl::Duration next_;
  uint64_t random_;
};

}  // namespace mi7
