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

}  // namespace

GradientLimit::GradientLimit(const AdaptiveLimit& options)
    : options_(options), limit_(options.calls_initial), estimate_(options.calls_initial) {}

void GradientLimit::OnSuccess(int64_t latency_ns, uint32_t in_flight, int64_t now_ns) {
  MutexLock lock(&mutex_);
  if (probe_windows_ != 0 && in_flight > limit()) return;  // the queue is not gone yet
  if (calls_ == 0) {
    window_end_ns_ = now_ns + absl::ToInt64Nanoseconds(options_.window);
    least_ns_ = latency_ns;
    in_flight_most_ = in_flight;
  }
  ++calls_;
  least_ns_ = std::min(least_ns_, latency_ns);
  in_flight_most_ = std::max(in_flight_most_, in_flight);
  if (now_ns < window_end_ns_ || calls_ < options_.window_calls_min) return;
  calls_ = 0;
  EndWindow(static_cast<double>(std::max<int64_t>(1, least_ns_)));
  SetLimit(probe_windows_ != 0 ? estimate_ * kProbePart : estimate_);
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
  estimate_ = std::clamp(estimate_, static_cast<double>(options_.calls_min),
                         static_cast<double>(options_.calls_max));
}

void GradientLimit::SetLimit(double calls) {
  const auto rounded = static_cast<uint32_t>(std::lround(calls));
  limit_.store(std::max(rounded, options_.calls_min), std::memory_order_relaxed);
}

}  // namespace mi7
