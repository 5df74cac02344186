#pragma once

// Event: sleeping until another participant changes something, by futex on a shared word.
//
//   sleeper:  S1 Declare()           S2 looks for work; found: done   S3 Sleep(ticket)
//   changer:  C1 makes the change    C2 Notify(): reads the word; if somebody is declared, wakes
//   one
//
// The word is sequence:31 | declared:1. S1, S2, C1 and C2 are sequentially consistent, so either S2
// sees C1, or C2 sees S1. In the latter case C2 changes the word, and S3 sleeps only while
// the word is what S1 left: no wakeup is lost.
//
// Notify wakes one sleeper and takes the declaration away, though others may sleep. So who
// was woken declares itself again before it looks (S1 of its next round), and after it has
// found work it calls Notify if there is more: the baton is passed on. A woken one that dies
// before that leaves others asleep; so every sleep is bounded (kLookAgainNs), and recovery wakes
// all.

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "transport/slot_pipe/atomic.h"

namespace mi7::slot_pipe_internal {

// How long anybody sleeps before it looks for itself, for work and for the dead.
inline constexpr int64_t kLookAgainNs = 40'000'000;

// A view of a shared word. Thread-safe, across processes.
class Event {
 public:
  explicit Event(Atomic<uint32_t>& word) : word_(word) {}

  // S1.
  uint32_t Declare() { return word_.fetch_or(1, std::memory_order_seq_cst) | 1; }
  // All of it, for a sleeper: until `attempt()` is true (S2), or `sleep(ticket)` is false, which
  // sleeps (S3) or gives up. Then passes the baton on if there is `more()`. False: given up.
  bool Await(absl::FunctionRef<bool()> attempt, absl::FunctionRef<bool(uint32_t)> sleep,
             absl::FunctionRef<bool()> more);
  // S3. For `timeout_ns` at most; may return early.
  void Sleep(uint32_t ticket, int64_t timeout_ns);
  // C2. At most one system call, and only when somebody is declared.
  void Notify() {
    const uint32_t word = word_.load(std::memory_order_seq_cst);
    if ((word & 1) != 0) Wake(word, 1);
  }
  void NotifyAll();
  // For who sleeps on several words at once.
  const Atomic<uint32_t>& word() const { return word_; }

 private:
  void Wake(uint32_t word, int count);

  Atomic<uint32_t>& word_;
};

}  // namespace mi7::slot_pipe_internal
