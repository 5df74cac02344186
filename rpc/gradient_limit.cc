#include "rpc/gradient_limit.h"

#include <algorithm>
#include <cmath>

#include "absl/time/time.h"

namespace mi7 {
namespace {

constexpr uint32_t kWarmupWindows = 10;
// Windows of a probe: the first ones see calls that began before it.
constexpr uint32_t kProbeWindows = 3;
constexpr double kProbePart = 0.25;
// How much longer than a window, and than calls always take, nobody is let in until those in flight
// are taken for such as stay; and how long at most, should what stayed ever have ended as a
// success.
constexpr int64_t kPatience = 10;
constexpr absl::Duration kPatienceMax = absl::Minutes(1);

}  // namespace

GradientLimit::GradientLimit(const AdaptiveLimit& options)
    : options_(options), limit_(options.calls_initial), estimate_(options.calls_initial) {
  MutexLock lock(&mutex_);
  SetPatience();
}

void GradientLimit::OnSuccess(int64_t latency_ns, uint32_t in_flight, bool beyond_limit,
                              int64_t now_ns) {
  MutexLock lock(&mutex_);
  // The queue is not gone yet, unless what is in flight stays.
  if (probe_windows_ != 0 && in_flight > limit() && !beyond_limit) return;
  // What was measured before one came in beyond the limit tells nothing of what those take.
  if (calls_ == 0 || (beyond_limit && !beyond_limit_)) {
    calls_ = 0;
    window_end_ns_ = now_ns + absl::ToInt64Nanoseconds(options_.window);
    least_ns_ = latency_ns;
    in_flight_most_ = in_flight;
    beyond_limit_ = beyond_limit;
  }
  ++calls_;
  least_ns_ = std::min(least_ns_, latency_ns);
  in_flight_most_ = std::max(in_flight_most_, in_flight);
  if (now_ns < window_end_ns_ || calls_ < options_.window_calls_min) return;
  calls_ = 0;
  EndWindow(static_cast<double>(std::max<int64_t>(1, least_ns_)));
  SetLimit(probe_windows_ != 0 ? estimate_ * kProbePart : estimate_);
  SetPatience();
}

void GradientLimit::EndWindow(double short_ns) {
  if (probe_windows_ != 0) {
    if (--probe_windows_ == 0) {
      long_ns_ = short_ns;
      overloaded_windows_ = 0;
    }
    return;
  }
  if (windows_ < kWarmupWindows) {
    // A plain average at first, so that the first window is not the truth.
    long_ns_ += (short_ns - long_ns_) / ++windows_;
  } else if (short_ns <= options_.tolerance * long_ns_) {
    long_ns_ += (short_ns - long_ns_) * 2 / (options_.long_windows + 1.0);
  } else if (++overloaded_windows_ >= options_.long_windows) {
    probe_windows_ = kProbeWindows;
    return;
  }
  // What was found out in an overload, or was so before: let it go soon.
  if (long_ns_ > 2 * short_ns) long_ns_ *= 0.95;
  // Where there is room the latency says nothing about the limit.
  if (in_flight_most_ < estimate_ / 2) return;
  const double gradient = std::clamp(options_.tolerance * long_ns_ / short_ns, 0.5, 1.0);
  const double wanted = estimate_ * gradient + std::sqrt(estimate_);
  estimate_ += (wanted - estimate_) * options_.smoothing;
  // That many do no harm. By its steps the limit might not overtake the calls that stay.
  if (beyond_limit_ && gradient == 1.0) estimate_ = std::max<double>(estimate_, in_flight_most_);
  estimate_ = std::clamp(estimate_, static_cast<double>(options_.calls_min),
                         static_cast<double>(options_.calls_max));
}

void GradientLimit::SetLimit(double calls) {
  const auto rounded = static_cast<uint32_t>(std::lround(calls));
  limit_.store(std::max(rounded, options_.calls_min), std::memory_order_relaxed);
}

void GradientLimit::SetPatience() {
  const absl::Duration usual = kPatience * std::max(options_.window, absl::Nanoseconds(long_ns_));
  patience_ns_.store(absl::ToInt64Nanoseconds(std::min(usual, kPatienceMax)),
                     std::memory_order_relaxed);
}

}  // namespace mi7
