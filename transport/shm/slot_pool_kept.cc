// SlotPool, continued: slots whose content is kept.

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "transport/copy_counter.h"
#include "transport/shm/slot_pool.h"

namespace mi7::transport::shm {
namespace {

constexpr uint64_t kWordBytes = 8;

}  // namespace

void SlotPool::Keep(const Slot& slot, uint64_t bytes) {
  ++to_let_go_;
  chunks_[slot.size_class].slots[slot.index].kept_words =
      static_cast<uint32_t>((bytes + kWordBytes - 1) / kWordBytes);
}

void SlotPool::OnlyKeep(SlotState& slot) {
  slot.only_kept = true;
  ++only_kept_;
}

void SlotPool::GiveUp(const Slot& slot, uint64_t dirty_bytes) {
  if (forked()) [[unlikely]]
    return;
  BiasedLock lock(&mutex_);
  Dirtied(slot, dirty_bytes);
  --taken_;
  Keep(slot, dirty_bytes);
  OnlyKeep(chunks_[slot.size_class].slots[slot.index]);
}

SlotPool::SlotState* SlotPool::KeptBy(const void* keeper, const Slot& slot) {
  Chunk& chunk = chunks_[slot.size_class];
  // Trim forgets the slots of a class that is idle.
  if (slot.index >= chunk.slots.size() || chunk.slots[slot.index].keeper != keeper) return nullptr;
  return &chunk.slots[slot.index];
}

void SlotPool::LetGo(const Slot& slot, const void* keeper) {
  if (forked()) [[unlikely]]
    return;
  bool last;
  Content content;  // is given back without the lock
  {
    BiasedLock lock(&mutex_);
    --to_let_go_;
    last = over();
    if (SlotState* const kept = KeptBy(keeper, slot); kept != nullptr) [[likely]] {
      kept->keeper = nullptr;
      // One that is busy is being moved out, and comes free after that.
      if (kept->only_kept && !kept->busy) {
        kept->only_kept = false;
        --only_kept_;
        Free(slot.size_class, slot.index);
      }
    } else if (const auto moved = moved_out_.find(KeyOf(keeper, slot.size_class, slot.index));
               moved != moved_out_.end()) {
      content = std::move(moved->second);
      moved_out_bytes_ -= content.bytes;
      moved_out_.erase(moved);
    }
  }
  if (last) delete this;
}

bool SlotPool::WhileKept(std::span<const Slot> slots, const void* keeper,
                         absl::FunctionRef<void(std::span<const std::byte* const>)> read) {
  absl::InlinedVector<const std::byte*, 4> where(slots.size());
  absl::InlinedVector<SlotState*, 4> in_place(slots.size());
  const auto look = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (size_t i = 0; i < slots.size(); ++i) {
      const Slot& slot = slots[i];
      in_place[i] = KeptBy(keeper, slot);
      if (in_place[i] != nullptr) {
        where[i] = slot.data;
        continue;
      }
      const auto moved = moved_out_.find(KeyOf(keeper, slot.size_class, slot.index));
      if (moved == moved_out_.end()) return false;
      where[i] = moved->second.memory->data();
    }
    return true;
  };
  {
    BiasedLock lock(&mutex_);
    for (;;) {
      if (!look()) return false;
      if (std::none_of(in_place.begin(), in_place.end(),
                       [](const SlotState* slot) { return slot != nullptr && slot->busy; })) {
        break;
      }
      AwaitBusy();
    }
    for (SlotState* const slot : in_place) {
      if (slot != nullptr) slot->busy = true;
    }
  }
  read(where);
  {
    BiasedLock lock(&mutex_);
    for (SlotState* const slot : in_place) {
      if (slot != nullptr) EndBusy(*slot);
    }
  }
  busy_ended_.notify_all();
  return true;
}

void SlotPool::EndBusy(SlotState& slot) {
  slot.busy = false;
  busy_ended_.fetch_add(1, std::memory_order_relaxed);
}

void SlotPool::AwaitBusy() {
  const uint32_t ended = busy_ended_.load(std::memory_order_relaxed);
  mutex_.Unlock();
  busy_ended_.wait(ended, std::memory_order_relaxed);
  mutex_.Lock();
}

SlotPool::Runs SlotPool::WhatIsInTheWay(uint64_t bytes, bool finished) {
  Runs found;
  size_t i = 0;
  while (i + 1 < chunks_.size() && chunks_[i].slot_bytes < bytes) ++i;
  const size_t end = finished ? chunks_.size() : std::min(i + 2, chunks_.size());
  for (; i < end; ++i) {
    const Chunk& chunk = chunks_[i];
    const uint64_t needed =
        std::max<uint64_t>(1, (bytes + chunk.slot_bytes - 1) / chunk.slot_bytes);
    // What lies next to each other and is free or only kept, up to as much as is needed. Of several
    // such places, the one from which the least has to be moved.
    std::vector<uint16_t> place;
    uint64_t least_words = UINT64_MAX;
    for (size_t at = 0; at < chunk.slots.size();
         at += chunk.slots[at].free ? 1 : chunk.slots[at].run) {
      const SlotState& slot = chunk.slots[at];
      if (slot.only_kept && slot.busy) found.any_busy = true;
      if (!slot.free && (!slot.only_kept || slot.busy)) {
        place.clear();
        continue;
      }
      place.push_back(static_cast<uint16_t>(at));
      const uint64_t slots_end = at + (slot.free ? 1 : slot.run);
      while (place.size() > 1 && slots_end - place[1] >= needed) place.erase(place.begin());
      if (slots_end - place[0] < needed) continue;
      std::vector<uint16_t> begins;
      uint64_t words = 0;
      for (const uint16_t begin : place) {
        if (chunk.slots[begin].free) continue;
        words += chunk.slots[begin].kept_words;
        begins.push_back(begin);
      }
      // None: free ones that the system has no memory for.
      if (begins.empty() || words >= least_words) continue;
      least_words = words;
      found.size_class = static_cast<uint32_t>(i);
      found.begins = std::move(begins);
    }
    if (!found.begins.empty()) break;
  }
  return found;
}

void SlotPool::MoveOut(const Runs& runs) {
  Chunk& chunk = chunks_[runs.size_class];
  const std::byte* const memory = chunk.memory.mapping.data();
  std::vector<Content> contents(runs.begins.size());
  std::vector<bool> moved(runs.begins.size());
  for (size_t i = 0; i < contents.size(); ++i) {
    SlotState& slot = chunk.slots[runs.begins[i]];
    const uint64_t bytes = slot.kept_words * kWordBytes;
    slot.busy = true;
    if (bytes > moved_out_bytes_max_ - moved_out_bytes_) {
      slot.keeper = nullptr;  // there is no room for it
      continue;
    }
    moved[i] = true;
    contents[i].bytes = bytes;
    moved_out_bytes_ += bytes;
  }
  mutex_.Unlock();
  // Nobody writes to them: the peer cannot, and they are not free.
  for (size_t i = 0; i < contents.size(); ++i) {
    const uint64_t bytes = contents[i].bytes;
    if (!moved[i]) continue;
    contents[i].memory = BufferPool::Allocate(bytes);
    std::memcpy(contents[i].memory->data(), memory + chunk.slot_bytes * runs.begins[i], bytes);
    copied_payload_bytes.fetch_add(bytes, std::memory_order_relaxed);
  }
  mutex_.Lock();
  for (size_t i = 0; i < contents.size(); ++i) {
    SlotState& slot = chunk.slots[runs.begins[i]];
    if (slot.keeper == nullptr) {
      moved_out_bytes_ -= contents[i].bytes;  // it was let go meanwhile
    } else {
      moved_out_.emplace(KeyOf(slot.keeper, runs.size_class, runs.begins[i]),
                         std::move(contents[i]));
    }
    EndBusy(slot);
    slot.only_kept = false;
    --only_kept_;
    Free(runs.size_class, runs.begins[i]);
  }
  busy_ended_.notify_all();
}

Slot SlotPool::TakeFromKept(uint64_t bytes, uint64_t hint_bytes, bool finished, bool zeroed,
                            absl::Status* refused) {
  for (;;) {
    const Runs runs = WhatIsInTheWay(bytes, finished);
    if (!runs.begins.empty()) {
      MoveOut(runs);
    } else if (runs.any_busy) {
      AwaitBusy();
    } else {
      return {};
    }
    absl::Status why;
    Slot slot = TakeFitting(bytes, hint_bytes, finished, zeroed, &why);
    if (refused != nullptr) *refused = why;
    if (slot || !why.ok()) return slot;
  }
}

}  // namespace mi7::transport::shm
