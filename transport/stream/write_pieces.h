#pragma once

// WritePieces: what one gathering write is given for the messages of a batch.
//
// The system takes longer for one more piece than a copy of a small message takes. So of several
// messages the small ones are copied behind one another; larger ones, and one that goes alone, are
// written from where they were built.

#include <cstddef>
#include <memory>

#include "transport/message.h"

namespace mi7::transport {

// Not thread-safe. Kept by a thread, to stay warm.
class WritePieces {
 public:
  // Larger messages are not copied.
  static constexpr size_t kCopiedMessageBytesMax = 256;
  // Of what is copied of one batch; more is not.
  static constexpr size_t kCopiedBytesMax = 64 * kCopiedMessageBytesMax;

  // The pieces of sealed messages, linked by `next` from `first`, in order. They hold until the
  // next call, and as long as the messages are there.
  PieceList& List(MessageBody* first);

 private:
  // Makes the pieces from `begin` on, which are a message's, a part of a piece of copies.
  void Copy(size_t begin);

  PieceList pieces_;
  std::unique_ptr<std::byte[]> copies_;  // made when first needed
  size_t copied_bytes_ = 0;              // of the batch
};

}  // namespace mi7::transport
