#pragma once

// SessionStreams: what the streams of one connection share: what was agreed on with the peer, and
// who waits for room in the connection's queue.

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/limits.h"
#include "base/mutex.h"
#include "transport/connection.h"

namespace mi7 {

class Stream;

// Thread-safe, except the On... functions, which the driving thread calls.
class SessionStreams {
 public:
  // `connection` must outlive it.
  SessionStreams(transport::Connection* connection, const transport::Negotiated& negotiated,
                 const Limits& limits);

  transport::Connection& connection() const { return *connection_; }
  // Whether the peer can use streams.
  bool supported() const { return peer_window_ != 0; }
  // Bytes that the peer accepts on a new stream.
  uint32_t peer_window() const { return peer_window_; }

  // A stream is going to keep a message of so many bytes until its user takes it, or it is dropped
  // (LetGo). False: all of them keep limits.stream_kept_bytes_max already. One message is always
  // kept.
  bool Keep(uint64_t bytes) {
    // Relaxed: a count that orders nothing.
    const uint64_t before = kept_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    if (before == 0 || before + bytes <= kept_bytes_max_) [[likely]]
      return true;
    LetGo(bytes);
    return false;
  }
  void LetGo(uint64_t bytes) { kept_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t kept_bytes_max() const { return kept_bytes_max_; }

  // Whether a stream may send now. False: `stream`, of which a reference is kept until then, is
  // told by OnRoom, or the connection ends. It may also be told for nothing.
  bool HasRoom(Stream* stream);

  // Tells those that wait, in order, as long as there is room; who is told may wait again, behind
  // the others.
  void OnWritable();
  void OnClosed();

 private:
  // The first of those that wait leaves the list; nullptr: there is none.
  Stream* TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Connection* const connection_;
  const uint32_t peer_window_;  // 0: the peer knows no streams
  const uint64_t kept_bytes_max_;
  std::atomic<uint64_t> kept_bytes_{0};
  Mutex mutex_;
  // Those that wait, in order, linked by Stream::next_waiting_.
  Stream* first_waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Stream* last_waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mi7
