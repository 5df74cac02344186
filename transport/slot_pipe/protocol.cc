#include "transport/slot_pipe/protocol.h"

#include <algorithm>
#include <vector>

#include "base/prefetch.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr uint32_t kNoSlot = ~0u;
// Rounds of a loop that somebody else's progress makes us repeat. Reaching it takes longer than any
// delay of a scheduler: the memory is damaged.
constexpr uint32_t kRoundsMax = 1u << 22;
// A producer cycles through this many slots while that is enough: few enough to stay in its cache,
// many enough not to run after the consumer's cache lines.
constexpr uint32_t kWindowMin = 16;
constexpr uint32_t kStreakToShrink = 4096;
// A producer that holds slot after slot asks for the memory of the one so many after the next.
constexpr uint32_t kHoldAhead = 1;
// Slots that a failing Hold looks at itself, to find hidden ones (free_hints.h).
constexpr uint32_t kScanOnFailure = 8;

}  // namespace

Protocol::Protocol(const Region& region, uint16_t me)
    : region_(region),
      hints_(region),
      me_(me),
      reuse_(kNoSlot),
      window_(std::min(kWindowMin, region.geometry().slots)),
      // Participants begin apart from each other.
      base_(region.geometry().slots < 4 * kWindowMin
                ? 0
                : me * kWindowMin % (region.geometry().slots - kWindowMin)) {
  // Relaxed: no other thread has this object yet.
  cursor_.store(base_, std::memory_order_relaxed);
}

// A slot comes from another CPU's cache nearly always, its header and its payload in a line each.
// One after the other they would cost as much as all else together: a load and then a
// compare-and-swap of the header ask for its line twice, and the first write of the payload makes
// the compare-and-swap that follows wait for that line.
void Protocol::Expect(uint32_t slot) const {
  PrefetchForWriting(&region_.slot(slot));
  PrefetchForWriting(region_.payload(slot));
}

bool Protocol::Change(uint32_t slot, SlotWord from, SlotWord to) {
  uint64_t expected = from.bits();
  // Release: W1 and W3 for whoever sees the new word. Acquire: W3 for a slot that gets ours; and
  // what follows stays behind (W2). Sequentially consistent where a slot is emptied (E1 in
  // free_hints.h; the sleepers in event.h), which is not worth a second form.
  return region_.slot(slot).word.compare_exchange_strong(
      expected, to.bits(), std::memory_order_seq_cst, std::memory_order_relaxed);
}

void Protocol::Advance(Atomic<uint64_t>& hint, uint64_t from) {
  // W4. Failing means that somebody else has advanced it.
  hint.compare_exchange_strong(from, from + 1, std::memory_order_acq_rel,
                               std::memory_order_relaxed);
}

// Relaxed, all compare-and-swaps when they fail: what was found instead is not used, or read again.

// --- hold

bool Protocol::Take(uint32_t slot, Claim& claim) {
  // Relaxed: the compare-and-swap decides, and acquires.
  const SlotWord word(region_.slot(slot).word.load(std::memory_order_relaxed));
  if (word.phase() != SlotPhase::kEmpty) return false;
  const SlotWord writing = word.Writing(me_);
  if (!Change(slot, word, writing)) return false;
  claim = {slot, writing};
  return true;
}

Outcome Protocol::Hold(Claim& claim) {
  const uint32_t slots = region_.geometry().slots;
  uint32_t probes = 0;
  const auto take = [&](uint32_t slot) {
    ++probes;
    return Take(slot, claim);
  };
  const auto done = [&](Outcome outcome) {
    last_hold_probes_.store(probes, std::memory_order_relaxed);  // a count
    return outcome;
  };

  // Relaxed, all of reuse_, cursor_, window_, streak_ and scan_: they say where to look first, Take
  // decides, and threads that overwrite each other's look a little longer.
  //
  // The slot that this participant has emptied last is the warmest.
  const uint32_t reuse = reuse_.load(std::memory_order_relaxed);
  if (reuse != kNoSlot) {
    reuse_.store(kNoSlot, std::memory_order_relaxed);
    if (reuse < slots && take(reuse)) return done(Outcome::kDone);
  }

  const uint32_t slot = cursor_.load(std::memory_order_relaxed);
  const uint32_t window = window_.load(std::memory_order_relaxed);
  const uint32_t end = std::min(base_ + window, slots);
  cursor_.store(slot + 1 < end ? slot + 1 : (window >= slots ? 0 : base_),
                std::memory_order_relaxed);
  if (take(slot)) {
    const uint32_t streak = streak_.load(std::memory_order_relaxed) + 1;
    if (streak >= kStreakToShrink) {
      window_.store(std::max(std::min(kWindowMin, slots), window / 2), std::memory_order_relaxed);
    }
    streak_.store(streak >= kStreakToShrink ? 0 : streak, std::memory_order_relaxed);
    return done(Outcome::kDone);
  }
  // More slots are in use than the window has.
  window_.store(std::min(2 * window, slots), std::memory_order_relaxed);
  streak_.store(0, std::memory_order_relaxed);
  if (hints_.Find(me_, probes, take)) return done(Outcome::kDone);

  for (uint32_t i = 0; i < std::min(kScanOnFailure, slots); ++i) {
    const uint32_t hidden = scan_.fetch_add(1, std::memory_order_relaxed) % slots;
    if (take(hidden)) return done(Outcome::kDone);
  }
  return done(Outcome::kNothing);
}

void Protocol::ExpectNextHold() const {
  const uint32_t slot = cursor_.load(std::memory_order_relaxed) + kHoldAhead;
  const uint32_t end =
      std::min(base_ + window_.load(std::memory_order_relaxed), region_.geometry().slots);
  Expect(slot < end ? slot : base_);
}

Outcome Protocol::GiveBack(const Claim& claim) {
  if (claim.word.phase() != SlotPhase::kWriting ||
      !Change(claim.slot, claim.word, claim.word.GivenBack())) {
    return Outcome::kWrongState;
  }
  hints_.Set(claim.slot);
  reuse_.store(claim.slot, std::memory_order_relaxed);
  return Outcome::kDone;
}

// --- send

Outcome Protocol::Push(uint32_t slot, uint32_t tag) {
  Atomic<uint64_t>& tail = region_.words().tail;
  for (uint32_t round = 0; round < kRoundsMax; ++round) {
    const uint64_t t = tail.load(std::memory_order_acquire);  // W4
    Atomic<uint64_t>& word = region_.cell(t);
    const CellWord cell(word.load(std::memory_order_acquire));  // W4: before tail is read again
    const uint32_t lap = region_.lap(t);
    const int32_t ahead = cell.LapsAhead(lap);
    if (ahead == 0 && !cell.full()) {
      uint64_t expected = cell.bits();
      // The commit point. Sequentially consistent for the sleepers (event.h); releases (W1).
      if (word.compare_exchange_strong(expected, CellWord::Full(slot, tag, lap).bits(),
                                       std::memory_order_seq_cst, std::memory_order_relaxed)) {
        Advance(tail, t);
        return Outcome::kDone;
      }
    } else if (ahead >= 0) {
      Advance(tail, t);  // filled by somebody who has not come to that yet
    } else if (tail.load(std::memory_order_acquire) == t) {
      // The cell still has the message of the lap before. Anything older is damage (W4).
      if (ahead != -1 || !cell.full()) return Outcome::kCorrupt;
      if (!ClearStaleHead()) return Outcome::kRingFull;
    }
  }
  return Outcome::kCorrupt;
}

Outcome Protocol::Send(const Claim& claim) {
  // A claim that was used before would put a second cell into the ring: harmless, but a mistake of
  // the caller that it should hear of. Relaxed: nobody but us changes a slot that we write in.
  if (claim.word.phase() != SlotPhase::kWriting ||
      region_.slot(claim.slot).word.load(std::memory_order_relaxed) != claim.word.bits()) {
    return Outcome::kWrongState;
  }
  const Outcome pushed = Push(claim.slot, claim.word.tag());
  if (pushed != Outcome::kDone) return pushed;
  // Cosmetic: whoever fetched meanwhile has taken it from WRITING.
  Change(claim.slot, claim.word, claim.word.Ready());
  ExpectNextHold();
  return Outcome::kDone;
}

// --- fetch

void Protocol::ClearCell(uint64_t position, CellWord cell) {
  uint64_t expected = cell.bits();
  // Release: W2. Acquire keeps what follows, head's step, behind it (W4).
  region_.cell(position).compare_exchange_strong(
      expected, cell.Cleared().bits(), std::memory_order_acq_rel, std::memory_order_relaxed);
}

bool Protocol::ClearStaleHead() {
  // Each acquires for the reason that it has in Fetch: head W4, the cell W1, the slot's word so
  // that the cell is read again after it.
  const uint64_t h = region_.words().head.load(std::memory_order_acquire);
  const CellWord cell(region_.cell(h).load(std::memory_order_acquire));
  const int32_t ahead = cell.LapsAhead(region_.lap(h));
  if (ahead > 0) {
    Advance(region_.words().head, h);
    return true;
  }
  // Something was cleared if head has moved; else there is damage (W4), which a fetch tells.
  if (ahead < 0) return region_.words().head.load(std::memory_order_acquire) != h;
  if (!cell.full() || cell.slot() >= region_.geometry().slots) return false;
  const SlotWord word(region_.slot(cell.slot()).word.load(std::memory_order_acquire));
  if (region_.cell(h).load(std::memory_order_acquire) != cell.bits()) return true;
  if (word.tag() == cell.tag() && word.Fetchable()) return false;
  ClearCell(h, cell);
  Advance(region_.words().head, h);
  return true;
}

Outcome Protocol::Fetch(Claim& claim) {
  Atomic<uint64_t>& head = region_.words().head;
  for (uint32_t round = 0; round < kRoundsMax; ++round) {
    if (round != 0) extra_fetch_probes_.fetch_add(1, std::memory_order_relaxed);  // a count
    const uint64_t h = head.load(std::memory_order_acquire);                      // W4
    // Sequentially consistent: a sleeper looks here after it has declared itself (event.h).
    const CellWord cell(region_.cell(h).load(std::memory_order_seq_cst));  // W1
    const int32_t ahead = cell.LapsAhead(region_.lap(h));
    if (ahead > 0) {
      Advance(head, h);  // cleared by somebody who has not come to that yet
      continue;
    }
    if (ahead < 0) {
      // W4: damage, unless head has gone so far meanwhile that the cell's lap is taken for an older
      // one. So head is read again, as Push does with tail.
      if (head.load(std::memory_order_acquire) != h) continue;
      return Outcome::kCorrupt;
    }
    if (!cell.full()) return Outcome::kNothing;
    const uint32_t slot = cell.slot();
    if (slot >= region_.geometry().slots) return Outcome::kCorrupt;
    Expect(slot);
    // Acquire: the cell is read again after it, as the end of protocol.h's first comment needs.
    const SlotWord word(region_.slot(slot).word.load(std::memory_order_acquire));
    if (region_.cell(h).load(std::memory_order_acquire) != cell.bits()) continue;
    bool got = false;
    if (word.tag() == cell.tag() && word.Fetchable()) {
      const SlotWord reading = word.Reading(me_);
      // The slot has changed under us: what its cell means is to be found out anew.
      if (!Change(slot, word, reading)) continue;
      claim = {slot, reading};
      got = true;
    } else if (!word.sound()) {
      return Outcome::kCorrupt;
    }
    ClearCell(h, cell);
    Advance(head, h);
    if (got) return Outcome::kDone;
  }
  return Outcome::kCorrupt;
}

bool Protocol::MayFetch() const {
  const uint64_t h = region_.words().head.load(std::memory_order_acquire);  // W4, as in Fetch
  const CellWord cell(region_.cell(h).load(std::memory_order_seq_cst));
  return cell.full() || cell.LapsAhead(region_.lap(h)) > 0;
}

Outcome Protocol::FetchDeadLetter(uint32_t from, Claim& claim) {
  // Acquire is more than the look needs; Change acquires the payload.
  for (uint32_t slot = from; slot < region_.geometry().slots; ++slot) {
    const SlotWord word(region_.slot(slot).word.load(std::memory_order_acquire));
    if (word.phase() != SlotPhase::kDeadLetter) continue;
    const SlotWord reading = word.ReadingDeadLetter(me_);
    if (!Change(slot, word, reading)) continue;
    claim = {slot, reading};
    return Outcome::kDone;
  }
  return Outcome::kNothing;
}

// --- release

Outcome Protocol::Release(const Claim& claim) {
  const SlotWord consumed = claim.word.Consumed();
  if (!claim.word.BeingRead() || !Change(claim.slot, claim.word, consumed)) {
    return Outcome::kWrongState;
  }
  if (consumed.cycle() == 0) [[unlikely]]
    region_.words().cycles_wrapped.fetch_add(1, std::memory_order_relaxed);  // a count
  hints_.Set(claim.slot);
  reuse_.store(claim.slot, std::memory_order_relaxed);
  return Outcome::kDone;
}

Outcome Protocol::Bury(const Claim& claim) {
  if (!claim.word.BeingRead() || !Change(claim.slot, claim.word, claim.word.DeadLetter())) {
    return Outcome::kWrongState;
  }
  if (claim.word.phase() == SlotPhase::kReadingDeadLetter) return Outcome::kDone;  // counted before
  // Relaxed: a count.
  region_.words().dead_lettered.fetch_add(1, std::memory_order_relaxed);
  return Outcome::kDone;
}

Outcome Protocol::PushRequeued(uint32_t slot, SlotWord word) {
  // Always a new cell, even if there is one already: whoever has looked at that one while the
  // slot was being read takes it for stale and is about to clear it.
  const Outcome pushed = Push(slot, word.tag());
  if (pushed != Outcome::kDone) return pushed;
  Change(slot, word, word.Ready());
  region_.words().redelivered.fetch_add(1, std::memory_order_relaxed);  // a count
  return Outcome::kDone;
}

Outcome Protocol::Return(const Claim& claim, uint32_t attempts) {
  const bool dead_letter = claim.word.phase() == SlotPhase::kReadingDeadLetter;
  if (dead_letter || TooOften(attempts)) return Bury(claim);
  return Requeue(claim, attempts);
}

Outcome Protocol::Redrive(const Claim& claim) { return Requeue(claim, 0); }

Outcome Protocol::Requeue(const Claim& claim, uint32_t attempts) {
  if (!claim.word.BeingRead()) return Outcome::kWrongState;
  const SlotWord requeue = claim.word.Requeue(attempts);
  if (!Change(claim.slot, claim.word, requeue)) return Outcome::kWrongState;
  const Outcome pushed = PushRequeued(claim.slot, requeue);
  if (pushed != Outcome::kDone) {
    // Ours again; unless it was fetched through an older cell, which is what was asked for.
    if (!Change(claim.slot, requeue, claim.word)) return Outcome::kDone;
  }
  return pushed;
}

// --- sweep

void Protocol::SettleWriting(uint16_t dead, Swept& swept) {
  struct Held {
    uint32_t slot;
    SlotWord word;
    bool in_ring;
  };
  std::vector<Held> held;
  std::vector<uint32_t> place(region_.geometry().slots, kNoSlot);
  // Acquire: the cells are looked at after the words. W5 makes them those of the dead one's end.
  for (uint32_t slot = 0; slot < region_.geometry().slots; ++slot) {
    const SlotWord word(region_.slot(slot).word.load(std::memory_order_acquire));
    if (!word.OwnedBy(dead) || word.phase() != SlotPhase::kWriting) continue;
    place[slot] = static_cast<uint32_t>(held.size());
    held.push_back({slot, word, false});
  }
  if (held.empty()) return;
  // One look at each cell. A message that is fetched before its cell is looked at has changed its
  // slot's word before (W2), so that what is concluded here fails below.
  for (uint64_t position = 0; position < region_.layout().cells; ++position) {
    const CellWord cell(region_.cell(position).load(std::memory_order_acquire));
    if (!cell.full() || cell.slot() >= region_.geometry().slots) continue;
    const uint32_t index = place[cell.slot()];
    if (index != kNoSlot && held[index].word.tag() == cell.tag()) held[index].in_ring = true;
  }
  for (const Held& one : held) {
    if (one.in_ring) {
      if (Change(one.slot, one.word, one.word.Ready())) ++swept.committed;
    } else if (Change(one.slot, one.word, one.word.GivenBack())) {
      ++swept.emptied;
    }
  }
}

Swept Protocol::Sweep(uint16_t dead) {
  Swept swept;
  swept.complete = true;
  SettleWriting(dead, swept);
  for (uint32_t slot = 0; slot < region_.geometry().slots; ++slot) {
    // Acquire: a word that another sweep has changed shows what else it did before. W5 for all
    // else.
    SlotWord word(region_.slot(slot).word.load(std::memory_order_acquire));
    if (!word.OwnedBy(dead) || word.phase() == SlotPhase::kWriting) continue;
    if (word.phase() == SlotPhase::kReadingDeadLetter) {
      if (Change(slot, word, word.DeadLetter())) ++swept.dead_lettered;
      continue;
    }
    if (word.phase() == SlotPhase::kReading) {
      if (TooOften(word.attempts())) {
        if (Change(slot, word, word.DeadLetter())) {
          ++swept.dead_lettered;
          region_.words().dead_lettered.fetch_add(1, std::memory_order_relaxed);  // a count
        }
        continue;
      }
      // The dead one stays the owner, so that a sweep that dies here is followed by one of it.
      const SlotWord requeue = word.Requeue(word.attempts());
      if (!Change(slot, word, requeue)) continue;
      word = requeue;
    }
    if (PushRequeued(slot, word) == Outcome::kDone) {
      ++swept.requeued;
    } else {
      swept.complete = false;
    }
  }
  // What the dead one hid, and what was emptied above.
  hints_.Repair();
  return swept;
}

}  // namespace mi7::slot_pipe_internal
