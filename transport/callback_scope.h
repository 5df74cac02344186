#pragma once

// CallbackScope: marks that the calling thread runs callbacks of a connection. What is sent inside
// may be held back until the scope ends; a thread that is about to wait for another connection has
// every scope around it let go of what it holds (FlushAll), on whatever transport.

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

  // Hands on what the scopes of this thread hold back.
  static void FlushAll() {
    for (CallbackScope* scope = innermost_; scope != nullptr; scope = scope->outer_) scope->Flush();
  }

 protected:
  explicit CallbackScope(const void* connection) : connection_(connection), outer_(innermost_) {
    innermost_ = this;
  }
  ~CallbackScope() { innermost_ = outer_; }
  virtual void Flush() = 0;

 private:
  static inline constinit thread_local CallbackScope* innermost_ = nullptr;

  const void* const connection_;
  CallbackScope* const outer_;
};

}  // namespace mi7::transport
