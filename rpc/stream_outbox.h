#pragma once

// StreamOutbox: the sending half of a stream: the credit that the peer has granted, and the end.
//
// The user writes one message at a time, and the next one when the half is ready for it: when there
// is credit, and room in the connection's queue. So nothing is queued here, however slow the peer
// is, but the first message, which is written when the user likes: it is kept as long as the call
// has no connection, or that one's queue no room.

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "rpc/interceptor.h"
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
    kWaitingForRoom,  // connected; nothing was sent yet
    kOpening,         // the message that was written early is being sent
    kOpen,
  };
  // From kWaitingForRoom to kOpen; nothing in other stages.
  void Begin();
  // Why a message must not be written now.
  absl::Status Refusal() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the interceptors say.
  absl::Status Intercept(const Interceptors& interceptors, transport::OutgoingMessage& message);
  // Sends it, credit being taken already.
  void SendNow(transport::OutgoingMessage message, uint64_t bytes);
  void WaitForRoom();

  Stream* const stream_;
  // Relaxed: who writes knows that the last write has completed.
  std::atomic<bool> sent_any_{false};
  uint32_t window_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t credit_ ABSL_GUARDED_BY(mutex_) = 0;
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kUnconnected;
  bool waits_for_room_ ABSL_GUARDED_BY(mutex_) = false;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;    // the connection; the end comes
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // by the user
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  // The first message, before kOpening.
  transport::OutgoingMessage early_ ABSL_GUARDED_BY(mutex_);
  absl::Status result_ ABSL_GUARDED_BY(mutex_);  // of the last Write, or the end
};

}  // namespace mi7
