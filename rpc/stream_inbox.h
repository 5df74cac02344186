#pragma once

// StreamInbox: the receiving half of a stream: messages that have arrived and were not taken yet,
// the credit that the peer has, and the end.
//
// The peer may send while its credit is above 0, so what is kept here is at most the window and one
// message. Credit is granted anew when the user has taken half a window. What all streams of a
// connection keep together has a limit of its own (SessionStreams::Keep).

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "rpc/readiness.h"
#include "rpc/received_message.h"
#include "transport/message.h"

namespace mi7 {

class Stream;

// Thread-safety: see Readiness; OnMessage and OnHalfClose: the driving thread.
class StreamInbox final : public Readiness {
 public:
  // `window`: bytes that were granted to the peer by the Hello.
  StreamInbox(Stream* stream, uint32_t window);
  ~StreamInbox() { Drop(first_); }

  // INVALID_ARGUMENT: the peer sent it without credit, or after its end; also of a half that has
  // failed or was cleared, so that what comes for it then is what the peer had credit for.
  absl::Status OnMessage(transport::IncomingMessage&& message, bool is_first);
  // A message of so many bytes came that the transport could not deliver.
  absl::Status OnRejected(uint32_t bytes) {
    MutexLock lock(&mutex_);
    return Charge(bytes);
  }
  // The peer sends no more. INVALID_ARGUMENT: it said so before.
  absl::Status OnHalfClose();
  // There is room again for a credit that was due.
  void OnRoom();
  // The stream is over. What has arrived can still be taken, and then `status` is the end; the
  // first failure, if it is told several.
  void End(const absl::Status& status);
  // The same, but what was not taken is dropped. Both under one lock: a user who has been told that
  // there is something finds the end then, with its status.
  void Clear(const absl::Status& status);
  // Messages that the peer may send without further credit; with one of so many bytes.
  uint32_t MessagesMost() const;
  static constexpr uint32_t MessagesIn(uint64_t credit) {
    // A message has a header and something else.
    return static_cast<uint32_t>(credit / (transport::kFrameHeaderBytes + 8) + 1);
  }

  // --- The user's ---

  // How the user's last read that did not give a message has ended; OK until then.
  absl::Status& read_status() { return read_status_; }

  // kNothing: it is not ready.
  enum class Taken { kMessage, kEnd, kNothing };
  Taken Take(ReceivedMessageRef& message);
  // The end, once Take has said kEnd: OK for one in order.
  absl::Status end() const {
    MutexLock lock(&mutex_);
    return end_;
  }

 private:
  bool IsReady() const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return first_ != nullptr || closed_;
  }
  // The peer has used credit for a message.
  absl::Status Charge(uint32_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What End does under the lock. Who waited is to be woken.
  Waiter EndLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts `bytes` as taken; what is to be granted now, 0 for nothing.
  uint32_t Give(uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Drop(ReceivedMessage* first);

  Stream* const stream_;
  const uint32_t window_;
  // The queue. Read without the mutex by the destructor.
  ReceivedMessage* first_ = nullptr;
  ReceivedMessage* last_ = nullptr;
  // Credit that the peer has left, as seen from here. Below 0 by less than one message.
  int64_t granted_ ABSL_GUARDED_BY(mutex_);
  uint32_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;   // in the queue
  uint64_t taken_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // and not granted anew
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;  // by the peer
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;       // no further message comes
  bool cleared_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  absl::Status read_status_;  // the user's
};

}  // namespace mi7
