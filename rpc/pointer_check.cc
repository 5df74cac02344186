#include "rpc/pointer_check.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace mi7 {
namespace {

enum Kind : uint32_t { kStruct = 0, kList = 1 };
enum ElementSize : uint32_t { kVoid = 0, kBit = 1, kPointer = 6, kInlineComposite = 7 };

// Of the elements that are neither nothing nor bits nor composite.
constexpr uint64_t kElementBits[] = {0, 1, 8, 16, 32, 64, 64};

// Pointers that were found and not looked at yet: `groups` times `count` of them, the groups
// `stride` words apart.
struct Pending {
  uint64_t first;
  uint64_t count;
  uint64_t stride;
  uint64_t groups;
  uint32_t depth;  // of what they point to
};

class Walk {
 public:
  Walk(const capnp::word* words, uint64_t size, uint32_t nesting_max)
      : words_(words), size_(size), words_left_(size - 1), nesting_max_(nesting_max) {}

  bool Run() {
    if (!Push({.first = 0, .count = 1, .stride = 1, .groups = 1, .depth = 1})) return false;
    while (pending_count_ != 0) {
      const Pending at = pending_[--pending_count_];
      for (uint64_t group = 0; group < at.groups; ++group) {
        for (uint64_t i = 0; i < at.count; ++i) {
          if (!Follow(at.first + group * at.stride + i, at.depth)) return false;
        }
      }
    }
    return true;
  }

 private:
  uint64_t Load(uint64_t index) const {
    uint64_t word;
    std::memcpy(&word, words_ + index, sizeof(word));
    return word;
  }

  bool Push(const Pending& found) {
    const uint64_t pointers = found.count * found.groups;  // both below 2^30
    if (pointers == 0) return true;
    if (pointers > pointers_left_ || found.depth > nesting_max_) return false;
    pointers_left_ -= static_cast<uint32_t>(pointers);
    pending_[pending_count_++] = found;  // each has a pointer at least, so there is room
    return true;
  }

  // Whether `words` words at `place` are in the segment, and not more than are left.
  bool Take(int64_t place, uint64_t words) {
    if (place < 0 || static_cast<uint64_t>(place) > size_) return false;
    if (words > size_ - static_cast<uint64_t>(place) || words > words_left_) return false;
    words_left_ -= words;
    return true;
  }

  bool Follow(uint64_t index, uint32_t depth) {
    const uint64_t pointer = Load(index);
    if (pointer == 0) return true;
    const int64_t place = static_cast<int64_t>(index) + 1 +
                          (static_cast<int32_t>(static_cast<uint32_t>(pointer)) >> 2);
    switch (pointer & 3) {
      case kStruct: {
        const uint64_t data = pointer >> 32 & 0xffff;
        const uint64_t pointers = pointer >> 48;
        return Take(place, data + pointers) && Push({.first = static_cast<uint64_t>(place) + data,
                                                     .count = pointers,
                                                     .stride = 0,
                                                     .groups = 1,
                                                     .depth = depth + 1});
      }
      case kList:
        return FollowList(place, pointer >> 32 & 7, pointer >> 35, depth);
      default:
        return false;
    }
  }

  bool FollowList(int64_t place, uint64_t element_size, uint64_t count, uint32_t depth) {
    // An element is a level of its own for whoever reads it as a struct, whatever it is.
    if (depth + 1 > nesting_max_) return false;
    if (element_size == kInlineComposite) return FollowComposite(place, count, depth);
    if (element_size == kVoid) return count == 0 && Take(place, 0);
    if (!Take(place, (count * kElementBits[element_size] + 63) / 64)) return false;
    return element_size != kPointer || Push({.first = static_cast<uint64_t>(place),
                                             .count = count,
                                             .stride = 0,
                                             .groups = 1,
                                             .depth = depth + 2});
  }

  // `words`: of the elements, without the tag that stands before them.
  bool FollowComposite(int64_t place, uint64_t words, uint32_t depth) {
    if (!Take(place, words + 1)) return false;
    const uint64_t tag = Load(static_cast<uint64_t>(place));
    if ((tag & 3) != kStruct) return false;
    const uint64_t elements = static_cast<uint32_t>(tag) >> 2;
    const uint64_t data = tag >> 32 & 0xffff;
    const uint64_t pointers = tag >> 48;
    const uint64_t stride = data + pointers;
    if (stride == 0 ? elements != 0 : elements * stride > words) return false;
    return Push({.first = static_cast<uint64_t>(place) + 1 + data,
                 .count = pointers,
                 .stride = stride,
                 .groups = elements,
                 .depth = depth + 2});
  }

  const capnp::word* const words_;
  const uint64_t size_;
  uint64_t words_left_;
  const uint32_t nesting_max_;
  uint32_t pointers_left_ = kCheckedPointersMax;
  uint32_t pending_count_ = 0;
  std::array<Pending, kCheckedPointersMax> pending_;
};

bool MentionsAnyPointer(capnp::StructSchema schema, std::vector<capnp::Schema>& seen);

bool MentionsAnyPointer(capnp::Type type, std::vector<capnp::Schema>& seen) {
  while (type.isList()) type = type.asList().getElementType();
  if (type.isStruct()) return MentionsAnyPointer(type.asStruct(), seen);
  return type.isAnyPointer() || type.isInterface();
}

bool MentionsAnyPointer(capnp::StructSchema schema, std::vector<capnp::Schema>& seen) {
  constexpr size_t kSchemasMax = 1000;  // generic structs can lead to ever more of them
  if (std::find(seen.begin(), seen.end(), schema) != seen.end()) return false;
  if (seen.size() == kSchemasMax) return true;
  seen.push_back(schema);
  for (const auto field : schema.getFields()) {
    if (MentionsAnyPointer(field.getType(), seen)) return true;
  }
  return false;
}

}  // namespace

bool MentionsAnyPointer(capnp::StructSchema schema) {
  std::vector<capnp::Schema> seen;
  return MentionsAnyPointer(schema, seen);
}

bool PointersAreSound(kj::ArrayPtr<const capnp::word> segment, uint32_t nesting_max) {
  return segment.size() != 0 && Walk(segment.begin(), segment.size(), nesting_max).Run();
}

}  // namespace mi7
