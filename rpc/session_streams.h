#pragma once

// SessionStreams: what the streams of one connection share: what was agreed on with the peer, and
// who waits for room in the connection's queue.

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "transport/connection.h"

namespace mi7 {

class Stream;

// Thread-safe, except the On... functions, which the driving thread calls.
class SessionStreams {
 public:
  // `connection` must outlive it.
  SessionStreams(transport::Connection* connection, const transport::Negotiated& negotiated);

  transport::Connection& connection() const { return *connection_; }
  // Whether the peer can use streams.
  bool supported() const { return peer_window_ != 0; }
  // Bytes that the peer accepts on a new stream.
  uint32_t peer_window() const { return peer_window_; }

  // Whether a stream may send now. False: `stream`, of which a reference is kept until then, is
  // told by OnRoom, or the connection ends. It may also be told for nothing.
  bool HasRoom(Stream* stream);

  void OnWritable();
  void OnClosed();

 private:
  // Those that wait, in order, linked by Stream::next_waiting_; they leave the list.
  Stream* TakeWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Connection* const connection_;
  const uint32_t peer_window_;  // 0: the peer knows no streams
  Mutex mutex_;
  Stream* last_waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;  // linked to the one before it
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mi7
