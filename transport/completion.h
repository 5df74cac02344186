#pragma once

// Completion: what a thread blocked in a synchronous call waits for.
//
// One thread waits; any thread completes, once. While waiting, the thread may be asked to drive
// the connection ("it is your turn") by another thread that stops driving it; see driver.h.
//
// Memory ordering: Complete() releases and done()/Sleep() acquire, so what the completing thread
// wrote before Complete() (the reply) is visible to the waiter. The futex word is the state
// itself; a completer makes the system call only when the waiter announced that it sleeps
// (kSleeping), which the waiter does by compare-and-swap, so no wakeup is lost: either the waiter
// sees the new state, or the completer sees kSleeping.

#include <atomic>
#include <cstdint>

#include "base/deadline.h"

namespace mi7::transport {

class Completion {
 public:
  Completion() = default;
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  bool done() const { return state_.load(std::memory_order_acquire) == kDone; }

  // Ends the wait. After this call the waiter may destroy the Completion at any moment, so the
  // caller touches it no more. At most one system call, only when the waiter sleeps.
  void Complete() { Signal(kDone); }

  // The same by the waiter itself, from within the connection that it drives: it does not sleep and
  // is in no list, so nobody else signals it.
  void CompleteBySelf() { state_.store(kDone, std::memory_order_release); }

  // Asks the waiter to drive the connection. Ignored when it is done already.
  void OfferTurn() { Signal(kTurn); }

  enum class Woken { kDone, kTurn, kDeadline };
  // Sleeps until completed, asked to drive, or `deadline`, after FlushCallbacks. The waiting thread
  // only.
  Woken Sleep(Deadline deadline);

  // Before a thread waits, in whatever way: what connections hold back that it has sent inside
  // their callbacks leaves (callback_scope.h).
  static void FlushCallbacks();

  // For a waiter that sleeps in the system on this and something else at once: announces the sleep
  // (false: done already). It then sleeps while word() is kAsleep, and ends with EndSleep.
  bool AnnounceSleep();
  void EndSleep();
  const std::atomic<uint32_t>& word() const { return state_; }
  static constexpr uint32_t kAsleep = 1;

  // Makes the object usable for another wait. Only when nobody can complete it any more.
  void Reset() { state_.store(kIdle, std::memory_order_relaxed); }

 private:
  friend class DriverToken;
  enum State : uint32_t { kIdle = 0, kSleeping = kAsleep, kTurn = 2, kDone = 3 };
  void Signal(State state);

  std::atomic<uint32_t> state_{kIdle};
  // Links of DriverToken's list of waiters, guarded by its mutex.
  Completion* previous_ = nullptr;
  Completion* next_ = nullptr;
  bool listed_ = false;
};

}  // namespace mi7::transport
