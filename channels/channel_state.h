#pragma once

// ChannelState<T>: what the ends of an in-process channel share.
//
// Two things hold whenever its lock is free, a wait that is claimed already aside: who waits to
// receive finds no value, and who waits to send finds no room. So a value goes straight to the
// first who waits, nobody overtakes, and nobody is woken in vain.
//
// What was handed over to a coroutine that is gone is put back. It was sent before all that nobody
// has received yet, because there was nothing when it was handed over. So what was put back comes
// first, ordered by tickets, which count what is handed over. Until the coroutine has taken it, a
// channel that is closed is not at its end: receivers wait, as the value may be theirs.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "channels/ring.h"
#include "channels/wait.h"

namespace mi7::channels_internal {

// What became of an attempt.
enum class Outcome {
  kDone,
  kNotYet,  // no room, no value; or still open
  kClosed,  // and it never will
  kLost,    // the wait was claimed by somebody else: nothing was changed
  kFailed,  // of slot pipes: see Case::error
};

// What is said to those who use the channel. Made once, because polling must not allocate.
const absl::Status& FullError();
const absl::Status& EmptyError();
const absl::Status& SendTimeoutError();
const absl::Status& ReceiveTimeoutError();
const absl::Status& ClosedToSendersError();
const absl::Status& ClosedToReceiversError();

// Thread-safe. Where an operation takes an entry (null for those who do not wait), the entry is
// listed when the outcome is kNotYet, and its wait is claimed before anything is done.
template <typename T>
class ChannelState {
 public:
  explicit ChannelState(size_t capacity) : capacity_(capacity) {}
  ChannelState(const ChannelState&) = delete;
  ChannelState& operator=(const ChannelState&) = delete;

  // Moves from `value` when kDone. Of an entry, `value` is its value.
  Outcome Push(T& value, Entry* entry) noexcept {
    Claimed receiver;
    {
      MutexLock lock(&mutex_);
      if (closed_) return Outcome::kClosed;
      if (values_.size() >= capacity_) {
        if (entry != nullptr) senders_.Add(*entry);
        return Outcome::kNotYet;
      }
      if (entry != nullptr && !entry->wait->Claim()) return Outcome::kLost;
      HandOver(std::move(value), receiver);
    }
    receiver.Finish();
    return Outcome::kDone;
  }

  Outcome Pop(std::optional<T>& value, Entry* entry) noexcept {
    Claimed sender;
    ClaimedList ended;
    {
      MutexLock lock(&mutex_);
      if (values_.empty()) {
        if (AtEnd()) return Outcome::kClosed;
        if (entry != nullptr) receivers_.Add(*entry);
        return Outcome::kNotYet;
      }
      if (entry != nullptr && !entry->wait->Claim()) return Outcome::kLost;
      value.emplace(values_.PopFront());
      if (!put_back_.empty()) put_back_.erase(put_back_.begin());
      // More than capacity_ when some were put back.
      if (values_.size() < capacity_) {
        if (Entry* const first = senders_.ClaimFirst(sender)) {
          values_.PushBack(std::move(*static_cast<T*>(first->value)));
        }
      }
      ClaimIfAtEnd(ended);
    }
    sender.Finish();
    FinishAll(ended);
    return Outcome::kDone;
  }

  // kDone: closed and empty. Such an entry's wait looks again when that may have come true.
  Outcome CheckClosed(Entry* entry) noexcept {
    MutexLock lock(&mutex_);
    if (!AtEnd()) {
      if (entry != nullptr) closers_.Add(*entry);
      return Outcome::kNotYet;
    }
    return entry == nullptr || entry->wait->Claim() ? Outcome::kDone : Outcome::kLost;
  }

  // When one of these returns, nobody has or will get the entry.
  void RemoveSender(Entry& entry) {
    MutexLock lock(&mutex_);
    senders_.Remove(entry);
  }
  void RemoveReceiver(Entry& entry) {
    MutexLock lock(&mutex_);
    receivers_.Remove(entry);
  }
  void RemoveCloser(Entry& entry) {
    MutexLock lock(&mutex_);
    closers_.Remove(entry);
  }

  // The coroutine whose entry it is goes on: as RemoveReceiver, and a value that was handed over to
  // it is received.
  void Arrive(Entry& entry) noexcept {
    ClaimedList ended;
    {
      MutexLock lock(&mutex_);
      receivers_.Remove(entry);
      Leave(entry);
      ClaimIfAtEnd(ended);
    }
    FinishAll(ended);
  }
  // The value that was handed over to `entry`, whose coroutine is gone: as if it had never been
  // received.
  void PutBack(T&& value, Entry& entry) noexcept {
    Claimed receiver;
    ClaimedList ended;
    {
      MutexLock lock(&mutex_);
      if (Entry* const first = receivers_.ClaimFirst(receiver)) {
        Give(*first, std::move(value), entry.ticket);
      } else {
        const auto place = std::lower_bound(put_back_.begin(), put_back_.end(), entry.ticket);
        values_.Insert(static_cast<size_t>(place - put_back_.begin()), std::move(value));
        put_back_.insert(place, entry.ticket);
      }
      Leave(entry);
      ClaimIfAtEnd(ended);
    }
    receiver.Finish();
    FinishAll(ended);
  }

  // Nothing more is sent. What was sent can be received.
  void Close() {
    ClaimedList claimed;
    {
      MutexLock lock(&mutex_);
      if (closed_) return;
      closed_ = true;
      senders_.ClaimAll(claimed);
      ClaimIfAtEnd(claimed);
    }
    FinishAll(claimed);
  }

  bool closed() const {
    MutexLock lock(&mutex_);
    return closed_;
  }
  size_t size() const {
    MutexLock lock(&mutex_);
    return values_.size();
  }
  size_t capacity() const { return capacity_; }

  // Ends that there are; the channel is closed when one side has none left. Counting up is relaxed:
  // who copies an end has one. Counting down is ordered, so that what any end has sent comes before
  // the close of the last one.
  void AddSender() { sender_count_.fetch_add(1, std::memory_order_relaxed); }
  void DropSender() {
    if (sender_count_.fetch_sub(1, std::memory_order_acq_rel) == 1) Close();
  }
  void AddReceiver() { receiver_count_.fetch_add(1, std::memory_order_relaxed); }
  void DropReceiver() {
    if (receiver_count_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    Close();
    // Values may own ends of other channels, or of this one: they go when the lock is free.
    std::optional<Ring<T>> unread;
    MutexLock lock(&mutex_);
    unread.emplace(std::move(values_));
    put_back_.clear();
  }

 private:
  // To the first who waits, else to the back of the queue.
  void HandOver(T&& value, Claimed& receiver) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (Entry* const first = receivers_.ClaimFirst(receiver)) {
      Give(*first, std::move(value), ++last_ticket_);
    } else {
      values_.PushBack(std::move(value));
    }
  }
  void Give(Entry& receiver, T&& value, uint64_t ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    static_cast<std::optional<T>*>(receiver.value)->emplace(std::move(value));
    receiver.ticket = ticket;
    receiver.on_the_way = receiver.wait->may_go();
    if (receiver.on_the_way) ++on_the_way_;
  }
  void Leave(Entry& receiver) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(receiver.on_the_way, false)) --on_the_way_;
  }
  // Nothing is there to be received, or will be.
  bool AtEnd() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ && values_.empty() && on_the_way_ == 0;
  }
  void ClaimIfAtEnd(ClaimedList& claimed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!AtEnd()) [[likely]]
      return;
    receivers_.ClaimAll(claimed);
    closers_.ClaimAll(claimed);
  }
  static void FinishAll(const ClaimedList& claimed) {
    for (const Claimed& one : claimed) one.Finish();
  }

  const size_t capacity_;
  mutable Mutex mutex_;
  Ring<T> values_ ABSL_GUARDED_BY(mutex_);
  // Of the first ones of values_: those that were put back.
  absl::InlinedVector<uint64_t, 2> put_back_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  EntryList senders_ ABSL_GUARDED_BY(mutex_);
  EntryList receivers_ ABSL_GUARDED_BY(mutex_);
  EntryList closers_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  size_t on_the_way_ ABSL_GUARDED_BY(mutex_) = 0;  // values that may be put back
  std::atomic<size_t> sender_count_{0};
  std::atomic<size_t> receiver_count_{0};
};

// Takes the state out of an end; null when it has none.
struct StateOf {
  template <typename End>
  static auto* Get(const End& end) {
    return end.state_.get();
  }
};

}  // namespace mi7::channels_internal
