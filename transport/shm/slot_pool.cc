#include "transport/shm/slot_pool.h"

#include <fcntl.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"

namespace mi7::transport::shm {
namespace {

// Slots up to so many bytes are usable as a whole. Of a larger one a message gets what it asks for,
// rounded up to this, so that no more is committed than is needed.
constexpr uint64_t kWholeBytes = 64u << 10;

// From here on memory is cleared past the caches, which a call needs for better things.
constexpr uint64_t kUncachedBytes = 4u << 20;

void Clear(std::byte* data, uint64_t bytes) {
#if defined(__x86_64__)
  if (bytes >= kUncachedBytes) {
    // Slots are page-aligned, so only the end may be short of 16 bytes.
    const uint64_t whole = bytes / 16 * 16;
    const __m128i zero = _mm_setzero_si128();
    for (uint64_t i = 0; i < whole; i += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(data + i), zero);
    }
    _mm_sfence();
    data += whole;
    bytes -= whole;
  }
#endif
  ::memset(data, 0, bytes);
}

// Slots from this size on are cleared ahead, and those that had so much written to them are used
// two in turn.
constexpr uint64_t kAheadBytes = 64u << 10;
// What ClearAhead clears at a time, and how many of the slots that are taken next it looks at.
constexpr uint64_t kAheadStepBytes = 1u << 10;
constexpr size_t kAheadSlots = 4;

constexpr uint64_t RoundUp(uint64_t bytes, uint64_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

SlotPool::SlotPool(const ShmOptions& options, const Control& peer, bool trusted_peer,
                   std::function<void()> on_committed, std::function<void()> on_freed)
    : can_trim_(trusted_peer),
      moved_out_bytes_max_(options.kept_copies_bytes_max),
      peer_(&peer),
      on_committed_(std::move(on_committed)),
      on_freed_(std::move(on_freed)) {
  chunks_.resize(options.slot_classes.size());
  uint32_t bit = 0;
  for (size_t i = 0; i < chunks_.size(); ++i) {
    Chunk& chunk = chunks_[i];
    chunk.slot_bytes = options.slot_classes[i].slot_bytes;
    chunk.count = options.slot_classes[i].count;
    chunk.free_count = chunk.count;
    chunk.first_bit = bit;
    bit += chunk.count;
  }
  MI7_CHECK(bit <= kSlotsMax, "shared-memory options are checked before they are used");
  bits_.resize((bit + 63) / 64);
  largest_bytes_ = chunks_.back().slot_bytes * chunks_.back().count;
}

absl::Status SlotPool::Open(Chunk& chunk) {
  if (!chunk.memory.mapping) {
    auto memory = CreateSharedMemory("mi7-slots", chunk.slot_bytes * chunk.count, 0,
                                     /*for_good=*/!can_trim_);
    if (!memory.ok()) return memory.status();
    chunk.memory = *std::move(memory);
  }
  chunk.slots.resize(chunk.count);
  chunk.free_stack.reserve(chunk.count);
  return absl::OkStatus();
}

void SlotPool::List(Chunk& chunk, uint16_t index) {
  // From `fresh` on they are found without being listed.
  if (index >= chunk.fresh || chunk.slots[index].listed) return;
  chunk.slots[index].listed = true;
  chunk.free_stack.push_back(index);
}

bool SlotPool::Pop(Chunk& chunk, uint16_t& index) {
  while (!chunk.free_stack.empty()) {
    index = chunk.free_stack.back();
    chunk.free_stack.pop_back();
    chunk.slots[index].listed = false;
    if (chunk.slots[index].free) return true;
    // A run has taken it; Free will list it again.
  }
  while (chunk.fresh < chunk.count) {
    index = static_cast<uint16_t>(chunk.fresh++);
    if (chunk.slots[index].free) return true;
  }
  return false;
}

absl::Status SlotPool::Commit(Chunk& chunk, uint32_t index, uint64_t bytes) {
  SlotState& slot = chunk.slots[index];
  if (slot.reserved_bytes >= bytes) [[likely]]
    return absl::OkStatus();
  absl::Status reserved =
      ReserveMemory(chunk.memory.descriptor, chunk.slot_bytes * index + slot.reserved_bytes,
                    bytes - slot.reserved_bytes);
  if (!reserved.ok()) return reserved;
  slot.reserved_bytes = bytes;
  if (can_trim_ && on_committed_ && !std::exchange(told_of_pages_, true)) on_committed_();
  return absl::OkStatus();
}

void SlotPool::PreferCleared(Chunk& chunk) {
  std::vector<uint16_t>& stack = chunk.free_stack;
  if (chunk.slot_bytes < kAheadBytes || stack.empty()) return;
  const uint64_t dirty_bytes = chunk.slots[stack.back()].dirty_bytes;
  if (dirty_bytes < kAheadBytes) return;
  if (stack.size() > 1) {
    uint16_t& second = stack[stack.size() - 2];
    if (chunk.slots[second].free && chunk.slots[second].dirty_bytes < dirty_bytes) {
      std::swap(second, stack.back());
    }
  } else if (chunk.fresh == 1 && chunk.count > 1 && chunk.slots[1].free) {
    // A second one, unless the machine is full.
    const uint64_t wanted = std::min(chunk.slot_bytes, RoundUp(dirty_bytes, kWholeBytes));
    if (!Commit(chunk, 1, wanted).ok()) return;
    List(chunk, static_cast<uint16_t>(chunk.fresh++));
  }
}

bool SlotPool::PopRun(Chunk& chunk, uint32_t count, uint16_t& index) {
  uint32_t length = 0;
  for (uint32_t i = 0; i < chunk.count; ++i) {
    length = chunk.slots[i].free ? length + 1 : 0;
    if (length == count) {
      index = static_cast<uint16_t>(i + 1 - count);
      return true;
    }
  }
  return false;
}

Slot SlotPool::TakeFrom(uint32_t size_class, uint64_t bytes, uint64_t hint_bytes, bool finished,
                        bool zeroed, absl::Status& refused) {
  Chunk& chunk = chunks_[size_class];
  const auto run = static_cast<uint32_t>((bytes + chunk.slot_bytes - 1) / chunk.slot_bytes);
  const uint32_t left = !finished && size_class + 1 == chunks_.size() ? 1 : 0;
  if (run + left > chunk.free_count) return {};
  if (chunk.slots.empty()) [[unlikely]] {
    refused = Open(chunk);
    if (!refused.ok()) return {};
  }
  uint16_t index = 0;
  if (run <= 1 && zeroed) PreferCleared(chunk);
  if (!(run <= 1 ? Pop(chunk, index) : PopRun(chunk, run, index))) return {};
  const uint64_t extent = chunk.slot_bytes * std::max<uint32_t>(run, 1);
  const uint64_t usable = extent <= kWholeBytes
                              ? extent
                              : std::min(extent, RoundUp(std::max(bytes, hint_bytes), kWholeBytes));
  const uint64_t start = chunk.slot_bytes * index;
  std::byte* const data = chunk.memory.mapping.data() + start;
  for (uint64_t done = 0; done < usable; done += chunk.slot_bytes) {
    SlotState& slot = chunk.slots[index + done / chunk.slot_bytes];
    const uint64_t part = std::min(chunk.slot_bytes, usable - done);
    refused = Commit(chunk, static_cast<uint32_t>(index + done / chunk.slot_bytes), part);
    if (!refused.ok()) {
      if (run <= 1) List(chunk, index);
      return {};
    }
    slot.as_is = !zeroed;
    if (zeroed && slot.dirty_bytes != 0) {
      // No more than what is handed out; the rest stays dirty.
      const uint64_t clear = std::min(slot.dirty_bytes, part);
      Clear(data + done, clear);
      if (clear == slot.dirty_bytes) slot.dirty_bytes = 0;
    }
  }
  for (uint32_t i = 0; i < std::max<uint32_t>(run, 1); ++i) chunk.slots[index + i].free = false;
  chunk.slots[index].run = static_cast<uint16_t>(std::max<uint32_t>(run, 1));
  chunk.free_count -= chunk.slots[index].run;
  ++taken_;
  return {.data = data,
          .bytes = usable,
          .index = index,
          .size_class = static_cast<uint8_t>(size_class)};
}

Slot SlotPool::TakeFitting(uint64_t bytes, uint64_t hint_bytes, bool finished, bool zeroed,
                           absl::Status* refused) {
  bool in_use = false;
  absl::Status failed;
  // What is hinted at if there is such a slot, else what is needed.
  for (const uint64_t wanted : {std::max(bytes, hint_bytes), bytes}) {
    uint32_t i = 0;
    while (i + 1 < chunks_.size() && chunks_[i].slot_bytes < wanted) ++i;
    // Small messages must not use up what large ones need: the next larger class will do at most.
    const auto end = finished ? chunks_.size() : std::min<size_t>(i + 2, chunks_.size());
    for (; i < end; ++i) {
      absl::Status why;
      if (Slot slot = TakeFrom(i, wanted, hint_bytes, finished, zeroed, why)) return slot;
      if (why.ok()) {
        in_use = true;
      } else {
        failed = std::move(why);
      }
    }
    if (hint_bytes <= bytes) break;
  }
  if (refused != nullptr && !in_use) *refused = std::move(failed);
  return {};
}

Slot SlotPool::Take(uint64_t bytes, uint64_t hint_bytes, bool finished, absl::Status* refused,
                    const void* keeper, bool zeroed) {
  if (!CouldHold(bytes)) return {};
  if (!CouldHold(hint_bytes)) hint_bytes = bytes;
  BiasedLock lock(&mutex_);
  // Released slots are the hottest: they are looked for before fresh ones are used.
  const bool collected = in_flight_ != 0 && Collect();
  Slot slot = TakeFitting(bytes, hint_bytes, finished, zeroed, refused);
  if (!slot && !collected && in_flight_ != 0 && Collect()) {
    if (refused != nullptr) *refused = absl::OkStatus();
    slot = TakeFitting(bytes, hint_bytes, finished, zeroed, refused);
  }
  if (!slot && only_kept_ != 0) [[unlikely]] {
    slot = TakeFromKept(bytes, hint_bytes, finished, zeroed, refused);
  }
  if (slot) chunks_[slot.size_class].slots[slot.index].keeper = keeper;
  if (finished) wanted_ = !slot;
  return slot;
}

void SlotPool::Free(uint32_t size_class, uint16_t index) {
  Chunk& chunk = chunks_[size_class];
  chunk.slots[index].keeper = nullptr;
  const uint16_t run = std::exchange(chunk.slots[index].run, uint16_t{1});
  for (uint32_t i = run; i-- > 0;) {
    chunk.slots[index + i].free = true;
    const SlotState& slot = chunk.slots[index + i];
    if (chunk.slot_bytes >= kAheadBytes && slot.dirty_bytes != 0 && !slot.as_is) {
      any_dirty_.store(true, std::memory_order_relaxed);
    }
    List(chunk, static_cast<uint16_t>(index + i));
  }
  chunk.free_count += run;
}

void SlotPool::Dirtied(const Slot& slot, uint64_t bytes) {
  Chunk& chunk = chunks_[slot.size_class];
  for (uint64_t done = 0; done < bytes; done += chunk.slot_bytes) {
    SlotState& state = chunk.slots[slot.index + done / chunk.slot_bytes];
    state.dirty_bytes = std::max(state.dirty_bytes, std::min(chunk.slot_bytes, bytes - done));
  }
}

void SlotPool::Return(const Slot& slot, uint64_t dirty_bytes) {
  if (forked()) [[unlikely]]
    return;
  bool last;
  {
    BiasedLock lock(&mutex_);
    Dirtied(slot, dirty_bytes);
    Free(slot.size_class, slot.index);
    --taken_;
    TellFreed();
    last = over();
  }
  if (last) delete this;
}

void SlotPool::PutBack(const Slot& slot) {
  BiasedLock lock(&mutex_);
  Free(slot.size_class, slot.index);
  --taken_;
}

void SlotPool::Sent(const Slot& slot, uint64_t dirty_bytes, bool keep) {
  BiasedLock lock(&mutex_);
  Dirtied(slot, dirty_bytes);
  --taken_;
  if (keep) {
    Keep(slot, dirty_bytes);
  } else {
    chunks_[slot.size_class].slots[slot.index].keeper = nullptr;
  }
  ++in_flight_;
  const uint32_t bit = chunks_[slot.size_class].first_bit + slot.index;
  bits_[bit / 64].in_flight |= uint64_t{1} << (bit % 64);
}

bool SlotPool::Collect() {
  if (peer_ == nullptr) return false;
  bool any = false;
  uint32_t size_class = 0;
  for (uint32_t i = 0; i < bits_.size(); ++i) {
    Bits& own = bits_[i];
    if (own.in_flight == 0) continue;
    // Acquire: the peer's reads of the slots come before our writes.
    const uint64_t bits = peer_->released[i].load(std::memory_order_acquire);
    uint64_t done = (bits ^ own.seen) & own.in_flight;
    own.in_flight &= ~done;
    own.seen ^= done;
    any |= done != 0;
    for (; done != 0; done &= done - 1) {
      const uint32_t bit = i * 64 + static_cast<uint32_t>(std::countr_zero(done));
      while (bit >= chunks_[size_class].first_bit + chunks_[size_class].count) ++size_class;
      Chunk& chunk = chunks_[size_class];
      const auto index = static_cast<uint16_t>(bit - chunk.first_bit);
      --in_flight_;
      if (chunk.slots[index].keeper != nullptr) {
        OnlyKeep(chunk.slots[index]);
      } else {
        Free(size_class, index);
      }
    }
  }
  return any;
}

bool SlotPool::ClearAhead() {
  if (!any_dirty_.load(std::memory_order_relaxed)) [[likely]]
    return false;
  BiasedLock lock(&mutex_);
  for (Chunk& chunk : chunks_) {
    if (chunk.slot_bytes < kAheadBytes) continue;
    const size_t listed = chunk.free_stack.size();
    for (size_t i = 0; i < std::min(listed, kAheadSlots); ++i) {
      const uint16_t index = chunk.free_stack[listed - 1 - i];
      SlotState& slot = chunk.slots[index];
      if (!slot.free || slot.dirty_bytes == 0 || slot.as_is) continue;
      // From the end, so that what is left is still dirty from the start on.
      const uint64_t some = std::min(slot.dirty_bytes, kAheadStepBytes);
      slot.dirty_bytes -= some;
      ::memset(chunk.memory.mapping.data() + chunk.slot_bytes * index + slot.dirty_bytes, 0, some);
      return true;
    }
  }
  any_dirty_.store(false, std::memory_order_relaxed);
  return false;
}

bool SlotPool::Trim(uint64_t keep_bytes) {
  if (!can_trim_) return false;
  BiasedLock lock(&mutex_);
  told_of_pages_ = false;
  bool in_use = false;
  if (in_flight_ != 0) Collect();
  for (Chunk& chunk : chunks_) {
    bool all_given_back = true;
    for (uint32_t i = 0; i < chunk.slots.size(); ++i) {
      SlotState& slot = chunk.slots[i];
      if (slot.free && slot.reserved_bytes == 0) continue;
      if (!slot.free || slot.reserved_bytes <= keep_bytes) {
        if (slot.free) {
          keep_bytes -= slot.reserved_bytes;
        } else {
          in_use |= slot.reserved_bytes != 0;
        }
        all_given_back = false;
        continue;
      }
      const auto start = static_cast<off_t>(chunk.slot_bytes * i);
      if (::fallocate(chunk.memory.descriptor.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      start, static_cast<off_t>(slot.reserved_bytes)) == 0) {
        slot.reserved_bytes = 0;
        slot.dirty_bytes = 0;  // what is committed again is zero
      } else {
        all_given_back = false;
      }
    }
    if (all_given_back) {
      // Nothing is to be known of the slots any more. The peer keeps the chunk, and so do we.
      std::vector<SlotState>().swap(chunk.slots);
      std::vector<uint16_t>().swap(chunk.free_stack);
      chunk.fresh = 0;
    }
  }
  return in_use;
}

SlotPool::Usage SlotPool::GetUsage() {
  BiasedLock lock(&mutex_);
  if (in_flight_ != 0) Collect();
  Usage usage{.taken = taken_,
              .in_flight = in_flight_,
              .kept = only_kept_,
              .moved_out_bytes = moved_out_bytes_};
  for (const Chunk& chunk : chunks_) {
    for (const SlotState& slot : chunk.slots) usage.committed_bytes += slot.reserved_bytes;
  }
  return usage;
}

void SlotPool::Detach() {
  if (forked()) return;
  bool last;
  {
    BiasedLock lock(&mutex_);
    on_committed_ = nullptr;
    on_freed_ = nullptr;
    peer_ = nullptr;
    last = over();
  }
  if (last) delete this;
}

}  // namespace mi7::transport::shm
