#pragma once

// DeadlineQueue: the deadlines of a channel's asynchronous calls. A blocking call watches its
// deadline itself and is not in here.

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "transport/event_loop.h"

namespace mi7 {

class ClientCall;

// A binary heap ordered by deadline, with positions kept in the calls so that a completed call is
// removed in O(log n). Thread-safe.
class DeadlineQueue : public std::enable_shared_from_this<DeadlineQueue> {
 public:
  // The loop must outlive the queue.
  static std::shared_ptr<DeadlineQueue> Create(transport::EventLoop* loop);

  // Expires `call` (ClientCall::Expire) on the loop's thread when its deadline has passed, unless
  // it is removed before. Takes a reference until then.
  void Add(ClientCall* call);
  // No effect when `call` is not in the queue.
  void Remove(ClientCall* call);

 private:
  DeadlineQueue() = default;
  void OnTimer();
  void Place(size_t index, ClientCall* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SiftUp(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SiftDown(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveAt(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::unique_ptr<transport::EventLoop::Timer> timer_;
  Mutex mutex_;
  std::vector<ClientCall*> heap_ ABSL_GUARDED_BY(mutex_);
  // What the timer is armed for. It may fire early (the call was removed), never late.
  Deadline armed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mi7
