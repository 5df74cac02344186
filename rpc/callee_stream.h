#pragma once

// CalleeStream: a stream at the end that answers the call. The handler's answer ends it; a caller
// that gives up ends both halves at once, so that whoever waits in them hears of it.
//
// Reference-counted: one reference is the ServerCall's, one each the handler's reader's and
// writer's, which may outlive the call. ServerCall and AnswerSide call the functions below.

#include <atomic>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "rpc/stream.h"
#include "rpc/timers.h"

namespace mi7 {

class ServerCall;

// Thread-safety: see Stream.
class CalleeStream final : public Stream {
 public:
  // Of `call`, with one reference, the call's. `keep_alive` keeps `streams`.
  // `timers`: for its deadline; nullptr: only threads that wait in it notice that.
  static CalleeStream* New(ServerCall& call, const MethodInfo& method, SessionStreams& streams,
                           Deadline deadline, std::shared_ptr<Timers> timers,
                           std::shared_ptr<void> keep_alive);

  void Ref() override { references_.fetch_add(1, std::memory_order_relaxed); }
  void Unref() override;
  // A server's connection always is driven so; but nobody is there when the deadline passes.
  void WantBackground() override;
  transport::OutgoingMessage NewMessage() override;
  absl::Status FailMalformed() override;
  void FailInput(const absl::Status& why) override { inbox().Clear(why); }

  // --- The call's life ---

  // It is about to be answered: what waits is sent, and nothing after it.
  void OnAnswering();
  // It was answered.
  void OnAnswered();
  // The caller is not interested any more. No lock is held: callbacks run in here.
  void OnCancelled(absl::StatusCode code, absl::string_view why);

 public:  // constructed by the object pool only
  CalleeStream(ServerCall& call, const MethodInfo& method, const Limits& limits, Deadline deadline,
               std::shared_ptr<Timers> timers, std::shared_ptr<void> keep_alive);
  // What is kept is counted in the session, which may go with keep_alive_.
  ~CalleeStream() { inbox().Clear(absl::OkStatus()); }

 private:
  absl::Status OnUnexpectedMessage() override { return absl::OkStatus(); }
  void AddToFirst(transport::MessageBody& message) override;
  void TakeBackFromFirst() override;
  absl::Status MayBlock() override;
  bool Sleep(transport::Completion& completion, Deadline deadline) override;
  Deadline deadline() const override { return deadline_; }
  void OnDeadline() override;
  // No timer is set from now on.
  void StopTimer();

  ServerCall& call_;  // until StopSending
  const Deadline deadline_;
  const std::shared_ptr<Timers> timers_;
  const std::shared_ptr<void> keep_alive_;
  // Of the deadline. Set by the first callback or coroutine that waits; holds a reference.
  Mutex timer_mutex_;
  bool timed_ ABSL_GUARDED_BY(timer_mutex_) = false;
  Timers::Handle timer_ ABSL_GUARDED_BY(timer_mutex_);
  // Taking is relaxed: the taker has one. Dropping releases and acquires, so that every use comes
  // before the end.
  std::atomic<uint32_t> references_{1};
};

}  // namespace mi7
