#pragma once

// Doorbell: how one side sleeps and the other wakes it.
//
// Why no wakeup is lost. Every event marked here is sequentially consistent, or separated by a
// sequentially consistent fence:
//   sleeper:  S1 attention = this sleep    S2 looks at the ring (and at room)    S3 sleeps
//   waker:    W1 writes a record (or frees room)    W2 reads attention; wakes this sleep if it is
//             not kAwake and was not woken yet
// Either S2 sees W1, or W2 sees S1. What wakes a thread in a futex is a change of `bell`, whose
// value the sleeper read before S1: if the waker changes it before S3, S3 returns at once. What
// wakes an event loop is a byte on the socket, which stays until it is read.
//
// `attention` is written by the side it describes alone, `bell` by its peer alone: each in the half
// of its writer, so the sleeper waits on a word of the peer's half, which it can only read.
// A hostile peer can wake us for nothing, or not at all; the first costs a look at the ring, the
// second what not sending costs. Waits of threads are bounded by their deadlines.

#include <atomic>
#include <cstdint>

#include "base/deadline.h"
#include "transport/shm/layout.h"

namespace mi7::transport::shm {

// Our side of both directions. Thread-safe where noted.
class Doorbell {
 public:
  // `socket` must outlive this.
  Doorbell(Control& mine, const Control& theirs, int socket)
      : mine_(mine), theirs_(theirs), socket_(socket) {}

  // --- Sleeping: by whoever drives the connection.

  // S1. `mode`: kFutex or kSocket, with kWantsRoom when there is something to be sent.
  void Declare(uint32_t mode) {
    sleeps_ += kAttentionStep;
    declared_ = sleeps_ | mode;
    bell_seen_ = theirs_.bell.load(std::memory_order_acquire);
    mine_.attention.store(declared_, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  // Relaxed: a peer that has not seen it yet wakes us for nothing.
  void Awake() {
    if (declared_ == kAwake) return;
    declared_ = kAwake;
    mine_.attention.store(kAwake, std::memory_order_relaxed);
  }
  uint32_t declared() const { return declared_; }

  // S3, after Declare(kFutex) and a look: sleeps until the peer rings, `kick` is no longer
  // `kick_seen`, `other` is no longer `other_seen`, `deadline`, or for no reason. `kick` and
  // `other` are woken by FUTEX_WAKE of this process.
  void SleepInFutex(const std::atomic<uint32_t>& kick, uint32_t kick_seen,
                    const std::atomic<uint32_t>& other, uint32_t other_seen, Deadline deadline);

  // --- Waking: any thread.

  // W2 of what was written before, by this thread. `only_for_room`: something was freed, nothing
  // sent. At most one system call, and only if the peer sleeps and was not woken before.
  void WakePeer(bool only_for_room) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t attention = theirs_.attention.load(std::memory_order_relaxed);
    if ((attention & kModeMask) == kAwake) [[likely]]
      return;
    if (only_for_room && (attention & kWantsRoom) == 0) return;
    WakeSlow(attention);
  }

 private:
  void WakeSlow(uint32_t attention);

  Control& mine_;
  const Control& theirs_;
  const int socket_;
  // The sleep of the peer that was woken last. Exchanged, so that of several threads one wakes;
  // relaxed: nothing else hangs on it.
  std::atomic<uint32_t> woken_{kAwake};
  uint32_t sleeps_ = 0;
  uint32_t declared_ = kAwake;
  uint32_t bell_seen_ = 0;
};

// Wakes a thread of this process that sleeps on `word`.
void WakeInProcess(const std::atomic<uint32_t>& word);

}  // namespace mi7::transport::shm
