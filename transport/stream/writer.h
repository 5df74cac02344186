#pragma once

// Writer: the sending half of a stream connection.
//
// Messages are written straight from the segments they were built in, many by one gathering write;
// of several, small ones are copied together for it (write_pieces.h).
// One thread writes at a time; a thread that finds another one writing only queues its message,
// which the other takes along before it stops ("flat combining"). Nobody ever waits here: when the
// system takes no more, the rest stays queued and the connection's loop continues when it can.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "transport/message.h"
#include "transport/message_queue.h"

namespace mi7::transport {

// Thread-safe. 48 bytes.
class Writer {
 public:
  Writer() = default;
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  enum class Added {
    kQueued,  // somebody else writes it, or a later Flush
    kWrite,   // not yet taken: the caller must call Write at once, with the same message
    kFlush,   // the caller must call Flush
    kFull,    // refused, the message is untouched: `queue_max` is reached
    kClosed,  // refused, the message is untouched
  };
  // Takes over `message`, which must be sealed (SealMessage), unless it is refused. `hold_back`:
  // only queue it. `queue_max`: bound on Queued::weight, which a message may exceed only when
  // nothing is queued.
  Added Add(OutgoingMessage& message, bool hold_back, uint64_t queue_max);

  // Whether a message can be added now, as Add would decide for a small one. Cheap.
  bool Full(uint64_t queue_max) const {
    return Count(std::memory_order_relaxed).weight() >= queue_max;
  }
  // Marks that somebody was refused and wants to know of room (Result::room).
  void WantRoom() { room_wanted_.store(true, std::memory_order_seq_cst); }

  struct Result {
    enum Outcome : uint8_t {
      kDone,     // nothing is left for the caller to do
      kBlocked,  // the system takes no more: call Resume when the socket is writable
      kFailed,   // the socket is broken, `error` says how; what is queued stays until Close
    };
    Outcome outcome = kDone;
    int error = 0;
    bool wrote = false;  // some byte was taken
  };

  // After Added::kWrite: writes the message just added, and whatever others add meanwhile.
  Result Write(int fd, OutgoingMessage message);
  // Takes over sealed messages that were held back together, linked by `next` from `first` to
  // `last`, `count` in all, and writes them at once when nobody writes. Never refused: whoever
  // dispatches has written before the connection ends.
  Result WriteChain(int fd, MessageBody* first, MessageBody* last, const Queued& count);
  // Writes what is queued unless somebody does, or the socket is not writable.
  Result Flush(int fd);
  // The same when the socket has become writable.
  Result Resume(int fd);

  // Whether anything is queued, or being written.
  bool HasUnsent() {
    MutexLock lock(&mutex_);
    return writing_ || first_ != nullptr;
  }

  // Takes back a call of which not a byte was written (Connection::Withdraw).
  bool Withdraw(uint32_t call_id);

  // True when the room that WantRoom asked for is there (Queued::IsLow). Returns true once a
  // WantRoom.
  bool TakeRoom(const Limits& limits) {
    return room_wanted_.load(std::memory_order_seq_cst) && queued().IsLow(limits) &&
           room_wanted_.exchange(false, std::memory_order_seq_cst);
  }

  // Ends it: everything is refused from now on. False when somebody writes at this moment: call
  // again a little later. On success `unsent` are the messages of which not a byte was written,
  // linked by `next`, for the caller to recycle; a partly written one is recycled here.
  bool Close(MessageBody*& unsent);

  // Bytes wait until the socket is writable.
  const std::atomic<bool>& blocked_flag() const { return blocked_; }
  bool room_wanted() const { return room_wanted_.load(std::memory_order_seq_cst); }
  bool blocked() const { return blocked_.load(std::memory_order_seq_cst); }
  Queued queued() const { return Count(std::memory_order_seq_cst); }

 private:
  // Messages in one gathering write.
  static constexpr int kMessagesMax = 64;

  // Messages taken from the queue, linked by `next`; `written` bytes of the first are out.
  struct Batch {
    MessageBody* first = nullptr;
    MessageBody* last = nullptr;
    size_t written = 0;
  };
  Batch TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Result WriteAll(int fd, Batch batch);
  // Writes one batch as far as possible and recycles what is out; errno, 0 on full success.
  static int WriteBatch(int fd, Batch& batch, Result& result);

  Queued Count(std::memory_order order) const {
    return {.bytes = queued_bytes_.load(order), .messages = queued_messages_.load(order)};
  }
  void SetCount(const Queued& queued) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    queued_bytes_.store(queued.bytes, std::memory_order_seq_cst);
    queued_messages_.store(static_cast<uint32_t>(queued.messages), std::memory_order_seq_cst);
  }

  Mutex mutex_;
  std::atomic<uint32_t> queued_messages_{0};  // changed under mutex_
  MessageBody* first_ ABSL_GUARDED_BY(mutex_) = nullptr;
  MessageBody* last_ ABSL_GUARDED_BY(mutex_) = nullptr;
  size_t written_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes of first_ that are out
  std::atomic<uint64_t> queued_bytes_{0};       // changed under mutex_
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> blocked_{false};  // changed under mutex_
  std::atomic<bool> room_wanted_{false};
};
static_assert(sizeof(Writer) <= 48);

}  // namespace mi7::transport
