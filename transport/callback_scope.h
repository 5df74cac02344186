#pragma once

// CallbackScope: marks that the calling thread runs callbacks of a connection. What is sent inside
// may be held back until the scope ends; a thread that is about to wait for another connection, or
// for what the runtime or another thread does, has every scope around it let go of what it holds
// (FlushAll), on whatever transport: Connection::Await, Completion::Sleep and what else waits.

#include <cstdint>

#include "base/deadline.h"

namespace mi7::transport {

// Lives on the stack of the thread that dispatches. Scopes nest when a callback of one connection
// waits on another one.
class CallbackScope {
 public:
  CallbackScope(const CallbackScope&) = delete;
  CallbackScope& operator=(const CallbackScope&) = delete;

  // The scope of `connection` on this thread, nullptr when it runs no callback of it.
  static CallbackScope* Of(const void* connection) {
    CallbackScope* scope = innermost_;
    while (scope != nullptr && scope->connection_ != connection) scope = scope->outer_;
    return scope;
  }
  static CallbackScope* innermost() { return innermost_; }
  CallbackScope* outer() const { return outer_; }

  // A time (MonotonicNanos) at which the message that is being delivered had arrived, as early a
  // one as is known without reading the clock for messages that nobody asks about: now, or, in a
  // scope whose messages had all arrived when it began, when this was first asked in it.
  int64_t ArrivedNanos() {
    if (!one_arrival_) return MonotonicNanos();
    if (arrived_ns_ == 0) arrived_ns_ = MonotonicNanos();
    return arrived_ns_;
  }

  // Hands on what the scopes of this thread hold back.
  static void FlushAll() {
    for (CallbackScope* scope = innermost_; scope != nullptr; scope = scope->outer_) scope->Flush();
  }

 protected:
  // `one_arrival`: all messages that are delivered inside have arrived before.
  explicit CallbackScope(const void* connection, bool one_arrival = false)
      : connection_(connection), outer_(innermost_), one_arrival_(one_arrival) {
    innermost_ = this;
  }
  ~CallbackScope() { innermost_ = outer_; }
  virtual void Flush() = 0;

 private:
  static inline constinit thread_local CallbackScope* innermost_ = nullptr;

  const void* const connection_;
  CallbackScope* const outer_;
  const bool one_arrival_;
  int64_t arrived_ns_ = 0;  // 0: nobody has asked
};

}  // namespace mi7::transport
