#pragma once

// DriverToken: who drives a connection, one at a time.
//
// The driver reads, parses and dispatches. Candidates are threads in Connection::Await, which list
// their Completion while they wait, and the event loop. Whoever takes the token drives until its
// own wait is over, then releases, which hands the turn to a waiter or wakes nobody.
//
// Why no turn is lost. Every event marked here is sequentially consistent, so all threads agree on
// one order of them:
//   waiter:   W1 waiters_ counts it            W2 TryTake
//   loop:     L1 loop_wanted_ = true           L2 TryTake
//   releaser: R1 held_ = false                 R2 reads waiters_      R3 reads loop_wanted_
// If W2 finds the token held, the R1 that ends this hold is after W2, hence after W1, and its R2
// sees the waiter and offers it the turn (or another waiter, see below). The same for L1, L2, R1,
// R3: Release then tells its caller to call the loop. A turn offered to a waiter that leaves
// without driving (it was completed, or its deadline passed) is passed on by Unlist: it looks for a
// free token and a further waiter, after it left the list. A waiter that was offered a turn and
// finds the token taken by somebody quicker stays listed, so that one's release offers again.

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "transport/completion.h"

namespace mi7::transport {

// Thread-safe. 24 bytes.
// Memory ordering: TryTake acquires what Release released, so a driver sees all that the drivers
// before it did.
class DriverToken {
 public:
  DriverToken() = default;
  DriverToken(const DriverToken&) = delete;
  DriverToken& operator=(const DriverToken&) = delete;

  // Takes the token when it is free. Never blocks.
  bool TryTake() {
    // The load keeps losers from fighting for the cache line; it is part of W2 and L2.
    return !held_.load(std::memory_order_seq_cst) &&
           !held_.exchange(true, std::memory_order_seq_cst);
  }

  // Frees the token and offers the turn to a waiter. True when the loop wants the token: the
  // caller must make the loop try again. The holder only.
  [[nodiscard]] bool Release() {
    held_.store(false, std::memory_order_seq_cst);                   // R1
    if (waiters_.load(std::memory_order_seq_cst) != 0) OfferTurn();  // R2
    return loop_wanted_.load(std::memory_order_seq_cst) &&           // R3
           loop_wanted_.exchange(false, std::memory_order_seq_cst);
  }

  // The loop's TryTake: when it fails, the release that ends the present hold returns true.
  bool TryTakeForLoop() {
    if (TryTake()) return true;
    loop_wanted_.store(true, std::memory_order_seq_cst);  // L1
    return TryTake();                                     // L2
  }

  // Lists a waiter, which must then TryTake (W2) before it sleeps.
  void List(Completion& waiter);
  // Ends that; `waiter` must be listed. Passes on a turn that it may have been offered.
  void Unlist(Completion& waiter);

  // Whether a thread waits for its turn. For a holder that would keep the token: a waiter listed
  // itself before it found the token held, so whoever looks again and again, and releases before it
  // sleeps, leaves no waiter behind.
  bool wanted() const { return waiters_.load(std::memory_order_relaxed) != 0; }

  bool held() const { return held_.load(std::memory_order_seq_cst); }

 private:
  void OfferTurn();

  std::atomic<bool> held_{false};
  std::atomic<bool> loop_wanted_{false};
  std::atomic<uint32_t> waiters_{0};
  Mutex mutex_;
  Completion* first_ ABSL_GUARDED_BY(mutex_) = nullptr;  // oldest; ring: first_->previous_ is last
};
static_assert(sizeof(DriverToken) <= 24);

}  // namespace mi7::transport
