#pragma once

// RetryBudget: the token bucket of RetryBudgetOptions.

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "rpc/retry_policy.h"

namespace mi7 {

// Thread-safe.
class RetryBudget {
 public:
  explicit RetryBudget(const RetryBudgetOptions& options)
      : options_(options), tokens_(options.tokens_max) {}

  // A call began that might be repeated.
  void OnCall() {
    MutexLock lock(&mutex_);
    Add(options_.tokens_per_call);
  }
  // Takes a token; false: there is none. `now_ns`: MonotonicNanos().
  bool Take(int64_t now_ns) {
    MutexLock lock(&mutex_);
    if (now_ns > filled_at_ns_) {
      if (filled_at_ns_ != 0) {
        Add(options_.tokens_per_second * static_cast<double>(now_ns - filled_at_ns_) * 1e-9);
      }
      filled_at_ns_ = now_ns;
    }
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  void Add(double tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    tokens_ = tokens_ + tokens < options_.tokens_max ? tokens_ + tokens : options_.tokens_max;
  }

  const RetryBudgetOptions options_;
  Mutex mutex_;
  double tokens_ ABSL_GUARDED_BY(mutex_);
  int64_t filled_at_ns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mi7
