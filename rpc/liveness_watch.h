#pragma once

// LivenessWatch: finds connections whose peer is gone without a word (keepalive), and those that
// nobody uses any more (idle timeout). One for the connections of a server, or of the channels that
// were made with equal options on one event loop.
//
// Nothing here reads a clock or sets a timer when a message comes or goes. The watch looks at its
// sessions at intervals, several times in each of the times that it keeps, for whether anything has
// arrived. So a look that comes late, because the process or the machine was stopped or
// the loop was busy, counts as one look only: a peer is given up after several looks, between which
// the loop has read whatever had arrived.
//
// A session is looked at from its first call on, and no longer once it has no calls in flight,
// unless idle connections are to be closed. With nothing to look at there is no timer: an idle
// process makes no wakeups.

#include <cstdint>
#include <deque>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "base/limits.h"
#include "base/mutex.h"
#include "transport/event_loop.h"

namespace mi7 {

class Session;

// Thread-safe.
class LivenessWatch : public std::enable_shared_from_this<LivenessWatch> {
 public:
  // nullptr when there is nothing to watch for. `loop` must live until Close, or until the last
  // reference is gone. `idle_timeout`: infinite for none.
  static std::shared_ptr<LivenessWatch> Create(transport::EventLoop* loop,
                                               const Keepalive& keepalive,
                                               absl::Duration idle_timeout);

  // Whether sessions without calls are watched, too.
  bool closes_idle() const { return idle_looks_ != 0; }
  const Keepalive& keepalive() const { return keepalive_; }

  // Begins to look at `session`, which is told by StopWatching when that ends.
  void Add(std::weak_ptr<Session> session);
  // Before the loop goes.
  void Close();

 private:
  LivenessWatch(const Keepalive& keepalive, absl::Duration idle_timeout);
  void Look();
  // False: it is not looked at any more.
  bool LookAt(Session& session);
  void Arm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Keepalive keepalive_;
  const absl::Duration idle_timeout_;
  absl::Duration interval_;  // between looks
  // The times in looks; 0: not kept.
  uint16_t ping_looks_ = 0;
  uint16_t answer_looks_ = 0;
  uint16_t idle_looks_ = 0;
  uint16_t going_looks_ = 0;  // that a peer has to go when it was asked to, or for its first call

  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool armed_ ABSL_GUARDED_BY(mutex_) = false;
  // 16 bytes each, what is known of them is theirs: idle connections may be many.
  std::deque<std::weak_ptr<Session>> watched_ ABSL_GUARDED_BY(mutex_);
  // Those of watched_ meanwhile, and empty otherwise. Loop thread only.
  std::deque<std::weak_ptr<Session>> looked_at_;
  std::unique_ptr<transport::EventLoop::Timer> timer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mi7
