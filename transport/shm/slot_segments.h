#pragma once

// SlotSegments: the segments of one message that lie in slots of a connection's pool.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "transport/message.h"
#include "transport/shm/slot_pool.h"

namespace mi7::transport::shm {

// Allocates nothing on the heap for up to four segments. As thread-safe as the message.
class SlotSegments final : public FurtherSegments {
 public:
  // A further segment is as large as what there is already, up to this, so that the number of
  // segments grows with the logarithm of the size.
  static constexpr uint64_t kGrowthBytesMax = 16u << 20;

  explicit SlotSegments(SlotPool& pool) : pool_(pool) {}

  const SegmentSource* source() const override { return &pool_; }
  kj::ArrayPtr<capnp::word> Allocate(size_t minimum_bytes, size_t better_bytes,
                                     bool for_overwrite) override;
  void Drop(kj::ArrayPtr<const IncomingMessage::Segment> segments) override;
  void GiveUp(kj::ArrayPtr<const IncomingMessage::Segment> segments) override;
  bool WhileKept(
      kj::ArrayPtr<const IncomingMessage::Segment> segments,
      absl::FunctionRef<void(kj::ArrayPtr<const IncomingMessage::Segment>)> read) override;
  // As Drop, but of one that somebody else destroys.
  void Return(kj::ArrayPtr<const IncomingMessage::Segment> segments);

  // Of a message whose segments are in slots of `pool`; nullptr: it has none there.
  static SlotSegments* Of(MessageBody& message, const SlotPool& pool);

  std::span<const Slot> slots() const {
    return {count_ > few_.size() ? more_.data() : few_.data(), count_};
  }
  // The slots belong to the peer now. `keep`: and their content is kept until Return or Drop.
  void MarkSent(kj::ArrayPtr<const IncomingMessage::Segment> segments, bool keep);

 private:
  // Calls visit(slot, bytes in use) for each slot. Memory that is not ours may lie between
  // (Orphanage::referenceExternalData, private memory).
  template <typename Visit>
  void ForEach(kj::ArrayPtr<const IncomingMessage::Segment> segments, Visit visit);

  SlotPool& pool_;
  uint32_t count_ = 0;
  bool sent_ = false;  // or given up: ours no more
  bool kept_ = false;
  // The first four, if there are no more: as many as there are. Not cleared, as every message has
  // them.
  union {
    std::array<Slot, 4> few_;
  };
  std::vector<Slot> more_;  // all of them, when they are more
};

}  // namespace mi7::transport::shm
