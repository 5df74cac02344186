#pragma once

// What shared-memory connections can be told.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mi7::transport {

// The memory in which a side builds its messages, and how much of the peer's it accepts. A value
// type. Each side chooses for the messages that it sends; nothing is agreed.
struct ShmOptions {
  // A message goes into the smallest free slot that holds it, and into several when none does.
  struct SlotClass {
    uint64_t slot_bytes = 0;  // a multiple of 4096
    uint32_t count = 0;
    friend bool operator==(const SlotClass&, const SlotClass&) = default;
  };
  // Ascending in slot_bytes; 1 to 6 classes, at most 1536 slots together. The last class also takes
  // messages that need several adjacent slots. These are addresses: memory is committed when a slot
  // is first used, and given back when the connection has been idle for a while, but not towards
  // peers that are not trusted.
  std::vector<SlotClass> slot_classes = {
      {4u << 10, 128}, {64u << 10, 64}, {1u << 20, 32}, {16u << 20, 10}};
  // The most memory of its own that a peer may make us map: one with larger slots in sum is
  // refused.
  uint64_t peer_bytes_max = 1u << 30;
  // Requests are kept in their slots until they are answered, and messages of a stream (the large
  // ones, and the first small ones) until the server has begun it, so that they can be sent once
  // more. So many bytes of them are moved to memory of this process when other messages need
  // their slots; what is beyond that cannot be repeated by itself, and its call ends with its
  // outcome (docs/RETRIES.md).
  uint64_t kept_copies_bytes_max = 256u << 20;

  friend bool operator==(const ShmOptions&, const ShmOptions&) = default;
};

// OK when `options` can be used; else INVALID_ARGUMENT naming the field and the value.
absl::Status CheckShmOptions(const ShmOptions& options);

}  // namespace mi7::transport
