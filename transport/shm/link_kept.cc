// Link, continued: which of the peer's slots are in the hands of users.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>

#include "transport/shm/link.h"

namespace mi7::transport::shm {

void Link::MarkHeld(uint32_t first, uint32_t slots, bool held) {
  for (uint32_t i = first; i < first + slots; ++i) {
    const uint64_t bit = uint64_t{1} << (i % 64);
    if (held) {
      held_[i / 64].fetch_or(bit, std::memory_order_relaxed);
    } else {
      held_[i / 64].fetch_and(~bit, std::memory_order_relaxed);
    }
  }
}

bool Link::HasRoomForLargest(const Limits& limits) const {
  const SizeClass& last = theirs_.classes().back();
  const uint64_t slots = (limits.message_bytes_max - 1) / last.slot_bytes + 1;
  const uint64_t wanted = std::min<uint64_t>(slots, last.count / 2);
  uint64_t length = 0;
  for (uint32_t i = 0; i < last.count && length < wanted;) {
    const uint64_t held = held_[i / 64].load(std::memory_order_relaxed) >> (i % 64);
    const auto free = static_cast<uint32_t>(std::countr_zero(held));
    if (held == 0) {
      const uint32_t rest = std::min(64 - i % 64, last.count - i);
      length += rest;
      i += rest;
    } else if (length += free; length < wanted) {
      length = 0;
      i += free + static_cast<uint32_t>(std::countr_one(held >> free));
    }
  }
  return length >= wanted;
}

bool Link::Keep(const Descriptor& piece, const Limits& limits) {
  const uint32_t slots = SlotsOf(piece);
  const uint32_t kept = kept_[piece.size_class].fetch_add(slots, std::memory_order_relaxed);
  const std::span<const SizeClass> classes = theirs_.classes();
  const uint32_t count = classes[piece.size_class].count;
  // What finds no slot of its class takes one of a larger. Of the last class one stays free, also
  // if it is the only one.
  const bool last = piece.size_class + 1u == classes.size();
  const uint32_t most = last ? count / 2 : (count + 1) / 2;
  if (last && trusted_) {
    if (held_ == nullptr) held_ = std::make_unique<std::atomic<uint64_t>[]>((count + 63) / 64);
    MarkHeld(piece.slot, slots, true);
  }
  return trusted_ && kept + slots <= most && (!last || HasRoomForLargest(limits));
}

}  // namespace mi7::transport::shm
