#pragma once

// FreeHints: where an empty slot may be, in O(1) expected at any number of slots.
//
// One bit a slot ("perhaps empty") in up to 256 words, and one bit a word in up to 4 words of
// summary. They are hints: whether a slot is empty is decided by its word alone. A bit that is set
// for a slot in use costs a look; a slot whose bit is missing is hidden until somebody repairs it.
// A participant can hide slots only in the middle of Set or Clear: at most one slot of its own
// making, or the 64 of one word of which it just clears the summary. Recovery repairs (Repair) what
// a dead one left; waiting threads repair now and then, so that a stopped one delays nobody for
// long; and Scan finds hidden ones a few at each failed attempt.
//
// Bits are set lazily: a slot that is held through another way than its bit keeps it, so in the
// steady state nobody writes here and the lines stay in everybody's cache.
//
// Memory ordering. Set and Clear are Dekker's: who empties a slot writes its word (E1), then reads
// the bit and sets it if it is clear (E2); who clears a bit writes it (C1), then reads the slot's
// word (C2). All four are sequentially consistent, so either E2 sees C1 and sets the bit again, or
// C2 sees E1 and does. The same holds between a word of bits and its summary.

#include <cstdint>

#include "transport/slot_pipe/region.h"

namespace mi7::slot_pipe_internal {

// Thread-safe, across processes.
class FreeHints {
 public:
  explicit FreeHints(const Region& region) : region_(region) {}

  // All slots may be empty. Before the pipe has its name.
  void SetAll();

  // After `slot` was emptied (E1).
  void Set(uint32_t slot) {
    Atomic<uint64_t>& word = region_.hint(slot / 64);
    const uint64_t bit = uint64_t{1} << (slot % 64);
    if ((word.load(std::memory_order_seq_cst) & bit) == 0) {  // E2
      word.fetch_or(bit, std::memory_order_seq_cst);
    }
    SetSummary(slot / 64);
  }

  // Calls `take(slot)` with slots that may be empty until it returns true, and clears the bits of
  // those that it refuses. False when no bit is left: then each word was looked at, one for 64
  // slots. `spread` makes different callers begin at different slots. Adds the words that it looks
  // at to `words`.
  template <typename Take>
  bool Find(uint32_t spread, uint32_t& words, Take take) {
    // Everybody may set bits meanwhile; what is bounded is our own work.
    uint32_t budget = 4 * region_.geometry().slots + 64;
    const uint32_t summaries = (region_.layout().hint_words + 63) / 64;
    for (uint32_t word = 0; word < summaries; ++word) {
      uint64_t bits;
      while (++words, (bits = region_.hint_summary(word).load(std::memory_order_seq_cst)) != 0) {
        const uint32_t leaf = word * 64 + Pick(bits, spread);
        if (budget == 0) return false;
        --budget;
        ++words;
        if (leaf >= region_.layout().hint_words) {
          ClearStray(leaf);
          continue;
        }
        if (FindInLeaf(leaf, spread, budget, take)) return true;
      }
    }
    // Nothing: unless a summary is hidden.
    for (uint32_t leaf = 0; leaf < region_.layout().hint_words; ++leaf) {
      ++words;
      if (region_.hint(leaf).load(std::memory_order_seq_cst) == 0) continue;
      SetSummary(leaf);
      if (FindInLeaf(leaf, spread, budget, take)) return true;
    }
    return false;
  }

  // Whether some bit seems to be set. Sequentially consistent for the sleepers (event.h).
  bool Any() const {
    for (uint32_t word = 0; word < (region_.layout().hint_words + 63) / 64; ++word) {
      if (region_.hint_summary(word).load(std::memory_order_seq_cst) != 0) return true;
    }
    return false;
  }

  // Sets the bit of every empty slot. O(slots).
  void Repair();

 private:
  static uint32_t Pick(uint64_t bits, uint32_t spread) {
    const uint32_t turn = spread % 64;
    const uint64_t turned = turn == 0 ? bits : bits >> turn | bits << (64 - turn);
    return (static_cast<uint32_t>(__builtin_ctzll(turned)) + turn) % 64;
  }

  template <typename Take>
  bool FindInLeaf(uint32_t leaf, uint32_t spread, uint32_t& budget, Take take) {
    uint64_t bits;
    while ((bits = region_.hint(leaf).load(std::memory_order_seq_cst)) != 0) {
      if (budget == 0) return false;
      --budget;
      const uint32_t slot = leaf * 64 + Pick(bits, spread);
      if (slot < region_.geometry().slots && take(slot)) return true;
      Clear(slot);
    }
    ClearSummary(leaf);
    return false;
  }

  void SetSummary(uint32_t leaf) {
    Atomic<uint64_t>& word = region_.hint_summary(leaf / 64);
    const uint64_t bit = uint64_t{1} << (leaf % 64);
    if ((word.load(std::memory_order_seq_cst) & bit) == 0) {
      word.fetch_or(bit, std::memory_order_seq_cst);
    }
  }
  void Clear(uint32_t slot);
  void ClearSummary(uint32_t leaf);
  // Of a word that there is not: somebody has scribbled.
  void ClearStray(uint32_t leaf);

  Region region_;
};

}  // namespace mi7::slot_pipe_internal
