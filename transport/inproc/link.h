#pragma once

// Link: a pair of connections within one process, the two sides of which queue messages for each
// other. A message is not copied: what one side built is what the other reads.
//
// Who drives. Every side has an event loop that drives it when nobody else does. A thread in Await
// drives its own side, and also the other one while it waits without a deadline, so that the
// handler of a blocking call runs on the caller's thread: no thread hop, and no more than a
// function call's distance. With a deadline it leaves the other side to its loop, because a
// handler that takes longer than the deadline must not hold the caller.
//
// One mutex guards both sides; it is not held during callbacks. At most one thread drives a side
// (Side::driven). Every thread that stops driving while there is more to do, and every thread that
// adds something to do, makes sure under the mutex that somebody will do it (Announce): a thread
// asleep in Await, or the loop.
//
// Kick or wait. The loop should not be woken for a request whose sender is about to Await and will
// drive itself; waking costs more than the call. Whether it will is foretold by what it did last
// (Side::awaits). A forecast that fails costs one kLazyPeriod: a timer of the loop, armed only
// while there is traffic, finds what nobody came for, and the next request wakes the loop at once.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "base/limits.h"
#include "base/mutex.h"
#include "transport/completion.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/message.h"
#include "transport/message_queue.h"
#include "transport/spin_budget.h"
#include "transport/wait_policy.h"

namespace mi7::transport::inproc {

// What a side is made of.
struct SideOptions {
  EventLoop* loop = nullptr;  // outlives the side's OnClosed
  Limits limits;
  WaitPolicy wait = WaitPolicy::kAdaptive;
  // The listener's side: its Sends are never refused for a full queue; it stops taking in messages
  // instead. Always driven promptly.
  bool accepted = false;
  // Released when the side is closed; counts connections.
  std::shared_ptr<void> while_open;
  // What the other side sees as Negotiated::peer_instance.
  uint64_t instance = 0;
};

// Thread-safe; see connection.h for the contract of each function. Owned by the two connections
// and by what they posted to their loops.
class Link : public std::enable_shared_from_this<Link> {
 public:
  enum Which : int { kConnector = 0, kAcceptor = 1 };

  Link(std::string endpoint, SideOptions connector, SideOptions acceptor);
  ~Link();

  void Start(Which which, std::shared_ptr<Receiver> receiver);
  absl::StatusOr<OutgoingMessage> Reserve(Which which, size_t bytes);
  absl::Status Send(Which which, OutgoingMessage&& message);
  bool HasRoom(Which which);
  void RequestWritable(Which which);
  void Close(Which which, absl::Status why);
  bool Await(Which which, Completion& completion, Deadline deadline);
  void SetBackground(Which which, bool wanted);
  bool InCallback(Which which) const;
  ConnectionInfo info(Which which) const;

 private:
  // Messages in order; intrusive, so that queueing allocates nothing.
  class Queue {
   public:
    Queue() = default;
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
    ~Queue() {
      while (!empty()) Pop();
    }
    bool empty() const { return first_ == nullptr; }
    void Push(OutgoingMessage message) {
      MessageBody* const body = message.release();
      body->next = nullptr;
      (first_ == nullptr ? first_ : last_->next) = body;
      last_ = body;
    }
    OutgoingMessage Pop() {
      MessageBody* const body = first_;
      first_ = body->next;
      return OutgoingMessage(body);
    }
    void swap(Queue& other) {
      std::swap(first_, other.first_);
      std::swap(last_, other.last_);
    }

   private:
    MessageBody* first_ = nullptr;
    MessageBody* last_ = nullptr;
  };

  // A thread in Await. On its stack; in the list only while it sleeps.
  struct Waiter {
    Completion& completion;
    const Deadline deadline;
    const bool drives_other;
    bool listed = false;
    Waiter* previous = nullptr;
    Waiter* next = nullptr;
  };

  enum class State { kOpen, kClosing, kClosed };

  struct Side {
    Side(Link* of_link, SideOptions side_options);

    Queued inbox_count() const {
      return {.bytes = inbox_bytes.load(std::memory_order_relaxed),
              .messages = inbox_messages.load(std::memory_order_relaxed)};
    }
    void SetInboxCount(const Queued& count) {
      inbox_bytes.store(count.bytes, std::memory_order_relaxed);
      inbox_messages.store(static_cast<uint32_t>(count.messages), std::memory_order_relaxed);
    }

    Link* const link;
    EventLoop* const loop;
    const Limits limits;
    const WaitPolicy wait;
    const bool accepted;
    std::shared_ptr<void> while_open;
    // What both sides accept; the sender keeps it, so that nothing arrives that must be refused.
    Limits send_limits;

    // Changed under the mutex, read without it for a first guess.
    std::atomic<State> state{State::kOpen};
    std::atomic<uint64_t> inbox_bytes{0};
    std::atomic<uint32_t> inbox_messages{0};
    std::atomic<bool> driven{false};  // a thread runs a callback of this side

    std::shared_ptr<Receiver> receiver;
    Queue inbox;             // sent by the other side, not delivered yet
    uint64_t delivered = 0;  // messages, ever
    bool started = false;
    bool background = false;
    bool awaits = true;  // sending is expected to be followed by Await
    bool pump_posted = false;
    bool writable_wanted = false;  // a Send was refused
    bool writable_due = false;     // and there is room again
    bool paused = false;           // takes nothing in until its own messages are taken
    absl::Status why;              // from kClosing on
    Waiter* sleepers = nullptr;    // ring, oldest first
    uint32_t waking = 0;           // were asleep, were offered the turn, do not run yet
    uint32_t waking_for_both = 0;  // of these, those that drive the other side too
    const uint64_t instance;
    SpinBudget spin_budget;

    // The timer behind Kick or wait.
    std::optional<EventLoop::Timer> timer;
    bool timer_armed = false;
    bool timer_needed = false;     // since the last tick
    uint64_t timer_delivered = 0;  // `delivered` at the last tick
  };

  // Frames of this thread's stack that are inside Await of a side.
  struct Frame {
    const Side* side;
    Frame* outer;
    bool drives_other;
  };
  class FrameScope;
  class SideCallback;
  static constinit thread_local Frame* await_frames_;

  static bool IsOpen(const Side& side, const Side& other) {
    return side.state.load(std::memory_order_relaxed) == State::kOpen &&
           other.state.load(std::memory_order_relaxed) == State::kOpen;
  }
  // Whether a call may be added to what waits for the `other` side.
  static bool IsBelowBound(const Side& side, const Side& other) {
    return side.accepted || other.inbox_count().weight() < side.limits.queued_bytes_max;
  }
  Side& Other(const Side& side) { return &side == &sides_[0] ? sides_[1] : sides_[0]; }

  // What there is to do for `side`: a callback by whoever drives, or its end, by the loop alone.
  bool HasCallback(const Side& side) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return side.started && side.state.load(std::memory_order_relaxed) == State::kOpen &&
           (side.writable_due || (!side.inbox.empty() && !side.paused));
  }
  bool HasEnd(const Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CanDrive(const Side& side) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !side.driven.load(std::memory_order_relaxed) && HasCallback(side);
  }

  // Makes sure that somebody runs the callbacks that `side` has.
  void Announce(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (CanDrive(side)) FindDriver(side);
  }
  void FindDriver(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the calling thread, having sent from `sender`, is expected to do so itself.
  bool WillDriveItself(const Side& sender) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WakeSleeper(Side& awaited, bool to_drive_other) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PostPump(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ArmTimer(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    side.timer_needed = true;
    if (!side.timer_armed) StartTimer(side);
  }
  void StartTimer(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Runs one callback, with the mutex released; false when there is none to run, or somebody else
  // drives. The end of the side, if that comes next, is left to the loop.
  bool DriveOne(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!CanDrive(side)) return false;
    RunOne(side);
    return true;
  }
  // Releases the mutex and takes it again.
  void RunOne(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  OutgoingMessage TakeFromInbox(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `left` is in the inbox of a side whose `sender` waits for room.
  void MadeRoom(Side& sender, const Queued& left) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What Reserve refuses with: closed, or full, and then the side is told when there is room. OK:
  // there is some by now.
  absl::Status RefuseReserve(Side& side) ABSL_LOCKS_EXCLUDED(mutex_);

  // Loop thread.
  void Pump(Side& side);
  void PumpLocked(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tick(Side& side);

  // One wait within Await: polls, then sleeps; returns when there may be something to do.
  void Wait(Side& side, Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Poll(const Side& side, const Waiter& waiter, int64_t until_ns);
  static void LinkSleeper(Side& side, Waiter& waiter);
  static void UnlinkSleeper(Side& side, Waiter& waiter);

  absl::Status Closed(const Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status QueueFull(Side& side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string endpoint_;
  Mutex mutex_;
  std::array<Side, 2> sides_;  // what is not const or atomic is guarded by mutex_
};

}  // namespace mi7::transport::inproc
