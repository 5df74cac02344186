#pragma once

// StreamOutbox: the sending half of a stream: the credit that the peer has granted, and the end.
//
// The user writes one message at a time, and the next one when the half is ready for it: when there
// is credit, and room in the connection's queue. So nothing is queued here, however slow the peer
// is, but the one message that is written before the call has a connection.

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "rpc/readiness.h"
#include "transport/message.h"

namespace mi7 {

class Stream;

// Thread-safety: see Readiness.
class StreamOutbox final : public Readiness {
 public:
  explicit StreamOutbox(Stream* stream);

  // The stream has a connection, whose peer has granted `window` bytes. Once; before it, nothing is
  // sent.
  void Open(uint32_t window);
  // More credit. INVALID_ARGUMENT: more than was used. The driving thread.
  absl::Status OnCredit(uint32_t bytes);
  // There is room again in the connection's queue. One message may be written even if streams that
  // waited before this one have filled it meanwhile: else they could do so every time.
  void OnRoom();
  // The stream is over; `status` is not OK.
  void End(const absl::Status& status);

  // --- The user's ---

  // Sends `message`. OK: the half is ready once the next one may be written, and result() then says
  // whether this one was sent. FAILED_PRECONDITION: the half is not ready for it, or was closed.
  absl::Status Write(transport::OutgoingMessage message);
  // Of the last Write, once the half is ready: OK, the limit that the message exceeded (the stream
  // goes on), or the end of the stream.
  absl::Status result() const;
  // Tells the peer that nothing follows. Idempotent. The caller's end only.
  void Close();

 private:
  bool IsReady() const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || (open_ && credit_ > 0 && !waits_for_room_);
  }
  // Sends it, credit being taken already.
  void SendNow(transport::OutgoingMessage message, uint64_t bytes);
  void WaitForRoom();

  Stream* const stream_;
  bool begun_ = false;  // the user's: a message was written
  uint32_t window_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t credit_ ABSL_GUARDED_BY(mutex_) = 0;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  bool waits_for_room_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // by the user
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  // Written before the stream had a connection.
  transport::OutgoingMessage early_ ABSL_GUARDED_BY(mutex_);
  absl::Status result_ ABSL_GUARDED_BY(mutex_);  // of the last Write, or the end
};

}  // namespace mi7
