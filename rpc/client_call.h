#pragma once

// ClientCall: one call on the side that makes it, from the building of the request to the reading
// of the response. Typed handles over it: rpc/request.h.
//
// Life: building -> Start -> pending -> done. A call is done exactly once, by whoever claims it
// first: the return that arrived, the deadline, a cancellation, or the loss of the connection.
//
// Ownership: reference-counted. The handles (Request, PendingCall, Response) share one reference
// that moves along; the runtime holds another from Start until the call left its tables.
//
// Thread-safety: building, Start, Wait, OnDone: one thread at a time (the handle's owner). The
// runtime completes on any thread.
//
// Most calls have two parties when their return arrives, the runtime with its reference and the
// handle, and the handle rests: its owner has left a continuation, or is this very thread, in Wait.
// Then nobody else can end the call, and it is ended without atomic operations (OnlyOurs).
//
// Memory ordering of `state_`: the completer writes the result, then sets kDone (release); a
// reader of the result has seen kDone or the Completion (acquire). The handle's owner writes the
// continuation, then sets kContinuation (release). fetch_or makes one of both see the other's bit,
// and that one runs the continuation.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/object_pool.h"
#include "rpc/call_extras.h"
#include "rpc/call_options.h"
#include "rpc/call_outcome.h"
#include "rpc/interface_info.h"
#include "rpc/message_reader.h"
#include "rpc/retry_policy.h"
#include "rpc/turns.h"
#include "transport/completion.h"
#include "transport/message.h"

namespace mi7 {

class CallRepeats;
class CallSide;
class CallerStream;
class Channel;
class FlowGroup;
class Session;
struct FlowCall;

class ClientCall : private Turn {
 public:
  // With one reference, the caller's. `session`: the connection the request's memory is from, or
  // nullptr. Allocates nothing once warm.
  static ClientCall* New(const std::shared_ptr<Channel>& channel,
                         std::shared_ptr<Session>&& session, const InterfaceInfo& service,
                         const MethodInfo& method, const CallOptions& options,
                         transport::OutgoingMessage&& request);
  void Ref() {
    // Nobody else has a reference that could change the count at the same time.
    if (references_.load(std::memory_order_relaxed) == 1) {
      references_.store(2, std::memory_order_relaxed);
    } else {
      references_.fetch_add(1, std::memory_order_relaxed);
    }
  }
  void Unref();

  // Before Start. The interceptors, which must outlive the call, run around it.
  void Intercept(const Interceptors& interceptors);
  // nullptr: none.
  const Interceptors* interceptors() const;
  // Once started, of a call with interceptors: MessageBytes of the request as they have left it; 0
  // where one of them has ended the call.
  uint64_t intercepted_bytes() const { return extras_->intercepted_bytes; }
  // Once started: how many calls its connection admits at a time; 0 when there was none at hand.
  uint32_t calls_in_flight_max() const;
  // Whether this process was forked from the channel's, and why the call fails then.
  bool forked() const;
  absl::Status ForkedError() const;

  // Whether the request is kept while it is in flight, as far as RetryOptions admits it, so that
  // the call can be repeated when it was refused or not sent. Those that may be repeated for other
  // reasons have a copy (CallRepeats).
  bool keeps_request() const {
    return (repeat_ == Repeat::kUnlessItRan && !method_->deduplicate) || is_attempt_ ||
           (in_order_ != nullptr && repeat_ != Repeat::kNever);
  }

  transport::MessageBody& request() { return *request_; }
  const MethodInfo& method() const { return *method_; }
  Deadline deadline() const { return deadline_; }

  // Before Start: it must not come after calls that are made later (flow_group.h), so it is
  // repeated when its group says so. `place`: there until the continuation has run.
  void KeepOrder(FlowCall* place) {
    in_order_ = place;
    request_->may_gather = true;
  }

  // Sends the request. Once.
  void Start();
  // In place of Start, after KeepOrder: its group sends it.
  void StartHeld();
  bool started() const { return started_; }

  // Blocks until done. FAILED_PRECONDITION in status() when called inside a callback or handler of
  // the call's own connection, where it would wait for itself; the call is then cancelled. Of a
  // call that waited for a connection or may be made again that is any connection of its channel.
  void Wait();
  // Whether a thread that waited for the call now would keep itself from what it waits for. Once
  // started.
  bool WouldWaitForItself() const;
  bool done() const { return (state_.load(std::memory_order_acquire) & kDone) != 0; }

  // Runs `continuation(ClientCall&)` once the call is done: inside OnDone when it is already, or,
  // where OnDone is called by another continuation, on the same thread after that one has returned
  // (else a loop of calls that fail at once would recurse without bound); otherwise on the thread
  // that completes it. Once. No allocation up to kInlineContinuationBytes.
  template <typename F>
  void OnDone(F continuation);
  // As OnDone, but where the call is done already it returns false and the continuation, which must
  // be trivially destructible, never runs.
  template <typename F>
  bool OnDoneLater(F continuation);

  // Ends the call with CANCELLED unless it is done; the server is told. Any thread.
  void Cancel();
  // The same with another status.
  void FailAndCancel(const absl::Status& failure);

  // As Cancel, for an owner that goes away: a continuation that is set (which must be trivially
  // destructible) does not run any more. Not while the call may complete on another thread.
  void Abandon();

  // Once done: OK with a response, or why not.
  const absl::Status& status() const { return status_; }
  // The root of an OK call's response. Throws kj::Exception when it is malformed.
  template <typename R>
  typename R::Reader Results() {
    return body_.Root<R>(ResponseOrEmpty(), *limits_);
  }
  // Makes an OK call a failed one: its response turned out to be malformed.
  void FailMalformed();

  // --- For the runtime ---

  // True for the one that may end the call, with CompleteWith right after.
  bool Claim() { return (state_.fetch_or(kClaimed, std::memory_order_seq_cst) & kClaimed) == 0; }
  bool claimed() const { return (state_.load(std::memory_order_seq_cst) & kClaimed) != 0; }
  void CompleteWith(absl::Status failure);
  void CompleteWith(transport::IncomingMessage&& response);
  // The plain return of a call that has left the runtime's tables, whose reference is given up with
  // it. The driving thread.
  void TakeReturn(transport::IncomingMessage&& response);
  // An attempt at the call failed: whether the call goes on with another one. Otherwise `failure`
  // is what to end it with.
  bool Continues(absl::Status& failure) {
    return repeat_ != Repeat::kNever && ContinuesWithRepeats(failure);
  }
  // Unless it continues: Claim, then CompleteWith.
  void Fail(absl::Status failure);
  // As Fail, when another attempt would fail in the same way.
  void FailForGood(absl::Status failure);
  // The deadline passed.
  void Expire();

 private:
  friend class CallRepeats;
  friend class CallerStream;
  friend class CallSide;
  friend class Channel;
  friend class ClientInterception;
  friend class DeadlineQueue;
  friend class FlowGroup;

  static constexpr size_t kInlineContinuationBytes = 64;
  // kScope: a CallScope may have the call. kRepeats: repeats_ is set. Both are told of the end.
  enum StateBit : uint32_t {
    kContinuation = 1,
    kClaimed = 2,
    kDone = 4,
    kScope = 8,
    kRepeats = 16,
  };
  enum class Ending { kDeadline, kCancelled };
  enum SendStage : uint8_t { kSending, kSent, kUnsent };

 public:  // for the object pool only, and defined where that is used, in client_call.cc
  inline ClientCall(const std::shared_ptr<Channel>& channel, std::shared_ptr<Session>&& session,
                    const InterfaceInfo& service, const MethodInfo& method,
                    const CallOptions& options, transport::OutgoingMessage&& request);
  inline ~ClientCall();
  ClientCall(const ClientCall&) = delete;
  ClientCall& operator=(const ClientCall&) = delete;

 private:
  transport::IncomingMessage& ResponseOrEmpty() {
    if (!response_) [[unlikely]]
      response_.emplace();
    return *response_;
  }
  // What the constructor does with options that are not plain, or a method that is not.
  void TakeOptions(const CallOptions& options);
  // What Start does for a call that has failed before, or whose deadline has passed.
  void FailEarly();
  // Whether the caller, which drives the connection and has the runtime's reference, is the only
  // one that can touch the call before it is done.
  bool OnlyOurs() const;
  // What Start does for a call that has a scope or may be repeated after it was sent. False: the
  // call has ended.
  bool PrepareToStart();
  // CallSide's, and defined there. The sender's: says how the send went. True: the connection was
  // lost, and the call is the sender's to end.
  inline bool EndSend(SendStage how);
  // For those who have changed something that the sender looks at after EndSend (a claim, lost_):
  // how the send went. kSending: the sender will see the change.
  SendStage SendStageAfterChange() const;
  void Finish();
  // Tells scope and repeats of the end.
  void TellOfEnd(uint32_t state);
  void RefuseToWait();
  // In a forked child nobody is left who could end the call.
  void EndInForkedChild(CallOutcome outcome);
  void LeaveDeadlineQueue();
  // What Start does for a call that has extras_: the interceptors, the metadata that goes along.
  // False: an interceptor has ended the call.
  bool StartWithExtras();
  // The continuation is stored. True: it is published.
  bool WantBackground();
  absl::Status EncodeExtras();
  // `why`, with the method's name and the advice that it brings.
  absl::Status NotSent(const absl::Status& why) const;
  // Takes the metadata of the return; `status`: what the return says so far.
  void ReceiveExtras(const transport::IncomingMessage& message, absl::Status& status);
  // What Finish does for a call that has extras_, before anybody sees its result.
  void FinishExtras();
  void GiveUp(Ending ending);
  // Nobody waits for the call any more; what is known of it. The caller has claimed it.
  CallOutcome Withdraw();

  // --- Attempts

  // As ShareMessage of the request: of one that the channel has to count. Empty: it is not kept.
  transport::OutgoingMessage ShareCounted();
  // The request is not needed any more, and its memory may be wanted for others.
  void DropRequest() {
    request_.reset();
    if (counted_bytes_ != 0) [[unlikely]]
      Uncount();
  }
  void Uncount();
  bool ContinuesWithRepeats(absl::Status& failure);
  // For what it may be repeated: in its order it can be when it has certainly not run.
  Repeat may_repeat() const {
    return in_order_ != nullptr && repeat_ != Repeat::kNever ? Repeat::kUnlessItRan : repeat_;
  }
  // It is one of a series whose calls in flight have another connection than it would have, now
  // that the channel has made `moves` (Channel::moves).
  bool Overtakes(uint32_t moves) const;
  // Leaves it, unsent, to the group of its series; an attempt fails.
  void Hold();
  // Makes repeats_; false when the call is claimed already.
  bool AddRepeats();
  // nullptr for a call that has made no attempt but the first, and keeps no copy of its request.
  CallRepeats* repeats() {
    return (state_.load(std::memory_order_acquire) & kRepeats) != 0 ? repeats_ : nullptr;
  }
  const RetryPolicy& retry_policy() const;
  // A call like this one, with extras_, and with its stream.
  ClientCall* NewAttempt(transport::OutgoingMessage request);
  // Those that were made at the call of which this is one.
  uint32_t previous_attempts() const { return is_attempt_ ? extras_->previous_attempts : 0; }
  // An attempt is about to be sent: says for how long another one may have run by now. False: not
  // to this server, which does not recognize it.
  bool PrepareAttempt(const CallSide& to) {
    if (extras_ == nullptr || extras_->may_have_run_since_ns == 0) [[likely]]
      return true;
    return PrepareRepetition(to);
  }
  bool PrepareRepetition(const CallSide& to);
  // Whether the server that it was sent to recognizes it when it is made again.
  bool recognized() const;
  // As CompleteWith: `attempt` is how it went, or how it last failed (`failure`).
  void CompleteByAttempt(ClientCall& attempt, absl::Status failure);
  // Whether a call that is not sent waits for the attempt to connect that begins after `wait`.
  // `hopeless`: the last attempt has met something other than a server that is away (one of another
  // protocol, a peer that is not admitted). Under the channel's mutex.
  bool WaitsToConnect(absl::Duration wait, bool hopeless) const;

  template <typename F>
  static void RunStored(void* storage, ClientCall* call);
  // The continuation is stored; true when whoever completes the call runs it.
  bool PublishContinuation();
  // The same without atomic operations, for a call in CallSide's table, under its mutex: true when
  // it has no other parties than the table and the handle.
  bool PublishWhileOnlyOurs();
  void RunContinuation();
  // As RunContinuation, but after the continuation inside which this thread is.
  void RunContinuationInTurn();
  void InvokeContinuation();
  // The call that this thread waits for: the innermost, where callbacks inside a wait wait again.
  static thread_local const ClientCall* waits_for_;

  std::atomic<uint32_t> state_{0};
  std::atomic<uint32_t> references_{1};
  transport::Completion completion_;
  uint32_t call_id_ = 0;  // CallSide, under its mutex
  // CallSide's: how the send went, written by the sender (EndSend); whether the connection ended,
  // written by OnClosed; and whether one of the two has taken it upon itself to end the call for
  // that.
  std::atomic<SendStage> send_stage_{kSending};
  std::atomic<bool> lost_{false};
  std::atomic<bool> lost_is_told_{false};
  bool started_ = false;
  bool failed_early_ = false;  // found while building, reported by Start
  // Written by Start: the call went to the channel's queue because there was no connection.
  bool queued_ = false;
  // The event loop drives for this call's sake. Written before the send, then CallSide's, under its
  // mutex.
  bool background_ = false;

  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Session> session_;
  const InterfaceInfo* service_;
  const MethodInfo* method_;
  Deadline deadline_;
  bool wait_for_ready_;
  Repeat repeat_;            // kNever for an attempt
  bool is_attempt_ = false;  // made by the CallRepeats of another call
  // Written by the driving thread under CallSide's mutex, while the call is in its table: the
  // server has named it among those that it has accepted, and goes away.
  bool named_ = false;
  // Written by FailForGood, whose call somebody else may be ending. Relaxed: who of the two ends it
  // sees its own.
  std::atomic<bool> hopeless_{false};
  uint8_t connects_failed_ = 0;  // while it waited; under the channel's mutex
  bool in_queue_ = false;        // the channel's, under its mutex
  // nullptr when the options are plain and the channel has no interceptors.
  PooledPtr<ClientCallExtras> extras_;
  // Until it is sent; then what keeps_request() says, until the call's return or failure. Touched
  // by nobody but the call's sender before, and by whoever has taken it out of CallSide's table
  // afterwards.
  transport::OutgoingMessage request_;
  size_t counted_bytes_ = 0;      // of request_: Channel::KeepBytes
  FlowCall* in_order_ = nullptr;  // KeepOrder
  // nullptr: the call is unary. Owned; an attempt's is that of its call, which it has a reference
  // of.
  CallerStream* stream_ = nullptr;
  CallRepeats* repeats_;  // owned; written before kRepeats is set, and not read before

  // Whoever ends the call with a response leaves it as it is, OK. Before Start, where failed_early_
  // is set: what is wrong with the call already.
  absl::Status status_;
  // None as long as there was no use for it.
  std::optional<transport::IncomingMessage> response_;
  Body body_;
  const Limits* limits_;  // the channel's

  // Its place in the channel's queue, while it is there. Under the channel's mutex.
  std::list<ClientCall*>::iterator queue_place_;

  // Position in the channel's DeadlineQueue, under its mutex; kNotInQueue outside.
  static constexpr size_t kNotInQueue = ~size_t{0};
  size_t deadline_index_ = kNotInQueue;
  bool in_deadline_queue_ = false;  // the handle's owner's: it was put there

  void (*run_continuation_)(void* storage, ClientCall* call) = nullptr;
  alignas(std::max_align_t) std::byte continuation_[kInlineContinuationBytes];
};

template <typename F>
void ClientCall::RunStored(void* storage, ClientCall* call) {
  F* const stored = std::launder(reinterpret_cast<F*>(storage));
  F continuation(std::move(*stored));
  stored->~F();
  continuation(*call);
}

template <typename F>
void ClientCall::OnDone(F continuation) {
  if (!OnDoneLater(std::move(continuation))) RunContinuationInTurn();
}

template <typename F>
bool ClientCall::OnDoneLater(F continuation) {
  if constexpr (sizeof(F) <= kInlineContinuationBytes && std::is_move_constructible_v<F>) {
    new (continuation_) F(std::move(continuation));
    run_continuation_ = &RunStored<F>;
  } else {
    auto boxed = [box = std::make_unique<F>(std::move(continuation))](ClientCall& call) {
      (*box)(call);
    };
    new (continuation_) decltype(boxed)(std::move(boxed));
    run_continuation_ = &RunStored<decltype(boxed)>;
  }
  return PublishContinuation();
}

}  // namespace mi7
