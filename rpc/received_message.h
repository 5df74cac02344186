#pragma once

// A message of a stream from its arrival until its user is done with it.

#include <array>
#include <cstddef>
#include <utility>

#include "base/object_pool.h"
#include "rpc/message_reader.h"
#include "transport/message.h"

namespace mi7 {

// Not thread-safe; handed from thread to thread by its owner. No allocation once warm.
struct ReceivedMessage {
  ReceivedMessage(transport::IncomingMessage&& received, bool first)
      : message(std::move(received)), is_first(first) {}

  // For one that is going to be kept: where it holds much more memory than it has bytes (a buffer
  // that many messages were received into), it is copied, so that what a peer can make us keep is
  // in proportion to its credit.
  void Keep() {
    constexpr size_t kFactor = 8;
    if (message.held_bytes() <= kFactor * message.header().size) return;
    message = transport::CopyMessage(message, small);
  }

  transport::IncomingMessage message;
  Body body;  // of `message`; does not move
  ReceivedMessage* next = nullptr;
  const bool is_first;  // of its stream: what came along with others means nothing
  alignas(8) std::array<std::byte, 192> small;  // of a small one that is kept
};

// Owning handle of a ReceivedMessage. Move-only.
class ReceivedMessageRef {
 public:
  ReceivedMessageRef() = default;
  explicit ReceivedMessageRef(ReceivedMessage* message) : message_(message) {}
  ReceivedMessageRef(ReceivedMessageRef&& other) noexcept
      : message_(std::exchange(other.message_, nullptr)) {}
  ReceivedMessageRef& operator=(ReceivedMessageRef&& other) noexcept {
    std::swap(message_, other.message_);
    return *this;
  }
  ~ReceivedMessageRef() {
    if (message_ != nullptr) ObjectPool<ReceivedMessage>::Delete(message_);
  }
  ReceivedMessage* operator->() const { return message_; }
  explicit operator bool() const { return message_ != nullptr; }
  ReceivedMessage* release() { return std::exchange(message_, nullptr); }

 private:
  ReceivedMessage* message_ = nullptr;
};

}  // namespace mi7
