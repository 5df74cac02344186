#pragma once

// What a SlotPipe object is made of. Included by the sources of SlotPipe and AsyncSlotPipe only.

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "transport/slot_pipe/event.h"
#include "transport/slot_pipe/participants.h"
#include "transport/slot_pipe/pipe_file.h"
#include "transport/slot_pipe/pipe_poll.h"
#include "transport/slot_pipe/protocol.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/spin_budget.h"

namespace mi7 {

namespace slot_pipe_internal {

// How a wait ended; Outcome of the last attempt unless kDeadline or kCancelled.
enum class Waited { kDone, kDeadline, kCancelled, kCorrupt };

// Which SlotRef of each slot may be made a handle of: the one of its last Detach, once. A word does
// not tell two holds of a slot apart for ever: it comes again after 64 that were given back, and at
// once for a message that was fetched too often to be counted, or unseen. And a slot with two
// handles could be given back by one while the other is in the middle of sending it. Thread-safe.
class Refs {
 public:
  explicit Refs(uint32_t slots) : issued_(std::make_unique<std::atomic<uint64_t>[]>(slots)) {}

  uint64_t Issue(uint32_t slot) {
    // Relaxed: only to be another one each time.
    const uint64_t serial = last_.fetch_add(1, std::memory_order_relaxed) + 1;
    // Release, and acquire in Redeem: who makes a handle of it sees what was written in the slot.
    issued_[slot].store(serial, std::memory_order_release);
    return serial;
  }
  // Whether `serial` was issued last and is redeemed now.
  bool Redeem(uint32_t slot, uint64_t serial) {
    // Relaxed when it fails: nothing is touched then.
    return serial != 0 && issued_[slot].compare_exchange_strong(
                              serial, 0, std::memory_order_acquire, std::memory_order_relaxed);
  }
  // Relaxed: nothing is touched because of it.
  bool Issued(uint32_t slot, uint64_t serial) const {
    return issued_[slot].load(std::memory_order_relaxed) == serial;
  }

 private:
  const std::unique_ptr<std::atomic<uint64_t>[]> issued_;
  std::atomic<uint64_t> last_{0};
};

// A checksum of a message: catches stray writes, not malice.
uint64_t Checksum(const std::byte* data, uint32_t size, uint32_t kind);

// `forked`: the locks cannot be looked at, and everybody counts as alive.
PipeStatus StatusOf(const Region& region, const Participants& participants, absl::string_view name,
                    uint64_t created_unix_ns, uint16_t me, bool forked);

}  // namespace slot_pipe_internal

struct SlotPipe::Impl {
  Impl(std::unique_ptr<slot_pipe_internal::PipeFile> the_file, absl::string_view the_name,
       uint16_t me, transport::WaitPolicy the_wait);

  // OK, or why this object is of no use.
  absl::Status Usable() const {
    if (!fork_guard.forked()) [[likely]]
      return absl::OkStatus();
    return Forked();
  }
  absl::Status Forked() const;
  // INVALID_ARGUMENT: a message of `size` bytes is larger than a slot.
  absl::Status Fits(size_t size) const {
    if (size <= region.geometry().slot_bytes) [[likely]]
      return absl::OkStatus();
    return TooLarge(size);
  }
  absl::Status TooLarge(size_t size) const;
  absl::Status WrongState(uint32_t index, absl::string_view what) const;
  absl::Status Failed(slot_pipe_internal::Outcome outcome, uint32_t index,
                      absl::string_view what) const;
  absl::Status Corrupt() const;
  // Whether we have the slot, as `ref` says, to write in it or to read it.
  static bool IsToWrite(SlotRef ref);
  static bool IsToRead(SlotRef ref);
  bool Has(SlotRef ref) const;
  ReadSlot MakeReadSlot(SlotPipe* pipe, const slot_pipe_internal::Claim& claim) const;
  // Whether size and kind, which whoever is connected may have overwritten, are possible ones.
  bool Possible(const ReadSlot& slot) const;
  // The same of all that can be checked.
  bool Sound(const ReadSlot& slot) const;
  // DATA_LOSS about a message that was overwritten, and buries it.
  absl::Status Overwritten(ReadSlot& slot);
  // Makes the handle of a message that was fetched, or buries it.
  absl::StatusOr<ReadSlot> Open(SlotPipe* pipe, const slot_pipe_internal::Claim& claim);

  // A slot that leaves our hands unsent or unread is not in progress any more: its word may come
  // again. Relaxed: for people only.
  void EndInProgress(uint32_t slot) {
    region.slot(slot).handed.store(0, std::memory_order_relaxed);
  }
  // Returns messages whose handles were dropped when the ring was full, if it is not any more.
  void ReturnDropped();

  // Looks for dead participants if nobody has for a while; true when there were some.
  bool MaybeRecover();
  uint32_t RecoverNow();
  // On the way of operations that succeed, so that who never waits recovers, too. By the time: who
  // works long on each message comes here seldom, so a count of operations would say nothing.
  void Tick() {
    // Relaxed: when to look next, of this object alone. Threads that overwrite it look twice.
    if (CoarseNanos() >= look_at_ns_.load(std::memory_order_relaxed)) [[unlikely]]
      MaybeRecover();
  }
  // The clock of SharedWords::next_check_ns: one that advances with the timer's tick only, and
  // costs a sixth of the other, so that each operation can look at it.
  static int64_t CoarseNanos() {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }

  template <typename Attempt, typename More>
  slot_pipe_internal::Waited Wait(slot_pipe_internal::Event& event, Deadline deadline,
                                  Attempt attempt, More more);
  slot_pipe_internal::Waited WaitToHold(Deadline deadline, slot_pipe_internal::Claim& claim);
  slot_pipe_internal::Waited WaitToFetch(Deadline deadline, slot_pipe_internal::Claim& claim);

  // Who waits in a direction is told by this event, and looks here first.
  slot_pipe_internal::Event& event(slot_pipe_internal::Direction direction) {
    return direction == slot_pipe_internal::Direction::kHold ? empty : ready;
  }
  bool MayHave(slot_pipe_internal::Direction direction) const {
    return direction == slot_pipe_internal::Direction::kHold ? protocol.MayHold()
                                                             : protocol.MayFetch();
  }

  const std::unique_ptr<slot_pipe_internal::PipeFile> file;
  const slot_pipe_internal::Region region;
  const std::string name;
  const transport::WaitPolicy wait;
  slot_pipe_internal::Protocol protocol;
  slot_pipe_internal::Event ready;
  slot_pipe_internal::Event empty;
  const slot_pipe_internal::ForkGuard& fork_guard;
  std::atomic<bool> cancelled{false};
  std::atomic<int64_t> look_at_ns_{0};
  // Kept, because polling must not allocate.
  const absl::Status no_empty_slot;
  const absl::Status no_message;

  slot_pipe_internal::Refs refs;

  Mutex dropping;
  std::vector<slot_pipe_internal::Claim> dropped ABSL_GUARDED_BY(dropping);
  std::atomic<bool> any_dropped{false};  // whether there are some

  Mutex recovery;  // threads of one participant share its locks
  slot_pipe_internal::Participants participants ABSL_GUARDED_BY(recovery);
};

template <typename Attempt, typename More>
slot_pipe_internal::Waited SlotPipe::Impl::Wait(slot_pipe_internal::Event& event, Deadline deadline,
                                                Attempt attempt, More more) {
  using slot_pipe_internal::Outcome;
  using slot_pipe_internal::Waited;
  const auto ended = [](Outcome outcome) {
    return outcome == Outcome::kDone ? Waited::kDone : Waited::kCorrupt;
  };
  Outcome outcome = attempt();
  if (outcome != Outcome::kNothing) return ended(outcome);

  // Polls while that was seen to help: waking a sleeper costs more.
  static thread_local transport::SpinBudget budget;
  constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
  const int64_t start_ns = MonotonicNanos();
  const int64_t budget_ns = wait == transport::WaitPolicy::kSpin       ? kForever
                            : wait == transport::WaitPolicy::kAdaptive ? budget.Begin()
                                                                       : 0;
  for (uint32_t polls = 1; budget_ns != 0; ++polls) {
    outcome = attempt();
    if (outcome != Outcome::kNothing) {
      if (budget_ns != kForever) budget.End(budget_ns, 0);
      return ended(outcome);
    }
    if (polls > 64 && (budget_ns != kForever || polls % 1024 == 0)) ::sched_yield();
    if (polls % 32 != 0) continue;
    const int64_t now_ns = MonotonicNanos();
    if (now_ns - start_ns > budget_ns) break;
    // Relaxed: it is looked at again soon, and nothing else is read because of it.
    if (cancelled.load(std::memory_order_relaxed)) return Waited::kCancelled;
    if (now_ns >= deadline.at_ns()) return Waited::kDeadline;
    MaybeRecover();
  }

  Waited waited = Waited::kDone;
  event.Await(
      [&] {
        outcome = attempt();
        if (outcome == Outcome::kNothing) return false;
        waited = ended(outcome);
        return true;
      },
      [&](uint32_t ticket) {
        // Acquire: Cancel() is told by the event's word, too.
        if (cancelled.load(std::memory_order_acquire)) {
          waited = Waited::kCancelled;
          return false;
        }
        if (MaybeRecover()) return true;
        const int64_t left_ns = deadline.remaining_ns();
        if (left_ns <= 0) {
          waited = Waited::kDeadline;
          return false;
        }
        event.Sleep(ticket, std::min(left_ns, slot_pipe_internal::kLookAgainNs));
        return true;
      },
      [&] { return waited == Waited::kDone && more(); });
  if (budget_ns != kForever) budget.End(budget_ns, MonotonicNanos() - start_ns);
  return waited;
}

}  // namespace mi7
