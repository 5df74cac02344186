#include "transport/shm/shm_message.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/object_pool.h"

namespace mi7::transport::shm {
namespace {

constexpr size_t kWordBytes = sizeof(capnp::word);

}  // namespace

OutgoingMessage ShmMessage::New(SlotPool& pool, size_t bytes) {
  return OutgoingMessage(ObjectPool<ShmMessage>::New(pool, bytes + kWordBytes));
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
  const uint64_t better = allocated_bytes_ == 0 ? hint_bytes_ : allocated_bytes_;
  const auto taken = slots_.Allocate(needed, better);
  if (taken.size() != 0) {
    allocated_bytes_ += taken.size() * kWordBytes;
    return taken;
  }
  const uint64_t bytes = std::max(needed, std::min(better, SlotSegments::kGrowthBytesMax));
  private_segments_.push_back(BufferPool::AllocateZeroed(BufferPool::kZeroedFrom + bytes));
  Buffer* const buffer = private_segments_.back().get();
  allocated_bytes_ += buffer->capacity() - BufferPool::kZeroedFrom;
  return {reinterpret_cast<capnp::word*>(buffer->data() + BufferPool::kZeroedFrom),
          (buffer->capacity() - BufferPool::kZeroedFrom) / kWordBytes};
}

void ShmMessage::Recycle() {
  if (LeaveToOther()) return;
  if (!slots_.slots().empty() || !private_segments_.empty()) {
    const auto segments = getSegmentsForOutput();
    size_t block = 0;
    for (const auto& segment : segments) {
      auto* const start = reinterpret_cast<std::byte*>(const_cast<capnp::word*>(segment.begin()));
      if (block < private_segments_.size() &&
          start == private_segments_[block]->data() + BufferPool::kZeroedFrom) {
        BufferPool::Clear(start, segment.size() * kWordBytes);
        ++block;
      }
    }
    MI7_CHECK(block == private_segments_.size(),
              "Cap'n Proto uses the segments it asked for, in order");
    slots_.Return(segments);
  }
  ObjectPool<ShmMessage>::Delete(this);
}

}  // namespace mi7::transport::shm
