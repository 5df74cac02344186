#pragma once

// What both asynchronous examples need around mi7: a queue between coroutines of one event loop, a
// coroutine that nobody waits for, and a count that a thread can wait for.

#include <coroutine>
#include <deque>
#include <exception>
#include <optional>
#include <utility>

#include "base/mutex.h"
#include "transport/event_loop.h"

// A coroutine that runs when it is called, and goes when it ends.
struct Started {
  struct promise_type {
    Started get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

// Hands values from one coroutine to whichever waits. On the loop's thread only.
template <typename T>
class HandOff {
 public:
  explicit HandOff(mi7::transport::EventLoop* loop) : loop_(loop) {}

  void Push(T value) {
    values_.push_back(std::move(value));
    WakeOne();
  }
  // No more values: who waits gets what is left, then nothing.
  void Close() {
    closed_ = true;
    for (size_t i = waiting_.size(); i > 0; --i) WakeOne();
  }

  // co_await Pop(): the next value; nothing when closed.
  auto Pop() {
    struct Awaiter {
      HandOff* queue;
      bool await_ready() const { return !queue->values_.empty() || queue->closed_; }
      void await_suspend(std::coroutine_handle<> coroutine) {
        queue->waiting_.push_back(coroutine);
      }
      std::optional<T> await_resume() {
        if (queue->values_.empty()) return std::nullopt;
        T value = std::move(queue->values_.front());
        queue->values_.pop_front();
        return value;
      }
    };
    return Awaiter{this};
  }

 private:
  void WakeOne() {
    if (waiting_.empty()) return;
    const std::coroutine_handle<> first = waiting_.front();
    waiting_.pop_front();
    // Another coroutine may have taken the value before this one runs: it waits again.
    loop_->Post([this, first] {
      if (values_.empty() && !closed_) {
        waiting_.push_front(first);
      } else {
        first.resume();
      }
    });
  }

  mi7::transport::EventLoop* const loop_;
  std::deque<T> values_;
  std::deque<std::coroutine_handle<>> waiting_;
  bool closed_ = false;
};

// Counts coroutines that have ended. Thread-safe.
class Ended {
 public:
  void Add() {
    mi7::MutexLock lock(&mutex_);
    ++count_;
    changed_.NotifyAll();
  }
  void WaitFor(int count) {
    mi7::MutexLock lock(&mutex_);
    changed_.WaitUntil(mutex_, mi7::Deadline::Infinite(),
                       [this, count]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return count_ >= count; });
  }

 private:
  mi7::Mutex mutex_;
  mi7::CondVar changed_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};
