#pragma once

// Cap'n Proto messages in slots: built in place, read in place.
//
//   mi7::SlotMessageBuilder builder(*pipe->Hold());
//   builder.message().initRoot<Order>().setAmount(3);
//   absl::Status sent = builder.Send();
//
//   auto slot = pipe->Fetch();
//   auto reader = mi7::SlotMessageReader::Open(*slot);   // the slot outlives it
//   reader->message().getRoot<Order>().getAmount();
//   absl::Status done = slot->Release();
//
// A slot holds one segment in the standard framing (segment count, size, words), so what is in it
// is what capnp::readMessageFromFlatArray reads.

#include <memory>
#include <utility>

#include <capnp/message.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/slot_pipe/slots.h"

namespace mi7 {

// Builds one message in a slot that was held. Not thread-safe.
class SlotMessageBuilder {
 public:
  // Zeroes the slot, which Cap'n Proto's builders need.
  explicit SlotMessageBuilder(WriteSlot slot);
  ~SlotMessageBuilder();

  capnp::MessageBuilder& message();

  // Publishes it. INVALID_ARGUMENT when it does not fit into the slot (what does not fit was built
  // elsewhere): the slot is given back then, when this object is destroyed. Else as
  // WriteSlot::Send.
  absl::Status Send();

 private:
  class Arena;
  WriteSlot slot_;
  std::unique_ptr<Arena> arena_;
};

// Reads the message in a fetched slot. Its getters throw kj::Exception at what is malformed.
class SlotMessageReader {
 public:
  // INVALID_ARGUMENT when the slot holds no Cap'n Proto message, or a malformed one. The
  // traversal is limited to 8 times the message and 1 Mi words.
  static absl::StatusOr<SlotMessageReader> Open(const ReadSlot& slot);

  capnp::MessageReader& message() { return *reader_; }

 private:
  explicit SlotMessageReader(std::unique_ptr<capnp::MessageReader> reader)
      : reader_(std::move(reader)) {}
  std::unique_ptr<capnp::MessageReader> reader_;
};

}  // namespace mi7
