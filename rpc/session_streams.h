#pragma once

// SessionStreams: what the streams of one connection share: what was agreed on with the peer, and
// who waits for room in the connection's queue.

#include <atomic>
#include <cstddef>
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

  // A stream is going to keep a message of so many bytes until its user takes it, or it is dropped
  // (LetGo). False: with it all of them would keep more than `limit` bytes. One message is always
  // kept. The driving thread.
  bool Keep(uint32_t bytes, uint32_t limit) {
    // Relaxed: a count that orders nothing. Between the two it only falls.
    const uint32_t kept = kept_bytes_.load(std::memory_order_relaxed);
    if (kept != 0 && (kept > limit || bytes > limit - kept)) [[unlikely]]
      return false;
    kept_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    return true;
  }
  // Any thread.
  void LetGo(uint32_t bytes) { kept_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

  // A stream is over at this end, but not yet as the peer knows: so many frames of it, which the
  // peer sent in good faith, may still come. Before the first of them can be taken for a stray
  // frame. Any thread.
  void ExpectLate(uint32_t frames) {
    // Relaxed, as below: who ends the stream hands over by a lock that its frames are looked up
    // under. More than so many are as good as any number.
    constexpr uint32_t kMost = uint32_t{1} << 30;
    if (late_frames_.load(std::memory_order_relaxed) < kMost) {
      late_frames_.fetch_add(frames, std::memory_order_relaxed);
    }
  }
  // A frame came for no stream of ours: whether it is one of those. The driving thread.
  bool TakeLate() {
    // Between the two it only rises.
    if (late_frames_.load(std::memory_order_relaxed) == 0) return false;
    late_frames_.fetch_sub(1, std::memory_order_relaxed);
    return true;
  }

  // Whether a stream may send now. False: `stream`, of which a reference is kept until then, is
  // told by OnRoom, or the connection ends. It may also be told for nothing.
  bool HasRoom(Stream* stream);
  // `stream`, which is not of this connection any more (Stream::IsOf), is not told.
  void Forget(Stream* stream);

  // Tells those that wait, in order, as long as there is room; who is told may wait again, behind
  // the others.
  void OnWritable();
  void OnClosed();

 private:
  static Stream* Closed();  // no stream
  // How many of them wait.
  size_t Waiting();
  // The first of those that wait leaves the list; nullptr: there is none.
  Stream* TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  transport::Connection* const connection_;
  const uint32_t peer_window_;  // 0: the peer knows no streams
  Mutex mutex_;
  // Those that wait, in order, in a ring linked by Stream::next_waiting_; nullptr: none; Closed():
  // nobody waits any more.
  Stream* last_waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::atomic<uint32_t> kept_bytes_{0};
  std::atomic<uint32_t> late_frames_{0};
};

}  // namespace mi7
