#pragma once

// WorkerPool: threads for work that blocks, such as reading from a disk.

#include <cstddef>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace files {

// Thread-safe.
class WorkerPool {
 public:
  // At least one thread; at most `waiting_max` jobs wait for one.
  WorkerPool(int threads, size_t waiting_max);
  // Runs what waits, and joins.
  ~WorkerPool();

  // Work that must not throw. It is called once: with OK on one of the threads, or, instead of its
  // work, with the reason why that cannot be.
  using Job = absl::AnyInvocable<void(absl::Status)>;

  // Jobs begin in the order of Submit. When too many wait, calls job(RESOURCE_EXHAUSTED) at once.
  void Submit(Job job);

 private:
  void Work();
  bool WorkOrStop() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !jobs_.empty();
  }

  const size_t waiting_max_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace files
