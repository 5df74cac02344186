#pragma once

// Messages that are built in the slots of a connection's pool, where the peer reads them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/object_pool.h"
#include "transport/buffer_pool.h"
#include "transport/message.h"
#include "transport/shm/slot_pool.h"

namespace mi7::transport::shm {

// A message whose segments are slots, as long as there are free ones, and private memory otherwise,
// from which it is copied when it is sent. Allocates nothing on the heap once warm, up to four
// segments.
class ShmMessage final : public MessageBody {
 public:
  // Never fails. `bytes`: expected size of the body.
  static OutgoingMessage New(SlotPool& pool, size_t bytes);

  void SetExtra(std::span<const std::byte> bytes) override;
  std::span<const std::byte> extra() const override {
    return {extra_ ? extra_->data() : nullptr, extra_bytes_};
  }
  void Recycle() override;
  kj::ArrayPtr<capnp::word> allocateSegment(capnp::uint minimum_words) override;

  // Of `message`, when it is one of this pool's.
  static ShmMessage* Of(MessageBody& message, const SlotPool& pool);

  // The slots of the segments in their order; empty when a segment lies elsewhere (private memory,
  // or what the user brought along as an orphan).
  std::span<const Slot> SlotsOf(std::span<const IncomingMessage::Segment> segments) const;
  bool holds_slots() const { return slot_count_ != 0; }
  // The slots belong to the peer now: the message is recycled without returning them.
  void MarkSent(std::span<const IncomingMessage::Segment> segments);

 private:
  template <typename T>
  friend class mi7::ObjectPool;
  ShmMessage(SlotPool& pool, size_t hint_bytes) : pool_(pool), hint_bytes_(hint_bytes) {}
  ~ShmMessage() = default;

  SlotPool& pool_;
  const uint64_t hint_bytes_;
  uint64_t allocated_bytes_ = 0;
  uint32_t slot_count_ = 0;
  bool sent_ = false;
  std::array<Slot, 4> few_slots_;
  std::vector<Slot> more_slots_;  // all of them, when they are more
  std::vector<BufferRef> private_segments_;
  BufferRef extra_;
  size_t extra_bytes_ = 0;
};

}  // namespace mi7::transport::shm
