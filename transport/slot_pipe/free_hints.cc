#include "transport/slot_pipe/free_hints.h"

namespace mi7::slot_pipe_internal {

void FreeHints::SetAll() {
  for (uint32_t slot = 0; slot < region_.geometry().slots; ++slot) Set(slot);
}

void FreeHints::Clear(uint32_t slot) {
  region_.hint(slot / 64).fetch_and(~(uint64_t{1} << (slot % 64)),
                                    std::memory_order_seq_cst);  // C1
  if (slot >= region_.geometry().slots) return;                  // scribbled upon: no such slot
  const SlotWord word(region_.slot(slot).word.load(std::memory_order_seq_cst));  // C2
  if (word.phase() == SlotPhase::kEmpty) Set(slot);
}

void FreeHints::ClearSummary(uint32_t leaf) {
  region_.hint_summary(leaf / 64).fetch_and(~(uint64_t{1} << (leaf % 64)),
                                            std::memory_order_seq_cst);
  if (region_.hint(leaf).load(std::memory_order_seq_cst) != 0) SetSummary(leaf);
}

void FreeHints::ClearStray(uint32_t leaf) {
  region_.hint_summary(leaf / 64).fetch_and(~(uint64_t{1} << (leaf % 64)),
                                            std::memory_order_seq_cst);
}

void FreeHints::Repair() {
  for (uint32_t slot = 0; slot < region_.geometry().slots; ++slot) {
    // Relaxed: what is emptied at this moment sets its own bit.
    const SlotWord word(region_.slot(slot).word.load(std::memory_order_relaxed));
    if (word.phase() == SlotPhase::kEmpty) Set(slot);
  }
}

}  // namespace mi7::slot_pipe_internal
