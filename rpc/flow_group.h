#pragma once

// FlowGroup: flow control for Cap'n Proto's `-> stream` methods, on the side that calls them.
//
// A `-> stream` method is unary and has no results: what streams is a series of its calls, whose
// answers nobody looks at one by one. The group counts the bytes of calls that are not answered
// yet, lets its user send the next call while they are below a window, and keeps the first failure.
// Of small messages, of which a window holds very many, it lets as many be in flight as are half of
// what the connection admits.
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
  // From now on the group is ready once every call is answered; result() then says how, and the
  // group begins anew.
  void Finish();
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

  // Blocks until the group is ready: OK. FAILED_PRECONDITION: this thread would wait for itself.
  absl::Status Await();
  // Called before each wait: in a forked child, where no answer comes, the group has failed.
  void CheckFork();

 private:
  // A call that is not answered, with the handle's reference, and its place in the list of them.
  struct InFlight {
    InFlight(ClientCallRef own, uint64_t size) : call(std::move(own)), bytes(size) {}
    ClientCallRef call;
    uint64_t bytes;
    InFlight* before = nullptr;
    InFlight* after = nullptr;
  };

  explicit FlowGroup(uint32_t window) : Readiness(this), window_(window) {}
  ~FlowGroup() = default;

  bool IsReady() const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finishing_) return calls_ == 0;
    return !failure_.ok() || (bytes_ < window_ && calls_ < calls_max_);
  }
  void Cancel();
  void Append(InFlight* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(InFlight* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends `call`, which is the group's no more.
  void OnAnswered(InFlight* call, const absl::Status& status);

  const uint32_t window_;
  // The call that was sent last. The user's.
  ClientCallRef last_{nullptr};
  // In the order in which they were sent.
  InFlight* first_in_flight_ ABSL_GUARDED_BY(mutex_) = nullptr;
  InFlight* last_in_flight_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of calls in flight
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t calls_max_ ABSL_GUARDED_BY(mutex_) = ~uint64_t{0};  // until one was sent
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
