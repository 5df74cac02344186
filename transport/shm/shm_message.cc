#include "transport/shm/shm_message.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/object_pool.h"
#include "transport/for_overwrite.h"

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
  const uint64_t better =
      allocated_bytes_ == 0 ? hint_bytes_ : allocated_bytes_ - for_overwrite_bytes_;
  const bool for_overwrite = ForOverwrite::wanted();
  auto memory = slots_.Allocate(needed, better, for_overwrite);
  if (memory.size() == 0) {
    memory = private_segments_.Allocate(
        minimum_words, std::min(better, SlotSegments::kGrowthBytesMax), for_overwrite);
  }
  return Count(memory, for_overwrite);
}

void ShmMessage::Recycle() {
  if (LeaveToOther()) return;
  if (!slots_.slots().empty() || !private_segments_.empty()) {
    const auto segments = getSegmentsForOutput();
    private_segments_.Clear(segments);
    slots_.Return(segments);
  }
  ObjectPool<ShmMessage>::Delete(this);
}

}  // namespace mi7::transport::shm
