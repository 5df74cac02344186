#pragma once

// DispatchScope: marks that the calling thread runs callbacks of a stream connection, and holds
// back what they send ("corking"), so that a burst of requests is answered by one write.

#include <cstdint>
#include <utility>

#include "base/check.h"
#include "transport/message.h"
#include "transport/stream/stream_connection.h"

namespace mi7::transport {

// Lives on the stack of the thread that dispatches. Scopes nest when a callback of one connection
// waits on another one. What is corked belongs to this thread alone: no lock is taken for it.
class StreamConnection::DispatchScope {
 public:
  explicit DispatchScope(StreamConnection* connection)
      : connection_(connection), outer_(innermost_) {
    innermost_ = this;
  }
  ~DispatchScope() {
    MI7_CHECK(first_ == nullptr, "what is corked is written before the scope ends");
    innermost_ = outer_;
  }
  DispatchScope(const DispatchScope&) = delete;
  DispatchScope& operator=(const DispatchScope&) = delete;

  // The scope of `connection` on this thread, nullptr when it runs no callback of it.
  static DispatchScope* Of(const StreamConnection* connection) {
    DispatchScope* scope = innermost_;
    while (scope != nullptr && scope->connection_ != connection) scope = scope->outer_;
    return scope;
  }
  static DispatchScope* innermost() { return innermost_; }
  DispatchScope* outer() const { return outer_; }
  StreamConnection* connection() const { return connection_; }

  // Corks a sealed message.
  void Push(OutgoingMessage message) {
    MessageBody* const body = message.release();
    body->next = nullptr;
    bytes_ += body->header.size;
    ++count_;
    (last_ == nullptr ? first_ : last_->next) = body;
    last_ = body;
  }
  uint64_t bytes() const { return bytes_; }
  uint32_t count() const { return count_; }

  // Hands what is corked to `writer`.
  Writer::Result WriteTo(Writer& writer, int fd) {
    if (first_ == nullptr) return {};
    count_ = 0;
    return writer.WriteChain(fd, std::exchange(first_, nullptr), std::exchange(last_, nullptr),
                             std::exchange(bytes_, 0));
  }

 private:
  static constinit thread_local DispatchScope* innermost_;

  StreamConnection* const connection_;
  DispatchScope* const outer_;
  MessageBody* first_ = nullptr;
  MessageBody* last_ = nullptr;
  uint64_t bytes_ = 0;
  uint32_t count_ = 0;
};

}  // namespace mi7::transport
