#include "rpc/deadline_queue.h"

#include <utility>

#include "rpc/client_call.h"

namespace mi7 {

std::shared_ptr<DeadlineQueue> DeadlineQueue::Create(transport::EventLoop* loop) {
  std::shared_ptr<DeadlineQueue> queue(new DeadlineQueue);
  queue->timer_ = std::make_unique<transport::EventLoop::Timer>(
      loop, [weak = std::weak_ptr<DeadlineQueue>(queue)] {
        if (std::shared_ptr<DeadlineQueue> self = weak.lock()) self->OnTimer();
      });
  return queue;
}

void DeadlineQueue::Add(ClientCall* call) {
  MutexLock lock(&mutex_);
  call->Ref();
  heap_.push_back(call);
  Place(heap_.size() - 1, call);
  SiftUp(heap_.size() - 1);
  const Deadline first = heap_.front()->deadline_;
  if (first < armed_) {
    armed_ = first;
    timer_->Schedule(first);
  }
}

void DeadlineQueue::Remove(ClientCall* call) {
  {
    MutexLock lock(&mutex_);
    if (call->deadline_index_ == ClientCall::kNotInQueue) return;
    RemoveAt(call->deadline_index_);
  }
  call->Unref();
}

void DeadlineQueue::OnTimer() {
  for (;;) {
    ClientCall* expired = nullptr;
    {
      MutexLock lock(&mutex_);
      if (heap_.empty()) {
        armed_ = Deadline::Infinite();
        return;
      }
      const Deadline first = heap_.front()->deadline_;
      if (!first.passed()) {
        armed_ = first;
        timer_->Schedule(first);
        return;
      }
      expired = heap_.front();
      RemoveAt(0);
    }
    expired->Expire();
    expired->Unref();
  }
}

void DeadlineQueue::Place(size_t index, ClientCall* call) {
  heap_[index] = call;
  call->deadline_index_ = index;
}

void DeadlineQueue::SiftUp(size_t index) {
  ClientCall* const call = heap_[index];
  while (index != 0) {
    const size_t parent = (index - 1) / 2;
    if (heap_[parent]->deadline_ <= call->deadline_) break;
    Place(index, heap_[parent]);
    index = parent;
  }
  Place(index, call);
}

void DeadlineQueue::SiftDown(size_t index) {
  ClientCall* const call = heap_[index];
  for (;;) {
    size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1]->deadline_ < heap_[child]->deadline_) {
      ++child;
    }
    if (call->deadline_ <= heap_[child]->deadline_) break;
    Place(index, heap_[child]);
    index = child;
  }
  Place(index, call);
}

void DeadlineQueue::RemoveAt(size_t index) {
  heap_[index]->deadline_index_ = ClientCall::kNotInQueue;
  ClientCall* const last = heap_.back();
  heap_.pop_back();
  if (index == heap_.size()) return;
  Place(index, last);
  SiftUp(index);
  SiftDown(last->deadline_index_);
}

}  // namespace mi7
