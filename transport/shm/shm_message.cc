#include "transport/shm/shm_message.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/object_pool.h"

namespace mi7::transport::shm {
namespace {

constexpr size_t kWordBytes = sizeof(capnp::word);
// A further segment is as large as what there is already, up to this, so that the number of
// segments grows with the logarithm of the size.
constexpr uint64_t kGrowthBytesMax = 16u << 20;

}  // namespace

OutgoingMessage ShmMessage::New(SlotPool& pool, size_t bytes) {
  return OutgoingMessage(ObjectPool<ShmMessage>::New(pool, bytes + kWordBytes));
}

ShmMessage* ShmMessage::Of(MessageBody& message, const SlotPool& pool) {
  if (message.is_heap()) return nullptr;
  auto* const shm = dynamic_cast<ShmMessage*>(&message);
  return shm != nullptr && &shm->pool_ == &pool ? shm : nullptr;
}

void ShmMessage::SetExtra(std::span<const std::byte> bytes) {
  MI7_CHECK(bytes.size() % kWordBytes == 0, "an extra part is whole words");
  BufferRef block;
  if (!bytes.empty()) {
    block = BufferPool::Allocate(bytes.size());
    std::memcpy(block->data(), bytes.data(), bytes.size());
  }
  extra_ = std::move(block);  // only now: `bytes` may be the earlier extra part
  extra_bytes_ = bytes.size();
}

kj::ArrayPtr<capnp::word> ShmMessage::allocateSegment(capnp::uint minimum_words) {
  const uint64_t needed = uint64_t{minimum_words} * kWordBytes;
  const uint64_t better =
      allocated_bytes_ == 0 ? hint_bytes_ : std::min(allocated_bytes_, kGrowthBytesMax);
  if (Slot slot = pool_.Take(needed, better, false)) {
    allocated_bytes_ += slot.bytes;
    if (slot_count_ == few_slots_.size()) {
      more_slots_.assign(few_slots_.begin(), few_slots_.end());
    }
    if (slot_count_ < few_slots_.size()) {
      few_slots_[slot_count_] = slot;
    } else {
      more_slots_.push_back(slot);
    }
    ++slot_count_;
    return {reinterpret_cast<capnp::word*>(slot.data), slot.bytes / kWordBytes};
  }
  const uint64_t bytes = std::max(needed, std::min(better, kGrowthBytesMax));
  private_segments_.push_back(BufferPool::AllocateZeroed(BufferPool::kZeroedFrom + bytes));
  Buffer* const buffer = private_segments_.back().get();
  allocated_bytes_ += buffer->capacity() - BufferPool::kZeroedFrom;
  return {reinterpret_cast<capnp::word*>(buffer->data() + BufferPool::kZeroedFrom),
          (buffer->capacity() - BufferPool::kZeroedFrom) / kWordBytes};
}

std::span<const Slot> ShmMessage::SlotsOf(
    std::span<const IncomingMessage::Segment> segments) const {
  const std::span<const Slot> slots{
      slot_count_ > few_slots_.size() ? more_slots_.data() : few_slots_.data(), slot_count_};
  if (slots.size() != segments.size()) return {};
  for (size_t i = 0; i < slots.size(); ++i) {
    if (reinterpret_cast<const std::byte*>(segments[i].begin()) != slots[i].data) return {};
  }
  return slots;
}

void ShmMessage::MarkSent(std::span<const IncomingMessage::Segment> segments) {
  const std::span<const Slot> slots = SlotsOf(segments);
  for (size_t i = 0; i < slots.size(); ++i) {
    pool_.Sent(slots[i], segments[i].size() * kWordBytes);
  }
  sent_ = true;
}

void ShmMessage::Recycle() {
  // The segments in use come in the order of allocateSegment, but memory that is not ours may
  // stand between them (Orphanage::referenceExternalData).
  const std::span<const Slot> slots{
      slot_count_ > few_slots_.size() ? more_slots_.data() : few_slots_.data(), slot_count_};
  if (slot_count_ != 0 || !private_segments_.empty()) {
    const auto segments = getSegmentsForOutput();
    size_t slot = 0;
    size_t block = 0;
    for (const auto& segment : segments) {
      auto* const start = reinterpret_cast<std::byte*>(const_cast<capnp::word*>(segment.begin()));
      const uint64_t bytes = segment.size() * kWordBytes;
      if (slot < slots.size() && start == slots[slot].data) {
        if (!sent_) pool_.Return(slots[slot], bytes);
        ++slot;
      } else if (block < private_segments_.size() &&
                 start == private_segments_[block]->data() + BufferPool::kZeroedFrom) {
        BufferPool::Clear(start, bytes);
        ++block;
      }
    }
    MI7_CHECK(slot == slots.size() && block == private_segments_.size(),
              "Cap'n Proto uses the segments it asked for, in order");
  }
  ObjectPool<ShmMessage>::Delete(this);
}

}  // namespace mi7::transport::shm
