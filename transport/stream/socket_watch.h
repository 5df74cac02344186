#pragma once

// SocketWatch: what the event loop watches one socket for, changed by any thread.

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "transport/event_loop.h"

namespace mi7::transport {

// Thread-safe. Does not own the socket. 40 bytes.
class SocketWatch {
 public:
  SocketWatch(EventLoop* loop, int fd, Watcher* watcher)
      : loop_(loop), watcher_(watcher), fd_(fd) {}

  absl::Status Start() {
    MutexLock lock(&mutex_);
    absl::Status status = loop_->Watch(fd_, interest_, watcher_);
    started_ = status.ok();
    return status;
  }

  // Whether readability is told.
  void WatchReads(bool wanted) {
    MutexLock lock(&mutex_);
    reads_.store(wanted, std::memory_order_seq_cst);
    Apply(wanted ? interest_ | EPOLLIN : interest_ & ~uint32_t{EPOLLIN});
  }
  bool watches_reads() const { return reads_.load(std::memory_order_seq_cst); }

  // Sets whether writability is told to what `wanted` says at this moment. It is read under the
  // lock, so of two threads that changed it and call this, the later one leaves the truth.
  void WatchWrites(const std::atomic<bool>& wanted) {
    MutexLock lock(&mutex_);
    Apply(wanted.load(std::memory_order_seq_cst) ? interest_ | EPOLLOUT
                                                 : interest_ & ~uint32_t{EPOLLOUT});
  }

  // Nothing is told afterwards and every change is ignored. Loop thread only.
  void Stop() {
    MutexLock lock(&mutex_);
    if (started_) loop_->Unwatch(fd_, watcher_);
    started_ = false;
  }

 private:
  void Apply(uint32_t interest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (interest == interest_) return;
    interest_ = interest;
    if (started_) loop_->Rewatch(fd_, interest, watcher_);
  }

  EventLoop* const loop_;
  Watcher* const watcher_;
  Mutex mutex_;
  uint32_t interest_ ABSL_GUARDED_BY(mutex_) = 0;
  const int fd_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> reads_{false};
};

}  // namespace mi7::transport
