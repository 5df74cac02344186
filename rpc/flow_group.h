#pragma once

// FlowGroup: flow control for Cap'n Proto's `-> stream` methods, on the side that calls them.
//
// A `-> stream` method is unary and has no results: what streams is a series of its calls, whose
// answers nobody looks at one by one. The group counts the bytes of calls that are not answered
// yet, lets its user send the next call while they are below a window, and keeps the first failure.
// Of small messages, of which a window holds very many, it lets as many be in flight as are half of
// what the connection admits.
//
// Calls that have certainly not run are made again as others are (call_repeats.h), but in their
// order. One that was refused, or not sent, is *held*: from then on nothing further is sent, and
// the user waits. When all calls in flight have ended but those that are held, and none behind the
// first of these has run, or may have, they are sent again, one after the other. Otherwise the
// series ends as the first of them has failed.
//
// Calls of one connection begin in their order, those of two do not. So when the channel has given
// up its connection (Channel::moves), the next call is held, too, until those in flight have ended:
// those that the old server refuses are then sent before it. The usual call pays for none of that.
//
// Locks are taken in the order: that of a call's attempts, the group's, the channel's.
//
// Thread-safety: Send, Finish and what they return are used by one thread at a time; answers arrive
// on any thread.

#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "rpc/readiness.h"
#include "rpc/request.h"

namespace mi7 {

class FlowGroup;
class FlowGroupRef;

// A call of a group that is not answered, with the handle's reference, and its place among them.
// The group's, under its mutex, but for what is constant.
struct FlowCall {
  FlowCall(FlowGroup* of, ClientCallRef own, uint64_t size)
      : group(of), call(std::move(own)), bytes(size) {}
  FlowGroup* const group;
  const ClientCallRef call;
  uint64_t bytes;
  uint64_t number = 0;  // from 1 on, in their order; 0: none of them, in a forked child
  uint32_t moves = 0;   // Channel::moves of those in flight, when it was sent; read by its sender
  bool held = false;
  bool rests = false;  // held, and its time to be made again has not come
  FlowCall* before = nullptr;
  FlowCall* after = nullptr;
};

class FlowGroup final : public Readiness, public Readiness::Owner {
 public:
  // With one reference. `window`: bytes of calls in flight at which the next one waits.
  static FlowGroup* New(uint32_t window) { return new FlowGroup(window); }

  // --- Readiness::Owner ---
  void Ref() override { references_.fetch_add(1, std::memory_order_relaxed); }
  void Unref() override;
  absl::string_view name() const override { return "-> stream calls"; }

  // Sends `call`. OK: the group is ready once the next one may be sent, and result() then says
  // whether one has failed. Not OK: nothing was sent, because one has failed, or
  // (FAILED_PRECONDITION) because the group is not ready for it.
  absl::Status Send(ClientCallRef call);
  // OK: the group is ready once every call is answered; result() then says how, and the group
  // begins anew. FAILED_PRECONDITION: its user still waits for the call that was sent last, or for
  // another Finish.
  absl::Status Finish();
  // Once the group is ready: OK, or the first failure since the last Finish.
  absl::Status result();

  // Of the call that was sent last; empty when there is none since the last Finish.
  CallCanceller canceller() const { return last_ ? CallCanceller(last_.get()) : CallCanceller(); }
  // A coroutine that waits is destroyed: it is not resumed, and takes back the call that was sent
  // last, or, after Finish, each one that is not answered. CANCELLED is then the group's failure.
  // Not while the group may become ready on another thread.
  void Abandon();
  // The same for one that goes no further once the group is ready, in place of result().
  void Stop();

  // --- CallRepeats'

  // `call`, which is not over (its attempts' mutex is held, without which it could end), waits
  // until it is released or ended. `rests`: not before Rested. GoOn follows, without the mutex.
  FlowGroupRef Hold(FlowCall* call, bool rests);
  // The same, of a call that rested.
  FlowGroupRef Rested(FlowCall* call);
  // Sends or ends what is held, when it is time.
  void GoOn();

  // Called before each wait, which is to be none unless this is OK. FAILED_PRECONDITION: another
  // one is under way.
  absl::Status BeginWait();
  // Blocks until the group is ready: OK. FAILED_PRECONDITION: as BeginWait, or this thread would
  // wait for itself.
  absl::Status Await();

 private:
  explicit FlowGroup(uint32_t window) : Readiness(this), window_(window) {}
  ~FlowGroup() = default;

  bool IsReady() const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (goes_on_) return false;
    if (finishing_) return calls_ == 0;
    return !failure_.ok() || (held_ == 0 && !may_end_ && HasRoom());
  }
  bool HasRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return bytes_ < window_ && calls_ < calls_max_;
  }
  void Cancel();
  // In a forked child, where no answer comes, the group has failed.
  void CheckFork();
  void Append(FlowCall* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(FlowCall* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends `call`, which is the group's no more.
  void OnAnswered(FlowCall* call, const absl::Status& status);
  // What is to be done about those that are held.
  enum class Step { kWait, kSend, kEnd };
  Step NextStep() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendHeld();
  void EndHeld();
  // Holds it no more.
  void LetGo(FlowCall* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint32_t window_;
  // The call that was sent last. The user's.
  ClientCallRef last_{nullptr};
  // In the order in which they were sent.
  FlowCall* first_in_flight_ ABSL_GUARDED_BY(mutex_) = nullptr;
  FlowCall* last_in_flight_ ABSL_GUARDED_BY(mutex_) = nullptr;
  FlowCall* first_held_ ABSL_GUARDED_BY(mutex_) = nullptr;  // nullptr: none is
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;              // of calls in flight
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t calls_max_ ABSL_GUARDED_BY(mutex_) = ~uint64_t{0};  // until one was sent
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_ended_ ABSL_GUARDED_BY(mutex_) = 0;  // the highest number of those that have ended
  uint64_t held_ ABSL_GUARDED_BY(mutex_) = 0;        // of calls_
  uint64_t resting_ ABSL_GUARDED_BY(mutex_) = 0;     // of held_
  bool goes_on_ ABSL_GUARDED_BY(mutex_) = false;     // somebody is in SendHeld or EndHeld
  // One that was let go was not sent, and somebody else may be about to end it, and with it the
  // series. Until none is in flight, for an interceptor may make its end an OK.
  bool may_end_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t moves_ ABSL_GUARDED_BY(mutex_) = 0;  // Channel::moves of calls in flight
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  // Taking is relaxed: the taker has one. Dropping releases and acquires, so that every use comes
  // before the end.
  std::atomic<uint32_t> references_{1};
};

// Owning reference to a FlowGroup; copies share it.
class FlowGroupRef {
 public:
  // Takes over one reference.
  explicit FlowGroupRef(FlowGroup* group) : group_(group) {}
  FlowGroupRef(const FlowGroupRef& other) : group_(other.group_) { group_->Ref(); }
  FlowGroupRef& operator=(FlowGroupRef other) noexcept {
    std::swap(group_, other.group_);
    return *this;
  }
  ~FlowGroupRef() { group_->Unref(); }
  FlowGroup* get() const { return group_; }
  FlowGroup* operator->() const { return group_; }

 private:
  FlowGroup* group_;
};

}  // namespace mi7
