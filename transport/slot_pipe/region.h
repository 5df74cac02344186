#pragma once

// Region: where the parts of a mapped slot pipe are. See layout.h for the drawing.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "transport/slot_pipe/layout.h"

namespace mi7::slot_pipe_internal {

// A view; the memory is its user's. Indices are the caller's to check.
class Region {
 public:
  Region(void* base, const Layout& layout)
      : base_(static_cast<std::byte*>(base)),
        layout_(layout),
        words_(At<SharedWords>(kSharedWordsOffset)),
        cells_(At<Atomic<uint64_t>>(layout.cells_offset)),
        slots_(base_ + layout.slots_offset) {}

  const Layout& layout() const { return layout_; }
  const Geometry& geometry() const { return layout_.geometry; }

  SharedWords& words() const { return *words_; }
  Atomic<uint64_t>& hint(uint32_t word) const { return At<Atomic<uint64_t>>(kHintsOffset)[word]; }
  Atomic<uint64_t>& hint_summary(uint32_t word) const { return words_->hint_summary[word]; }
  ParticipantEntry& participant(uint32_t index) const {
    return At<ParticipantEntry>(layout_.participants_offset)[index];
  }
  Atomic<uint64_t>& cell(uint64_t position) const { return cells_[position & (layout_.cells - 1)]; }
  // The lap in which `position` is filled.
  uint32_t lap(uint64_t position) const {
    return static_cast<uint32_t>(position >> layout_.cells_log2) & CellWord::kLapMask;
  }
  SlotHeader& slot(uint32_t index) const {
    return *reinterpret_cast<SlotHeader*>(slots_ + index * layout_.slot_stride);
  }
  std::byte* payload(uint32_t index) const {
    return slots_ + index * layout_.slot_stride + sizeof(SlotHeader);
  }

 private:
  template <typename T>
  T* At(uint64_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

  std::byte* base_;
  Layout layout_;
  SharedWords* words_;
  Atomic<uint64_t>* cells_;
  std::byte* slots_;
};

}  // namespace mi7::slot_pipe_internal
