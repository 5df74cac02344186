#pragma once

// DispatchScope: marks that the calling thread runs callbacks of a stream connection, and holds
// back what they send ("corking"), so that a burst of requests is answered by one write.

#include <cstdint>
#include <utility>

#include "base/check.h"
#include "transport/callback_scope.h"
#include "transport/message.h"
#include "transport/message_queue.h"
#include "transport/stream/stream_connection.h"

namespace mi7::transport {

// Lives on the stack of the thread that dispatches. What is corked belongs to this thread alone: no
// lock is taken for it.
class StreamConnection::DispatchScope final : public CallbackScope {
 public:
  explicit DispatchScope(StreamConnection* connection)
      : CallbackScope(connection, /*one_arrival=*/true), owner_(connection) {}
  ~DispatchScope() {
    MI7_CHECK(first_ == nullptr, "what is corked is written before the scope ends");
  }

  // The scope of `connection` on this thread, nullptr when it runs no callback of it.
  static DispatchScope* Of(const StreamConnection* connection) {
    return static_cast<DispatchScope*>(CallbackScope::Of(connection));
  }

  // Corks a sealed message.
  void Push(OutgoingMessage message) {
    MessageBody* const body = message.release();
    body->next = nullptr;
    count_ = count_.With(body->header.size, 1);
    (last_ == nullptr ? first_ : last_->next) = body;
    last_ = body;
  }
  const Queued& count() const { return count_; }

  // Hands what is corked to `writer`.
  Writer::Result WriteTo(Writer& writer, int fd) {
    if (first_ == nullptr) return {};
    return writer.WriteChain(fd, std::exchange(first_, nullptr), std::exchange(last_, nullptr),
                             std::exchange(count_, {}));
  }

 private:
  void Flush() override {
    if (!owner_->forked()) owner_->Uncork(*this);
  }

  StreamConnection* const owner_;
  MessageBody* first_ = nullptr;
  MessageBody* last_ = nullptr;
  Queued count_;
};

}  // namespace mi7::transport
