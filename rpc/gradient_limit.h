#pragma once

// GradientLimit: how many calls a server should have in flight, from how long they take.
//
// After Gradient2Limit of Netflix's concurrency-limits
// (https://github.com/Netflix/concurrency-limits): the limit grows by a few calls at a time while
// calls take what they always take, and sinks in proportion as they take longer, which is when they
// queue for something. Four things are otherwise.
// * The short-term latency is the least of a window of calls, and the long-term latency an average
//   of those, where theirs are averages of all calls: a server's calls are of many methods, and
//   another mixture of them is no queue.
// * Windows of overload do not count in the long-term latency, which would become theirs, and the
//   limit run away with it, within minutes. Instead, after many of them, the limit is lowered for a
//   moment, until there can be no queue, to measure anew, as Envoy's adaptive concurrency filter
//   does: a server that has become slower for good is not overloaded for ever.
// * Calls that stay, such as long polls, are in flight with the others, and tell nothing as long as
//   they do. Where they take all of the limit, others come in beyond it, one at a time
//   (LoadControl), and what those tell is believed: the limit could not grow again otherwise.
// * What the limit grows by is its square root, as in their older GradientLimit, so that a server
//   that can have thousands of calls in flight gets there in minutes.

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/limits.h"
#include "base/mutex.h"

namespace mi7 {

// Thread-safe.
class GradientLimit {
 public:
  explicit GradientLimit(const AdaptiveLimit& options);

  // Calls that may be in flight. Relaxed: a number that orders nothing.
  uint32_t limit() const { return limit_.load(std::memory_order_relaxed); }

  // When nobody was let in for so long, the calls in flight are such as stay: in an overload they
  // end, if late. Relaxed as well.
  int64_t patience_ns() const { return patience_ns_.load(std::memory_order_relaxed); }

  // A call succeeded after `latency_ns`; `in_flight` were in flight with it, itself included.
  // `beyond_limit`: it was let in although as many calls as the limit were in flight.
  // `now_ns`: MonotonicNanos().
  void OnSuccess(int64_t latency_ns, uint32_t in_flight, bool beyond_limit, int64_t now_ns);

 private:
  // A window whose least latency is `short_ns` is over.
  void EndWindow(double short_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetLimit(double calls) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetPatience() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const AdaptiveLimit options_;
  std::atomic<uint32_t> limit_;  // estimate_, rounded, or less while it is probed
  std::atomic<int64_t> patience_ns_{0};
  Mutex mutex_;
  double estimate_ ABSL_GUARDED_BY(mutex_);
  double long_ns_ ABSL_GUARDED_BY(mutex_) = 0;               // 0: nothing was measured yet
  uint32_t windows_ ABSL_GUARDED_BY(mutex_) = 0;             // counted at first only
  uint32_t overloaded_windows_ ABSL_GUARDED_BY(mutex_) = 0;  // since the long-term one was probed
  uint32_t probe_windows_ ABSL_GUARDED_BY(mutex_) = 0;       // left of a probe; 0: there is none
  // The window that is being filled.
  int64_t window_end_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t least_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t in_flight_most_ ABSL_GUARDED_BY(mutex_) = 0;
  bool beyond_limit_ ABSL_GUARDED_BY(mutex_) = false;  // one of its calls was
};

}  // namespace mi7
