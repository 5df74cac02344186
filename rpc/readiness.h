#pragma once

// Readiness: the base of what has one user, who waits until it is ready, as a thread, by a callback
// or as a coroutine; again and again.
//
// Thread-safety: the functions named the user's are called by one thread at a time, and only one
// wait is under way. It becomes ready on any thread.
//
// No wakeup is lost: whether it is ready is decided, and who waits is written, under one mutex. Who
// makes it ready takes what waits under the mutex and wakes it without; from then on the user is
// free to wait again, or to end it all.

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "rpc/turns.h"
#include "transport/completion.h"

namespace mi7 {

class Readiness : private Turn {
 public:
  // What it is a part of, which lives as long as there are references.
  class Owner {
   public:
    virtual void Ref() = 0;
    virtual void Unref() = 0;
    // For log lines.
    virtual absl::string_view name() const = 0;

   protected:
    ~Owner() = default;
  };

  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  // --- The user's ---

  bool Ready() {
    MutexLock lock(&mutex_);
    return IsReady();
  }
  // A wait is under way, or its end has not been told yet: there must be no other one.
  bool WaitedFor() {
    MutexLock lock(&mutex_);
    return IsWaitedFor();
  }
  // A thread is going to wait on `thread`, which is completed when this is ready. False: it is.
  bool List(transport::Completion& thread) {
    MutexLock lock(&mutex_);
    if (IsReady()) return false;
    waiting_thread_ = &thread;
    return true;
  }
  // Runs `continuation()` once this is ready, on the thread that makes it so. False: it is, and the
  // continuation, which must be trivially destructible, never runs.
  template <typename F>
  bool OnReady(F continuation) {
    Store(std::move(continuation));
    if (Publish()) return true;
    stored_.store(false, std::memory_order_relaxed);
    return false;
  }
  // The same, but where it is ready already the continuation runs here, in turn (turns.h). No
  // allocation up to kInlineContinuationBytes.
  template <typename F>
  void OnReadyInTurn(F continuation) {
    Store(std::move(continuation));
    if (!Publish()) RunInTurn();
  }
  // The continuation, which must be trivially destructible, is not to run any more. Not while it
  // may become ready on another thread.
  void Forget();

 protected:
  explicit Readiness(Owner* owner) : owner_(owner) {}
  ~Readiness() = default;

  virtual bool IsReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  // Who waited for what has become ready. Woken once, without the mutex, by somebody who keeps the
  // owner meanwhile.
  class Waiter {
   public:
    Waiter() = default;
    explicit operator bool() const { return thread_ != nullptr || ready_ != nullptr; }
    void Wake() {
      if (thread_ != nullptr) thread_->Complete();
      if (ready_ != nullptr) ready_->RunContinuation();
    }

   private:
    friend class Readiness;
    transport::Completion* thread_ = nullptr;
    Readiness* ready_ = nullptr;
  };
  // Nobody, unless it is ready.
  Waiter TakeWaiter() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Waiter waiter;
    if (!IsReady()) return waiter;
    waiter.thread_ = std::exchange(waiting_thread_, nullptr);
    if (std::exchange(continuation_waits_, false)) waiter.ready_ = this;
    return waiter;
  }

  // The user waits, and has not been told yet, though it may be ready: a further wait is to be
  // refused.
  bool IsWaitedFor() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stored_.load(std::memory_order_acquire) || waiting_thread_ != nullptr;
  }

  mutable Mutex mutex_;

 private:
  static constexpr size_t kInlineContinuationBytes = 64;

  template <typename F>
  static void RunStored(Readiness& self) {
    F* const stored = std::launder(reinterpret_cast<F*>(self.continuation_));
    F continuation(std::move(*stored));
    stored->~F();
    self.stored_.store(false, std::memory_order_release);
    continuation();
  }
  template <typename F>
  void Store(F continuation) {
    if constexpr (sizeof(F) <= kInlineContinuationBytes) {
      new (continuation_) F(std::move(continuation));
      run_continuation_ = &RunStored<F>;
      stored_.store(true, std::memory_order_relaxed);
    } else {
      Store([box = std::make_unique<F>(std::move(continuation))] { (*box)(); });
    }
  }
  // The continuation is stored; true when it waits.
  bool Publish() {
    MutexLock lock(&mutex_);
    continuation_waits_ = !IsReady();
    return continuation_waits_;
  }
  void RunContinuation();
  void RunInTurn();
  void InvokeContinuation();

  Owner* const owner_;
  transport::Completion* waiting_thread_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool continuation_waits_ ABSL_GUARDED_BY(mutex_) = false;
  // Written by the user, then read by whoever took it as a Waiter.
  void (*run_continuation_)(Readiness& self) = nullptr;
  // Of the continuation. Set by the user; given up by whoever has moved it out, with release, so
  // that the user, who acquires it, may store the next one.
  std::atomic<bool> stored_{false};
  alignas(std::max_align_t) std::byte continuation_[kInlineContinuationBytes];
};

}  // namespace mi7
