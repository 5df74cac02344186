#pragma once

// SlotPool: the slots of our half, in which messages for the peer are built.
//
// Which slot is whose is known to us alone, in private memory: nothing shared says it, so nothing a
// peer does can confuse it. The peer tells that it has released a slot by flipping a bit in its own
// control page (layout.h, Control::released); we look there when we need slots. Freed slots are
// taken again hottest first, because the first touch of a page costs as much as copying it.
//
// Cap'n Proto wants memory that is zero, so a used slot is cleared before it is used again: 20 us
// for 1 MiB. A thread that polls for the peer's next message does that meanwhile (ClearAhead), for
// which large slots are used two in turn: one is cleared while the peer reads the other.
//
// The content of a slot that was sent can be *kept*: it is not used again, not even when the peer
// has released it, until its keeper lets it go. That is how a request that the server refuses can
// be sent once more without a copy of those that are answered. When messages find no other slot
// than those that are only kept (the peer has released them, their keepers have not let them go),
// the content is *moved out* to private memory, as far as it was written to, and the slot is for
// others. What was moved out is bounded (ShmOptions::kept_copies_bytes_max): beyond that the
// content is lost.
//
// Content is moved out, and read by its keeper, without the lock: the slot is *busy* meanwhile, and
// stays as it is. Only who needs that very slot waits, for a memcpy of others: whoever is busy with
// slots waits for nothing.
//
// A message that is finished waits for a slot if it has none; one under construction is built
// elsewhere, and copied. So those under construction, which their makers may hold for long, leave
// the last free slot of the last class to those that are finished. What of these finds no slot all
// the same is told of the next one that a message under construction gives back. Of those that the
// peer releases it is told by the peer, and those that are only kept it may have.
//
// A size class gets its memory, a chunk, when it is first used; the peer is passed the descriptor
// before the first record that refers to it. A slot's pages are reserved before it is handed out,
// so that a full machine gives RESOURCE_EXHAUSTED and never a SIGBUS.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "base/biased_mutex.h"
#include "base/fork_guard.h"
#include "transport/buffer_pool.h"
#include "transport/message.h"
#include "transport/shm/half.h"
#include "transport/shm/layout.h"
#include "transport/shm/shm_options.h"

namespace mi7::transport::shm {

// Memory taken from the pool: a slot, or adjacent ones of the last class. A value; returned by
// hand.
struct Slot {
  std::byte* data = nullptr;
  uint64_t bytes = 0;  // usable, reserved
  uint16_t index = 0;  // in its class, of the first one
  uint8_t size_class = 0;
  explicit operator bool() const { return data != nullptr; }
};

// Thread-safe. Kept alive by shared ownership of the connection and by every slot that is taken and
// not sent, or to be let go: messages may outlive the connection.
class SlotPool final : public SegmentSource {
 public:
  // `peer`: the peer's control page, which outlives Detach. `can_trim`: whether memory may be given
  // back to the system, which the seal for peers that are not trusted forbids. `on_committed` is
  // called when the first pages since the last Trim are committed that a later one can give back:
  // by whoever takes a slot. `on_freed`: by whoever gives a slot back, when the last Take for a
  // finished message has found all in use. Both under the pool's lock, and never after Detach; they
  // do not block.
  SlotPool(const ShmOptions& options, const Control& peer, bool trusted_peer,
           std::function<void()> on_committed = nullptr, std::function<void()> on_freed = nullptr);

  // A slot of at least `bytes`, zeroed; `hint_bytes` of it are better. `finished`: for a message
  // that is, so also one that is much too large, or the last one. Empty: all are in use, and one
  // comes free with time; or none ever will without the system's help, and `refused` becomes its
  // RESOURCE_EXHAUSTED: no memory or descriptor for one. `keeper`: who may have its content kept.
  // Not `zeroed`: with whatever is in it, because it will be written as a whole.
  Slot Take(uint64_t bytes, uint64_t hint_bytes, bool finished, absl::Status* refused = nullptr,
            const void* keeper = nullptr, bool zeroed = true);
  // Gives back what was just taken for a finished message that needs something else as well:
  // nothing was written, and nobody is told.
  void PutBack(const Slot& slot);
  // Whether Take could ever give so much.
  bool CouldHold(uint64_t bytes) const { return bytes <= largest_bytes_; }
  uint64_t largest_bytes() const { return largest_bytes_; }

  // For heap messages that outgrow their first segment.
  FurtherSegments* NewFurtherSegments() override;

  // Gives back a slot that was not sent, whose first `dirty_bytes` were written to. The last one
  // after Detach destroys the pool. In a forked child: nothing.
  void Return(const Slot& slot, uint64_t dirty_bytes);
  // The slot was sent: it is the peer's until it is released. `keep`: its content, `dirty_bytes` of
  // it, is kept until its keeper, which it was taken with, calls LetGo, as it must.
  void Sent(const Slot& slot, uint64_t dirty_bytes, bool keep = false);
  // As Return, but the content is kept in the same way.
  void GiveUp(const Slot& slot, uint64_t dirty_bytes);
  // Any thread. The last one after Detach destroys the pool. In a forked child: nothing.
  void LetGo(const Slot& slot, const void* keeper);
  // Calls `read` while the content that `keeper` wrote to these slots is there, and true; `where`
  // it is: in the slots, or moved out. False: they were needed for other messages, and there was no
  // room for what was in them. `read` takes nothing from the pool. Any thread, but not beside LetGo
  // of the same keeper.
  bool WhileKept(std::span<const Slot> slots, const void* keeper,
                 absl::FunctionRef<void(std::span<const std::byte* const> where)> read);

  // The descriptor of a class's chunk, which exists because a slot of it is taken.
  int chunk_descriptor(uint32_t size_class) const {
    return chunks_[size_class].memory.descriptor.get();
  }

  // Clears a little of a free slot, some 100 ns. False: there is none that is worth it. For threads
  // that have nothing better to do.
  bool ClearAhead();

  // Gives pages of free slots back to the system, in sum all but `keep_bytes`, and what is kept of
  // classes of which no slot is used. True: slots that are in use have pages, which only another
  // Trim gives back.
  bool Trim(uint64_t keep_bytes);

  struct Usage {
    uint32_t taken = 0;      // by messages under construction
    uint32_t in_flight = 0;  // sent, not released yet
    uint32_t kept = 0;       // neither, but kept
    uint64_t committed_bytes = 0;
    uint64_t moved_out_bytes = 0;  // private memory
  };
  // Looks at what was released first.
  Usage GetUsage();

  // The connection is gone: nothing is released by the peer any more and `peer` is not looked at.
  // Destroys the pool when no slot is taken. In a forked child: nothing.
  void Detach();

 private:
  struct SlotState {
    uint64_t reserved_bytes = 0;   // committed, from the start of the slot
    uint64_t dirty_bytes = 0;      // to be cleared before reuse, from the start of the slot
    const void* keeper = nullptr;  // of the run that begins here
    uint32_t kept_words = 0;       // of the run's content, if it is kept
    uint16_t run = 1;              // slots of the run that begins here, while not free
    bool free : 1 = true;
    bool listed : 1 = false;     // in free_stack
    bool only_kept : 1 = false;  // neither taken nor in flight, but kept
    bool busy : 1 = false;       // its content is read or moved out, without the lock
    bool as_is : 1 = false;      // was last taken without being zeroed, and may be again
  };
  static_assert(sizeof(SlotState) == 32);
  // Of 64 slots, counted over all classes in order.
  struct Bits {
    uint64_t in_flight = 0;
    uint64_t seen = 0;  // the peer's bits as they were when each slot was last free
  };
  struct Chunk {
    uint64_t slot_bytes = 0;
    uint32_t count = 0;
    uint32_t first_bit = 0;
    SharedMemory memory;
    std::vector<SlotState> slots;      // empty until the class is used, and again when it is idle
    std::vector<uint16_t> free_stack;  // hottest last; may list slots that a run has taken
    uint32_t fresh = 0;                // slots from here on were never used
    uint32_t free_count = 0;
  };

  ~SlotPool() = default;
  bool forked() const { return ForkGuard::generation() != made_in_; }
  absl::Status Open(Chunk& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void List(Chunk& chunk, uint16_t index);
  static bool Pop(Chunk& chunk, uint16_t& index);
  // Reserves the first `bytes` of a slot. RESOURCE_EXHAUSTED.
  absl::Status Commit(Chunk& chunk, uint32_t index, uint64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts the free slot first that is to be taken next.
  void PreferCleared(Chunk& chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool PopRun(Chunk& chunk, uint32_t count, uint16_t& index);
  // Empty: all of the class are in use; or, with a non-OK `refused`, the system gave none.
  Slot TakeFrom(uint32_t size_class, uint64_t bytes, uint64_t hint_bytes, bool finished,
                bool zeroed, absl::Status& refused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Slot TakeFitting(uint64_t bytes, uint64_t hint_bytes, bool finished, bool zeroed,
                   absl::Status* refused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Free(uint32_t size_class, uint16_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A message under construction has given its slot back.
  void TellFreed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (wanted_ && on_freed_ && std::exchange(wanted_, false)) [[unlikely]]
      on_freed_();
  }
  void OnlyKeep(SlotState& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What was moved out, by keeper and slot: class and index.
  using MovedOut = std::pair<const void*, uint32_t>;
  static MovedOut KeyOf(const void* keeper, uint32_t size_class, uint32_t index) {
    return {keeper, size_class << 16 | index};
  }
  struct Content {
    BufferRef memory;
    uint64_t bytes = 0;
  };
  // Begins of runs of one class.
  struct Runs {
    uint32_t size_class = 0;
    std::vector<uint16_t> begins;
    bool any_busy = false;  // there would be others, which are busy
  };
  // Which slots that are only kept have to come free for a message of `bytes`.
  Runs WhatIsInTheWay(uint64_t bytes, bool finished) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves their content out, if there is room for it, and frees them. Not locked meanwhile.
  void MoveOut(const Runs& runs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What Take does when all slots that would do are in use and some are only kept.
  Slot TakeFromKept(uint64_t bytes, uint64_t hint_bytes, bool finished, bool zeroed,
                    absl::Status* refused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until slots that were busy are no more. Not locked meanwhile.
  void AwaitBusy() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndBusy(SlotState& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Keep(const Slot& slot, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The slot's state, if it is still this keeper's.
  SlotState* KeptBy(const void* keeper, const Slot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Dirtied(const Slot& slot, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether nobody will call any more.
  bool over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return taken_ == 0 && to_let_go_ == 0 && peer_ == nullptr;
  }
  // Frees what the peer has released; whether there was any.
  bool Collect() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const bool can_trim_;
  const uint64_t moved_out_bytes_max_;
  const uint32_t made_in_ = ForkGuard::generation();
  uint64_t largest_bytes_ = 0;
  BiasedMutex mutex_;
  const Control* peer_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_committed_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_freed_ ABSL_GUARDED_BY(mutex_);
  bool told_of_pages_ ABSL_GUARDED_BY(mutex_) = false;  // since the last Trim
  bool wanted_ ABSL_GUARDED_BY(mutex_) = false;         // on_freed_ is to be called
  uint32_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t only_kept_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t to_let_go_ ABSL_GUARDED_BY(mutex_) = 0;  // calls of LetGo that are to come
  // Includes what is being moved out.
  uint64_t moved_out_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<MovedOut, Content> moved_out_ ABSL_GUARDED_BY(mutex_);
  // Counts slots that were busy and are no more, for those who wait for that. Changed under the
  // mutex, which orders everything else; relaxed.
  std::atomic<uint32_t> busy_ended_{0};
  // Whether ClearAhead may find something. Written under the mutex; relaxed, for it is a hint.
  std::atomic<bool> any_dirty_{false};
  // What is const of a chunk is read without the mutex; chunk_descriptor says when.
  std::vector<Chunk> chunks_;
  std::vector<Bits> bits_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mi7::transport::shm
