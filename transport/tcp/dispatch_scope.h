#pragma once

// DispatchScope: marks that the calling thread runs callbacks of a TCP connection.

#include "transport/tcp/tcp_connection.h"

namespace mi7::transport {

// Lives on the stack of the thread that dispatches. Scopes nest when a callback of one connection
// waits on another one.
class TcpConnection::DispatchScope {
 public:
  explicit DispatchScope(TcpConnection* connection) : connection_(connection), outer_(innermost_) {
    innermost_ = this;
  }
  ~DispatchScope() { innermost_ = outer_; }
  DispatchScope(const DispatchScope&) = delete;
  DispatchScope& operator=(const DispatchScope&) = delete;

  static DispatchScope* innermost() { return innermost_; }
  DispatchScope* outer() const { return outer_; }
  TcpConnection* connection() const { return connection_; }

 private:
  static constinit thread_local DispatchScope* innermost_;
  TcpConnection* const connection_;
  DispatchScope* const outer_;
};

}  // namespace mi7::transport
