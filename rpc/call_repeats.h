#pragma once

// CallRepeats: makes further attempts at a call, one after the other or beside each other
// (hedging).
//
// A call's first attempt is the call itself, which goes its usual way. If that fails and may be
// repeated, the call is not ended. Instead CallRepeats makes another call for it, an *attempt*,
// which nobody else sees, and ends the call with what comes of that. So the call's handle,
// deadline, cancellation and callback know nothing of attempts.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "rpc/backoff.h"
#include "rpc/call_outcome.h"
#include "rpc/interface_info.h"
#include "rpc/retry_judgement.h"
#include "rpc/retry_policy.h"
#include "rpc/timers.h"
#include "transport/message.h"

namespace mi7 {

class ClientCall;

// A part of its call, which owns it. Attempts and timers hold references of the call; Stop breaks
// them up, and comes with the call's end. Thread-safe. Locks are taken in the order: this mutex,
// that of a `-> stream` call's group, the channel's, those of timers and budget.
class CallRepeats {
 public:
  // `policy` outlives it.
  CallRepeats(ClientCall& call, Repeat may_repeat, const RetryPolicy& policy);
  ~CallRepeats();
  CallRepeats(const CallRepeats&) = delete;
  CallRepeats& operator=(const CallRepeats&) = delete;

  // Before the first attempt is sent: copies its request, so that it can be repeated afterwards.
  void KeepRequest(transport::MessageBody& request);
  // After that: an idempotent call is sent once more when its answer takes long, as the policy
  // says.
  void BeginHedging();

  // The first attempt failed. `request`: if no connection has taken it, or if it was kept for this,
  // else empty. `counted_bytes`: of it, Channel::KeepBytes. `hopeless`: another attempt would fail
  // in the same way. What to end the call with; nullopt: nothing, the call goes on, or somebody
  // else ends it.
  std::optional<absl::Status> OnFirstFailed(const absl::Status& failure,
                                            transport::OutgoingMessage request,
                                            size_t counted_bytes, bool hopeless);

  // --- Of a call that keeps an order, which is repeated when its group says so (flow_group.h)

  // In place of the first attempt, which is the group's to release.
  void HoldUnsent(transport::OutgoingMessage request, size_t counted_bytes);
  // The group has let it go: makes the next attempt. False: it has failed already, or the budget
  // does not admit one, or somebody ends the call.
  bool Release();
  // The same, but ends it with what its last attempt said.
  void EndHeld();

  // The call is over: there are no further attempts, and those that run are cancelled.
  void Stop();
  // The call is being given up, Stop follows: what is known of it. `first`: of its first attempt,
  // if that runs still.
  CallOutcome StopEarly(CallOutcome first);

 private:
  // An attempt failed that does not run any more. As OnFirstFailed.
  std::optional<absl::Status> OnFailed(const absl::Status& failure, bool hopeless,
                                       const ClientCall& attempt);
  // How long to wait before the next attempt; nullopt: there is none.
  std::optional<absl::Duration> Wait(const RetryJudgement& judgement)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `failure`, the last attempt's, as the call's.
  absl::Status Final(const absl::Status& failure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Schedule(absl::Duration wait) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ScheduleHedge() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // No attempt comes of what was scheduled.
  void Unschedule() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnTimer(uint32_t number);
  // Makes an attempt, which is to be launched; nullptr: the call is over. In one critical section
  // with the decision for it: of several that would make the last attempt one does.
  ClientCall* NewAttempt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: there is none, or it has failed already.
  bool Launch(ClientCall* attempt);
  transport::OutgoingMessage MakeRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Keeps the request of an attempt that has certainly not run, for the next one.
  void TakeBack(transport::OutgoingMessage request, size_t counted_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CopyRequest(transport::MessageBody& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnAttemptDone(ClientCall& attempt);
  // Takes the first attempt back from the server, if it runs.
  void WithdrawFirst();

  ClientCall& call_;
  const Repeat may_repeat_;
  const RetryPolicy& policy_;
  const int64_t began_ns_;  // before any attempt was sent that may have run, BootNanos

  Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool first_runs_ ABSL_GUARDED_BY(mutex_) = true;
  // Of attempts that are over: whether it is unknown if one has run, whether one was answered.
  bool may_have_run_ ABSL_GUARDED_BY(mutex_) = false;
  // Where it may have, if it is recognized there: ClientCallExtras::recognized_by.
  uint64_t recognized_by_ ABSL_GUARDED_BY(mutex_) = 0;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
  int attempts_ ABSL_GUARDED_BY(mutex_) = 1;                  // made so far
  std::vector<ClientCall*> running_ ABSL_GUARDED_BY(mutex_);  // but the first; a reference each
  // Of the next attempt. One that could not be cancelled any more comes with an older number.
  Timers::Handle timer_ ABSL_GUARDED_BY(mutex_);
  uint32_t timer_number_ ABSL_GUARDED_BY(mutex_) = 0;
  // It waits for its group, since its last attempt has failed so; and whether the next one is free.
  std::optional<absl::Status> held_failure_ ABSL_GUARDED_BY(mutex_);
  bool next_is_free_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Backoff> backoff_ ABSL_GUARDED_BY(mutex_);  // made when first needed
  // The request: as an attempt left it, or its words and how many each of its segments has.
  transport::OutgoingMessage returned_ ABSL_GUARDED_BY(mutex_);
  size_t counted_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of returned_
  absl::InlinedVector<uint64_t, 24> words_ ABSL_GUARDED_BY(mutex_);
  absl::InlinedVector<size_t, 1> segment_words_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mi7
