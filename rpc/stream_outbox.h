#pragma once

// StreamOutbox: the sending half of a stream: the credit that the peer has granted, and the end.
//
// The user writes one message at a time, and the next one when the half is ready for it: when there
// is credit, and room in the connection's queue. So nothing is queued here, however slow the peer
// is, but the first message, which is written when the user likes: it is kept as long as the call
// has no connection, or that one's queue no room.
//
// At the end that makes the call, what was written is kept until the first sign that the server has
// begun the call (WrittenMessages). When the call is made again before that, it is all sent again,
// as the credit allows, and what the user has written meanwhile after it. Attempts are numbered
// from 0; whatever still goes on for an earlier one changes nothing (`attempt_`).

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/object_pool.h"
#include "rpc/interceptor.h"
#include "rpc/readiness.h"
#include "rpc/written_messages.h"
#include "transport/message.h"

namespace mi7 {

class Stream;

// Thread-safety: see Readiness.
class StreamOutbox final : public Readiness {
 public:
  explicit StreamOutbox(Stream* stream);

  // What is written is kept from now on, so that the call can be made again. Before Open.
  void KeepWritten();
  // The peer has begun the call, which is not made again: what was kept for that is dropped.
  void DropWritten();
  // The call is made again: nothing is sent until Open is called for the next attempt, and then all
  // that was written. False: it cannot be, because it was not kept.
  bool Restart();
  // The stream has a connection, for that attempt, whose peer has granted `window` bytes. Once an
  // attempt; before it, nothing is sent.
  void Open(uint32_t window, uint32_t attempt = 0);
  // More credit. INVALID_ARGUMENT: more than was used. The driving thread.
  absl::Status OnCredit(uint32_t bytes);
  // There is room again in the connection's queue.
  void OnRoom();
  // Sends what waits for room all the same: the end of the stream follows.
  void Flush() { Begin(); }
  // The stream is over; `status` is not OK.
  void End(const absl::Status& status);

  // --- The user's ---

  // Sends `message`. OK: the half is ready once the next one may be written, and result() then says
  // whether this one was sent. FAILED_PRECONDITION: the half is not ready for it, or was closed.
  // What an interceptor says: it was not sent, and the stream goes on.
  absl::Status Write(transport::OutgoingMessage message);
  // Of the last Write, once the half is ready: OK, the limit that the message exceeded (the stream
  // goes on), or the end of the stream.
  absl::Status result() const;
  // Tells the peer that nothing follows. Idempotent. The caller's end only.
  void Close();

 private:
  bool IsReady() const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || (stage_ == Stage::kOpen && credit_ > 0 && !waits_for_room_ && !lost_);
  }
  enum class Stage : uint8_t {
    kUnconnected,
    kWaitingForRoom,  // connected; not all was sent that was written before; or it waits for credit
    kOpening,         // which is being sent
    kOpen,
  };
  // From kWaitingForRoom to kOpen, unless credit or room end before; nothing in other stages.
  void Begin();
  // Whether a message waits to be sent, which was written before or early.
  bool MessageWaits() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return early_ || (written_ != nullptr && written_->has_unsent());
  }
  // Takes it. `again`: it was sent in an earlier attempt.
  transport::OutgoingMessage TakeMessage(bool& again) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Before a message is sent: keeps it, if that is to be.
  void Keep(transport::OutgoingMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Why a message must not be written now.
  absl::Status Refusal() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the interceptors say.
  absl::Status Intercept(const Interceptors& interceptors, transport::OutgoingMessage& message);
  // Sends it in that attempt, credit being taken already. `again`: its user was told long ago that
  // it was sent.
  void SendNow(transport::OutgoingMessage message, uint64_t bytes, uint32_t attempt, bool again);

  Stream* const stream_;
  // Relaxed: who writes knows that the last write has completed.
  std::atomic<bool> sent_any_{false};
  uint32_t window_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t credit_ ABSL_GUARDED_BY(mutex_) = 0;
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kUnconnected;
  uint32_t attempt_ ABSL_GUARDED_BY(mutex_) = 0;  // at the call
  bool keeps_ ABSL_GUARDED_BY(mutex_) = false;    // what is written
  // The message that was written early is being sent.
  bool sends_early_ ABSL_GUARDED_BY(mutex_) = false;
  // The user may have been told in an earlier attempt that the next message may be written.
  bool may_write_ ABSL_GUARDED_BY(mutex_) = false;
  bool waits_for_room_ ABSL_GUARDED_BY(mutex_) = false;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;    // the connection; the end comes
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // by the user
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  // The message that was written before the stage was kOpen, until it is sent.
  transport::OutgoingMessage early_ ABSL_GUARDED_BY(mutex_);
  PooledPtr<WrittenMessages> written_ ABSL_GUARDED_BY(mutex_);  // nullptr: none
  absl::Status result_ ABSL_GUARDED_BY(mutex_);                 // of the last Write, or the end
};

}  // namespace mi7
