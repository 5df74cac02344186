#pragma once

// Wait: one wait of a thread or a coroutine for the first of several things, each of which may be
// done for it by other threads at the same time. The algorithm is that of Go's select
// (runtime/chan.go and select.go of the Go project): a waiter is entered in the list of each
// channel, and whoever can do something for it *claims* it first. A claim is had by one only, so
// exactly one thing is done.
//
//   waiter     W1 enters itself in the lists    W2 sleeps until finished
//              W3 removes itself from the lists, whose locks it takes for that
//   channel    C1 under its lock: takes an entry off its list, claims its wait, hands over the
//   value
//              C2 without the lock: finishes the wait
//   deadline   the waiter claims itself; when somebody else was quicker, it waits for C2
//
// Memory ordering. A claim only decides who acts, so it is relaxed. What is handed over is written
// under the channel's lock, which W3 takes; the outcome is published by C2, which is a Completion
// for a thread and an EventLoop::Post, or `stage_`, for a coroutine.

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/container/inlined_vector.h"
#include "base/deadline.h"
#include "transport/completion.h"
#include "transport/event_loop.h"

namespace mi7::channels_internal {

// Thread-safe. Used for one wait.
class Wait {
 public:
  // How a wait ends: the index of what was done for it (Entry::index), or one of these.
  static constexpr int kLookAgain = -1;  // something has changed
  static constexpr int kDeadline = -2;

  // Both are true for one caller in all. The waiter's claim means that nothing more is done for it.
  bool Claim() { return !claimed_.exchange(true, std::memory_order_relaxed); }
  // Somebody else's, who then calls Finish, and whom the wait outlives until then.
  bool ClaimToFinish() {
    if (!Claim()) return false;
    Keep();
    return true;
  }
  // Under no lock of a channel: the last that is done to it from outside.
  virtual void Finish(int outcome) = 0;

  // Whether the waiter may go, being a coroutine, before it has taken what was handed over.
  bool may_go() const { return may_go_; }

 protected:
  explicit Wait(bool may_go) : may_go_(may_go) {}
  ~Wait() = default;

 private:
  virtual void Keep() = 0;

  std::atomic<bool> claimed_{false};
  const bool may_go_;
};

// Of a thread; on its stack.
class ThreadWait final : public Wait {
 public:
  ThreadWait() : Wait(/*may_go=*/false) {}
  void Finish(int outcome) override {
    outcome_ = outcome;
    done_.Complete();
  }
  // Polls for a while that follows what was seen to help, then sleeps, until finished or
  // `deadline`. The outcome; after that the wait is nobody's any more.
  int Await(Deadline deadline);

  // For waiters that look at something else, too: what tells that it is finished, and the end of
  // such a wait, which is `outcome` unless somebody else has claimed it.
  transport::Completion& done() { return done_; }
  int End(int outcome);

 private:
  void Keep() override {}  // its thread waits for Finish

  transport::Completion done_;
  int outcome_ = kLookAgain;
};

// Who is told, on the loop's thread, that its wait has ended.
class Suspended {
 public:
  virtual void OnFinished() = 0;

 protected:
  ~Suspended() = default;
};

// Of a coroutine, shared by its awaiter and by who finishes it: a coroutine may be destroyed at any
// time on its loop's thread.
class CoroutineWait final : public Wait, public std::enable_shared_from_this<CoroutineWait> {
 public:
  CoroutineWait(transport::EventLoop* loop, Suspended* suspended)
      : Wait(/*may_go=*/true), loop_(loop), suspended_(suspended) {}

  // Ends with kDeadline at `deadline`, unless something else comes first.
  void EndAt(Deadline deadline);
  // After everything was entered: true when the coroutine is to be suspended and OnFinished will be
  // called, maybe has been, so that the caller touches nothing of the coroutine's any more. False:
  // finished already.
  bool Suspend();
  int outcome() const { return outcome_; }
  // By a waiter that was suspended and is about to go, on the loop's thread: it is not told, and
  // nothing more is done for it. What was claimed before is done all the same.
  void Abandon();

  void Finish(int outcome) override;

 private:
  enum Stage : int { kEntering, kSuspended, kFinished };

  void Keep() override { self_ = shared_from_this(); }

  transport::EventLoop* const loop_;
  Suspended* suspended_;                 // null when abandoned; loop's thread
  std::shared_ptr<CoroutineWait> self_;  // of whoever has claimed it
  std::optional<transport::EventLoop::Timer> timer_;
  std::atomic<int> stage_{kEntering};
  int outcome_ = kLookAgain;
};

// A wait in the list of one channel. Lives with the waiter; the list's lock guards all of it while
// it is in the list.
struct Entry {
  Wait* wait = nullptr;
  int index = 0;          // outcome of the wait, when this is what was done for it
  void* value = nullptr;  // to send: a T; to receive: a std::optional<T>
  uint64_t ticket = 0;    // of the value that was handed over to it: ChannelState::PutBack
  Entry* previous = nullptr;
  Entry* next = nullptr;
  bool listed = false;
  bool on_the_way = false;  // the value that was handed over may still be put back
};

// A wait that was claimed, to be finished when the lock is free.
struct Claimed {
  Wait* wait = nullptr;
  int outcome = 0;
  void Finish() const {
    if (wait != nullptr) wait->Finish(outcome);
  }
};
using ClaimedList = absl::InlinedVector<Claimed, 4>;

// The waits of one kind in one channel, first come, first served. Guarded by the channel's lock.
class EntryList {
 public:
  void Add(Entry& entry);
  void Remove(Entry& entry);  // if it is there
  // Takes off the first one that can be claimed, for its value to be handed over; null: there is
  // none. `claimed` is to be finished.
  Entry* ClaimFirst(Claimed& claimed);
  // Claims all, to look again.
  void ClaimAll(ClaimedList& claimed);

 private:
  Entry* first_ = nullptr;
  Entry* last_ = nullptr;
};

}  // namespace mi7::channels_internal
