#pragma once

// Protocol: what one participant does to the shared words of a slot pipe. The steps are those of
// the model in model/slot_pipe.pml, in its order; nothing here waits, wakes or allocates (Sweep
// aside). docs/SLOT_PIPE.md explains; this is where each memory order has its reason. What finds
// one that is too weak, and which none does, is there, too.
//
// Words and their happens-before, all of which the code below relies on:
//
//  W1  A cell is filled by a compare-and-swap that releases, after its slot's word became WRITING
//  or
//      REQUEUE of that cycle, and read with acquire. So who sees a full cell reads that state of
//      the slot or a later one, never an earlier one, and the payload with it. A slot that then
//      cannot be fetched with the cell's tag has been fetched already: the cell is stale.
//  W2  A cell is cleared, by a compare-and-swap that releases, after the slot's word was changed by
//      the fetch. A sweep that reads the cleared cell (acquire) and takes the message for unsent
//      therefore fails to change the slot's word, because its compare-and-swap comes after the
//      fetch's in the word's own order.
//  W3  Emptying a slot releases and holding it acquires: what the last reader read, it had read
//      before the next writer writes.
//  W4  head and tail move by compare-and-swap, one at a time, after the cell that they leave
//      has changed. Release and acquire: who sees the new position sees that cell changed, so a
//      cell that lags behind the position it was found through is damage, not delay.
//  W5  Death orders everything: a sweep holds the dead one's lock, which the system frees after the
//      last instruction of the dead one.
//
// Why a stale cell cannot be taken for a new one: between reading a cell and reading its slot's
// word, the cell may have left the ring and the slot have come round. So the cell is read again;
// when it is unchanged (its lap wraps after 2^25 rounds of the ring), it was in the ring when the
// word was read, and the tag cannot have come round (words.h).

#include <atomic>
#include <cstdint>

#include "transport/slot_pipe/free_hints.h"
#include "transport/slot_pipe/region.h"

namespace mi7::slot_pipe_internal {

// A slot that is ours, with the word that makes it so.
struct Claim {
  uint32_t slot = 0;
  SlotWord word;
};

// What became of a step.
enum class Outcome {
  kDone,
  kNothing,     // no empty slot to hold, or no message to fetch
  kWrongState,  // the claim does not (or no longer) hold: nothing was changed
  kRingFull,  // duplicates of many deaths fill the ring until somebody fetches: nothing was changed
  kCorrupt,   // the shared memory contradicts itself
};

// What a sweep found.
struct Swept {
  uint32_t committed = 0;      // messages that were sent but not marked so
  uint32_t emptied = 0;        // slots that were held
  uint32_t requeued = 0;       // messages that were being read
  uint32_t dead_lettered = 0;  // of those, fetched too often, or dead letters before
  bool complete = false;       // nothing is owned by the dead one any more
};

// Thread-safe: any number of threads of the participant.
class Protocol {
 public:
  Protocol(const Region& region, uint16_t me);

  uint16_t me() const { return me_; }
  const Region& region() const { return region_; }
  FreeHints& hints() { return hints_; }

  // EMPTY -> WRITING(me). kDone, kNothing.
  Outcome Hold(Claim& claim);
  // Fills a cell (the commit point), then WRITING -> READY. kDone, kWrongState, kRingFull,
  // kCorrupt.
  Outcome Send(const Claim& claim);
  // WRITING -> EMPTY. kDone, kWrongState.
  Outcome GiveBack(const Claim& claim);
  // The oldest message: READY -> READING(me), then clears its cell. kDone, kNothing, kCorrupt.
  Outcome Fetch(Claim& claim);
  // READING, of a dead letter or not, -> EMPTY: the consume commit. kDone, kWrongState.
  Outcome Release(const Claim& claim);
  // READING -> REQUEUE -> a new cell -> READY, as if fetched `attempts` times; or a dead letter
  // when that is too often. What was a dead letter is one again.
  // kDone, kWrongState, kRingFull, kCorrupt: it is READING as before.
  Outcome Return(const Claim& claim, uint32_t attempts);
  // The same as if it had never been fetched, and of a dead letter, too: a message again.
  Outcome Redrive(const Claim& claim);
  // READING -> DEAD_LETTER. kDone, kWrongState.
  Outcome Bury(const Claim& claim);
  // DEAD_LETTER -> READING_DEAD_LETTER(me), looking from slot `from` on. kDone, kNothing.
  Outcome FetchDeadLetter(uint32_t from, Claim& claim);

  // Whether there may be a message to fetch: a look at the head. As Fetch, for who has declared
  // itself a sleeper (event.h).
  bool MayFetch() const;
  // Whether there may be an empty slot: a look at the hints. The same.
  bool MayHold() const { return hints_.Any(); }

  // Undoes or completes whatever participant `dead` was at. The caller excludes every other sweep
  // of it, and that it lives: by its lock, or by being it. Idempotent: one that died half way is
  // followed by another. O(slots + cells).
  Swept Sweep(uint16_t dead);

  // How many slots and words of hints the last Hold of this object looked at; of some thread, if
  // there are several.
  // Relaxed, as its store, and both of the next: a count for tests that orders nothing.
  uint32_t last_hold_probes() const { return last_hold_probes_.load(std::memory_order_relaxed); }
  // How many cells all fetches of this object have looked at beyond the first of each.
  uint64_t extra_fetch_probes() const {
    return extra_fetch_probes_.load(std::memory_order_relaxed);
  }

 private:
  bool Take(uint32_t slot, Claim& claim);
  Outcome Push(uint32_t slot, uint32_t tag);
  bool ClearStaleHead();
  void ClearCell(uint64_t position, CellWord cell);
  void Advance(Atomic<uint64_t>& hint, uint64_t from);
  bool Change(uint32_t slot, SlotWord from, SlotWord to);
  bool TooOften(uint32_t attempts) const {
    return region_.geometry().attempts_max != 0 && attempts >= region_.geometry().attempts_max;
  }
  // READING, of a dead letter or not, -> REQUEUE -> a new cell -> READY.
  Outcome Requeue(const Claim& claim, uint32_t attempts);
  // `word`: REQUEUE of that slot.
  Outcome PushRequeued(uint32_t slot, SlotWord word);
  // Asks for a slot's memory, to be written, before it is needed.
  void Expect(uint32_t slot) const;
  void ExpectNextHold() const;
  void SettleWriting(uint16_t dead, Swept& swept);

  Region region_;
  FreeHints hints_;
  const uint16_t me_;

  // Where to look first; hints of this participant alone, torn by nothing worse than a longer look.
  std::atomic<uint32_t> reuse_;
  std::atomic<uint32_t> cursor_;
  std::atomic<uint32_t> window_;
  std::atomic<uint32_t> streak_{0};
  std::atomic<uint32_t> scan_{0};
  uint32_t base_;
  std::atomic<uint32_t> last_hold_probes_{0};
  // Written when the first look was not enough only: a fetch that finds its message writes nothing
  // here.
  std::atomic<uint64_t> extra_fetch_probes_{0};
};

}  // namespace mi7::slot_pipe_internal
