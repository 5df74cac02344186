#include "transport/shm/slot_segments.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/container/inlined_vector.h"
#include "base/check.h"
#include "base/object_pool.h"

namespace mi7::transport::shm {
namespace {

constexpr size_t kWordBytes = sizeof(capnp::word);

}  // namespace

FurtherSegments* SlotPool::NewFurtherSegments() { return ObjectPool<SlotSegments>::New(*this); }

SlotSegments* SlotSegments::Of(MessageBody& message, const SlotPool& pool) {
  FurtherSegments* const segments = message.further_segments();
  if (segments == nullptr || segments->source() != &pool) return nullptr;
  auto* const own = static_cast<SlotSegments*>(segments);  // a pool makes no others
  return own->count_ != 0 ? own : nullptr;
}

kj::ArrayPtr<capnp::word> SlotSegments::Allocate(size_t minimum_bytes, size_t better_bytes,
                                                 bool for_overwrite) {
  const uint64_t hint_bytes =
      for_overwrite ? minimum_bytes : std::min<uint64_t>(better_bytes, kGrowthBytesMax);
  const Slot slot = pool_.Take(minimum_bytes, hint_bytes, false, /*refused=*/nullptr,
                               /*keeper=*/this, /*zeroed=*/!for_overwrite);
  if (!slot) return nullptr;
  if (count_ == few_.size()) more_.assign(few_.begin(), few_.end());
  if (count_ < few_.size()) {
    std::construct_at(&few_[count_], slot);
  } else {
    more_.push_back(slot);
  }
  ++count_;
  auto* const words = reinterpret_cast<capnp::word*>(slot.data);
  if (!for_overwrite) return {words, slot.bytes / kWordBytes};
  // Nothing else comes to lie there.
  const size_t count = minimum_bytes / kWordBytes;
  std::memset(words + count - 1, 0, kWordBytes);
  return {words, count};
}

template <typename Visit>
void SlotSegments::ForEach(kj::ArrayPtr<const IncomingMessage::Segment> segments, Visit visit) {
  const std::span<const Slot> all = slots();
  size_t next = 0;
  for (const auto& segment : segments) {
    if (next == all.size()) break;
    if (reinterpret_cast<const std::byte*>(segment.begin()) != all[next].data) continue;
    visit(all[next++], segment.size() * kWordBytes);
  }
  MI7_CHECK(next == all.size(), "Cap'n Proto uses the segments it asked for, in order");
}

void SlotSegments::MarkSent(kj::ArrayPtr<const IncomingMessage::Segment> segments, bool keep) {
  ForEach(segments, [&](const Slot& slot, uint64_t bytes) { pool_.Sent(slot, bytes, keep); });
  sent_ = true;
  kept_ = keep;
}

void SlotSegments::GiveUp(kj::ArrayPtr<const IncomingMessage::Segment> segments) {
  ForEach(segments, [this](const Slot& slot, uint64_t bytes) { pool_.GiveUp(slot, bytes); });
  sent_ = true;
  kept_ = true;
}

bool SlotSegments::WhileKept(
    kj::ArrayPtr<const IncomingMessage::Segment> segments,
    absl::FunctionRef<void(kj::ArrayPtr<const IncomingMessage::Segment>)> read) {
  return pool_.WhileKept(slots(), this, [&](std::span<const std::byte* const> where) {
    absl::InlinedVector<IncomingMessage::Segment, 4> found(segments.begin(), segments.end());
    size_t next = 0;
    for (auto& segment : found) {
      if (next == where.size()) break;
      if (reinterpret_cast<const std::byte*>(segment.begin()) != slots()[next].data) continue;
      segment = {reinterpret_cast<const capnp::word*>(where[next++]), segment.size()};
    }
    read(kj::arrayPtr(found.data(), found.size()));
  });
}

void SlotSegments::Return(kj::ArrayPtr<const IncomingMessage::Segment> segments) {
  if (kept_) {
    for (size_t i = slots().size(); i-- > 0;) pool_.LetGo(slots()[i], this);
    return;
  }
  if (sent_) return;
  ForEach(segments, [this](const Slot& slot, uint64_t bytes) { pool_.Return(slot, bytes); });
}

void SlotSegments::Drop(kj::ArrayPtr<const IncomingMessage::Segment> segments) {
  Return(segments);
  ObjectPool<SlotSegments>::Delete(this);
}

}  // namespace mi7::transport::shm
