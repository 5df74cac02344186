#include "rpc/client_call.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/object_pool.h"
#include "rpc/call_outcome.h"
#include "rpc/call_repeats.h"
#include "rpc/call_scope.h"
#include "rpc/caller_stream.h"
#include "rpc/channel.h"
#include "rpc/retry_info.h"
#include "rpc/session.h"
#include "transport/callback_scope.h"

namespace mi7 {

constinit thread_local const ClientCall* ClientCall::waits_for_ = nullptr;

// Inline, since each is used in one place, through which every call passes.
[[gnu::always_inline]] ClientCall::ClientCall(const std::shared_ptr<Channel>& channel,
                                              std::shared_ptr<Session>&& session,
                                              const InterfaceInfo& service,
                                              const MethodInfo& method, const CallOptions& options,
                                              transport::OutgoingMessage&& request)
    : channel_(channel),
      session_(std::move(session)),
      service_(&service),
      method_(&method),
      deadline_(options.deadline),
      wait_for_ready_(options.wait_for_ready),
      repeat_(options.repeat.value_or(method.repeat)),
      request_(std::move(request)),
      limits_(&channel_->limits()) {
  if (!options.plain() || method.deduplicate) [[unlikely]]
    TakeOptions(options);
  if (deadline_.infinite() && !options.no_deadline) {
    if (const absl::Duration timeout = channel_->TimeoutOf(method);
        timeout != absl::InfiniteDuration()) [[unlikely]] {
      deadline_ = Deadline::After(timeout);
    }
  }
}

void ClientCall::TakeOptions(const CallOptions& options) {
  extras_ = MakePooled<ClientCallExtras>(options);
  if (method_->deduplicate && !options.request_id) {
    extras_->options.request_id = RequestId::Random();
  }
}

[[gnu::always_inline]] ClientCall::~ClientCall() {
  if (stream_ != nullptr) [[unlikely]]
    is_attempt_ ? stream_->Unref() : ObjectPool<CallerStream>::Delete(stream_);
  if (CallRepeats* const own = repeats(); own != nullptr) [[unlikely]]
    ObjectPool<CallRepeats>::Delete(own);
  if (request_ || counted_bytes_ != 0) [[unlikely]]
    DropRequest();
}

ClientCall* ClientCall::New(const std::shared_ptr<Channel>& channel,
                            std::shared_ptr<Session>&& session, const InterfaceInfo& service,
                            const MethodInfo& method, const CallOptions& options,
                            transport::OutgoingMessage&& request) {
  return ObjectPool<ClientCall>::New(channel, std::move(session), service, method, options,
                                     std::move(request));
}

void ClientCall::Intercept(const Interceptors& interceptors) {
  if (extras_ == nullptr) extras_ = MakePooled<ClientCallExtras>(CallOptions());
  extras_->interception.emplace(interceptors, *this, *extras_);
}

const Interceptors* ClientCall::interceptors() const {
  if (extras_ == nullptr || !extras_->interception) return nullptr;
  return &extras_->interception->interceptors();
}

bool ClientCall::forked() const { return channel_->forked(); }

absl::Status ClientCall::ForkedError() const {
  const absl::Status why = channel_->ForkedError();
  return absl::Status(why.code(), absl::StrCat(method_->name, ": ", why.message()));
}

void ClientCall::Unref() {
  // A sole owner needs no atomic read-modify-write: nobody else can take a reference.
  if (references_.load(std::memory_order_acquire) == 1 ||
      references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    ObjectPool<ClientCall>::Delete(this);
  }
}

void ClientCall::Start() {
  started_ = true;
  if (extras_ != nullptr) [[unlikely]] {
    if (!StartWithExtras()) return;
  }
  if (channel_->forked()) [[unlikely]]
    return EndInForkedChild(CallOutcome::kNotSent);
  if (failed_early_ || deadline_.passed()) [[unlikely]]
    return FailEarly();
  if ((repeat_ > Repeat::kUnlessItRan || extras_ != nullptr) && !PrepareToStart()) return;
  // What went wrong with the connection since the request was begun is the channel's affair.
  if (session_ && session_->calls().TrySend(this)) [[likely]]
    return session_->NoteCall();
  channel_->StartCall(this);
}

void ClientCall::FailEarly() {
  if (failed_early_) return FailForGood(std::exchange(status_, absl::OkStatus()));
  Fail(WithOutcome(
      absl::DeadlineExceededError(absl::StrCat(method_->name, ": deadline passed before the send")),
      CallOutcome::kNotSent));
}

uint32_t ClientCall::calls_in_flight_max() const {
  return !queued_ && session_ ? session_->calls().in_flight_max() : 0;
}

bool ClientCall::WouldWaitForItself() const {
  if (channel_->InLoopThread() || (!queued_ && session_ && session_->connection().InCallback())) {
    return true;
  }
  // The channel has sent it on whatever connection it had, or makes it again on another one.
  return transport::CallbackScope::innermost() != nullptr &&
         (queued_ || repeat_ != Repeat::kNever) && channel_->InCallback();
}

bool ClientCall::PrepareToStart() {
  // What a stream's handler has done nobody can know, and a call of `-> stream` would come out of
  // its order: these are made again only when they have not run.
  const bool keeps_copy =
      repeat_ > Repeat::kUnlessItRan || (repeat_ == Repeat::kUnlessItRan && method_->deduplicate);
  if (keeps_copy && stream_ == nullptr && in_order_ == nullptr) {
    // The call is nobody else's yet, so it is not claimed.
    AddRepeats();
    channel_->retry_budget().OnCall();
    repeats_->KeepRequest(*request_);
    repeats_->BeginHedging();
  }
  if (extras_ != nullptr && extras_->options.within != nullptr) {
    // First the bit: the scope may cancel the call at once.
    state_.fetch_or(kScope, std::memory_order_acq_rel);
    if (!extras_->options.within->Add(this)) {
      FailForGood(WithOutcome(
          absl::CancelledError(absl::StrCat(method_->name, ": the call it is a part of is over")),
          CallOutcome::kNotSent));
    }
  }
  return !claimed();
}

void ClientCall::Wait() {
  if (done()) return;
  if (channel_->forked()) [[unlikely]]
    return EndInForkedChild(CallOutcome::kUnknown);
  if (WouldWaitForItself()) {
    RefuseToWait();
    return;
  }
  const auto wait_until = [this](Deadline deadline) {
    if (!queued_ && session_) return session_->connection().Await(completion_, deadline);
    // No connection yet, or none at all so far: the channel's event loop connects, sends and
    // drives.
    for (;;) {
      switch (completion_.Sleep(deadline)) {
        case transport::Completion::Woken::kDone:
          return true;
        case transport::Completion::Woken::kDeadline:
          return false;
        case transport::Completion::Woken::kTurn:
          break;
      }
    }
  };
  const Turns::Waiting waiting;
  const ClientCall* const outer = std::exchange(waits_for_, this);
  if (!wait_until(deadline_)) {
    Expire();
    // Either Expire completed it, or whoever claimed it before is about to.
    wait_until(Deadline::Infinite());
  }
  waits_for_ = outer;
}

void ClientCall::RefuseToWait() {
  if (!Claim()) {
    // Somebody else is ending the call at this moment, and waits for nothing to do so.
    while (!done()) std::this_thread::yield();
    return;
  }
  const CallOutcome outcome = Withdraw();
  const absl::Status status = absl::FailedPreconditionError(
      absl::StrCat(method_->name, ": Wait() inside a callback ",
                   !channel_->InLoopThread() ? "or handler of the same "
                   : queued_                 ? "of the event loop that has to connect the "
                                             : "of the event loop that serves the ",
                   channel_->InLoopThread() || queued_ ? "channel" : "connection",
                   " would wait for itself; use Then() or co_await"));
  CompleteWith(WithOutcome(status, outcome));
}

void ClientCall::EndInForkedChild(CallOutcome outcome) {
  // Whoever claimed it at the moment of the fork has not come along.
  if (!Claim() && done()) return;
  CompleteWith(WithOutcome(ForkedError(), outcome));
}

void ClientCall::LeaveDeadlineQueue() {
  if (in_deadline_queue_ && !channel_->forked()) channel_->deadlines().Remove(this);
}

bool ClientCall::WantBackground() {
  if (done()) return false;
  if (channel_->forked()) [[unlikely]] {
    EndInForkedChild(CallOutcome::kUnknown);
    return false;
  }
  if (!deadline_.infinite() && !in_deadline_queue_) {
    in_deadline_queue_ = true;
    channel_->deadlines().Add(this);
  }
  return !queued_ && session_ && session_->calls().DriveInBackground(this);
}

void ClientCall::Cancel() { GiveUp(Ending::kCancelled); }

void ClientCall::Expire() { GiveUp(Ending::kDeadline); }

void ClientCall::GiveUp(Ending ending) {
  if (!Claim()) return;
  const CallOutcome outcome = Withdraw();
  if (stream_ != nullptr && !is_attempt_) stream_->OnGivenUp();
  std::string text(method_->name);
  absl::StrAppend(&text, ending == Ending::kDeadline ? ": deadline passed" : ": cancelled");
  absl::Status status =
      ending == Ending::kDeadline ? absl::DeadlineExceededError(text) : absl::CancelledError(text);
  CompleteWith(WithOutcome(status, outcome));
}

CallOutcome ClientCall::Withdraw() {
  const CallOutcome first = channel_->WithdrawCall(this) == Channel::Withdrawn::kBeforeSend
                                ? CallOutcome::kNotSent
                                : CallOutcome::kUnknown;
  CallRepeats* const own = repeats();
  return own == nullptr ? first : own->StopEarly(first);
}

void ClientCall::FailAndCancel(const absl::Status& failure) {
  if (!Claim()) return;
  channel_->WithdrawCall(this);
  if (stream_ != nullptr && !is_attempt_) stream_->OnGivenUp();
  CompleteWith(failure);
}

void ClientCall::Abandon() {
  if (!Claim()) return;
  Withdraw();
  status_ = absl::CancelledError(absl::StrCat(method_->name, ": abandoned"));
  if (extras_ != nullptr) FinishExtras();
  TellOfEnd(state_.fetch_or(kDone, std::memory_order_acq_rel));
  if (stream_ != nullptr) [[unlikely]]
    stream_->OnDone();
  LeaveDeadlineQueue();
}

void ClientCall::Fail(absl::Status failure) {
  if (Continues(failure) || !Claim()) return;
  // An attempt's is for the next one.
  if (!is_attempt_) DropRequest();
  CompleteWith(std::move(failure));
}

void ClientCall::FailForGood(absl::Status failure) {
  hopeless_.store(true, std::memory_order_relaxed);
  Fail(std::move(failure));
}

void ClientCall::CompleteWith(absl::Status failure) {
  status_ = std::move(failure);
  Finish();
}

void ClientCall::CompleteWith(transport::IncomingMessage&& response) {
  response_.emplace(std::move(response));
  Finish();
}

bool ClientCall::StartWithExtras() {
  if (extras_->interception && !extras_->interception->RunStart()) {
    if (!Claim()) return false;
    const absl::Status& ended = extras_->interception->status();
    CompleteWith(ended.ok() ? ended : WithOutcome(ended, CallOutcome::kNotSent));
    return false;
  }
  if (failed_early_ || channel_->forked()) return true;
  if (extras_->interception) extras_->intercepted_bytes = transport::MessageBytes(*request_);
  // An attempt may be cancelled at this moment: its status is not ours to write.
  absl::Status encoded = EncodeExtras();
  const bool goes_on = encoded.ok();
  if (!goes_on) Fail(std::move(encoded));
  return goes_on;
}

bool ClientCall::OnlyOurs() const {
  // The count first: who cancelled the call and left has claimed it before.
  if (references_.load(std::memory_order_acquire) != 2) return false;
  const uint32_t state = state_.load(std::memory_order_acquire);
  return (state & (kClaimed | kScope | kRepeats)) == 0 &&
         ((state & kContinuation) != 0 || waits_for_ == this) && !in_deadline_queue_;
}

void ClientCall::TakeReturn(transport::IncomingMessage&& response) {
  if (OnlyOurs()) [[likely]] {
    DropRequest();
    response_.emplace(std::move(response));
    const uint32_t state = state_.load(std::memory_order_relaxed);
    state_.store(state | kClaimed | kDone, std::memory_order_release);
    references_.store(1, std::memory_order_relaxed);  // the handle's
    if ((state & kContinuation) != 0) {
      RunContinuation();
    } else {
      completion_.CompleteBySelf();
    }
    return;
  }
  DropRequest();
  if (Claim()) CompleteWith(std::move(response));
  Unref();
}

absl::Status ClientCall::EncodeExtras() {
  static const Metadata kNone;
  const CallOptions& options = extras_->options;
  const int64_t since_ns = extras_->may_have_run_since_ns;
  const absl::Status encoded = EncodeCallExtra(
      options.metadata ? *options.metadata : kNone, options.trace.get(), extras_->previous_attempts,
      *limits_, *request_, options.request_id ? options.request_id->bytes() : absl::string_view(),
      since_ns == 0 ? 0 : 1 + static_cast<uint64_t>(BootNanos() - since_ns) / 1000);
  if (encoded.ok()) return encoded;
  return WithOutcome(
      absl::Status(encoded.code(), absl::StrCat(method_->name, ": ", encoded.message())),
      CallOutcome::kNotSent);
}

absl::Status ClientCall::NotSent(const absl::Status& why) const {
  absl::Status status(why.code(), absl::StrCat(method_->name, ": ", why.message()));
  if (const auto advice = RetryAfter(why)) status = WithRetryAfter(std::move(status), *advice);
  return WithOutcome(status, CallOutcome::kNotSent);
}

void ClientCall::ReceiveExtras(const transport::IncomingMessage& message, absl::Status& status) {
  if (!extras_->options.received && !extras_->interception) return;
  const absl::Status decoded = DecodeResponseMetadata(message, *limits_, extras_->response);
  // A call that failed says why, whatever came along.
  if (decoded.ok() || !status.ok()) return;
  status = absl::Status(
      absl::IsResourceExhausted(decoded) ? decoded.code() : absl::StatusCode::kInternal,
      absl::StrCat(method_->name, ": results: ", decoded.message()));
}

void ClientCall::FinishExtras() {
  if (extras_->interception) {
    if (stream_ != nullptr) stream_->TakeInitialMetadata(extras_->response.initial);
    extras_->interception->RunEnd(status_);
    extras_->interception->TakeResults(status_, response_);
  }
  if (!extras_->options.received) return;
  ResponseMetadata& response = extras_->response;
  ResponseMetadata& told = *extras_->options.received;
  // A stream's first message has told of the initial ones, which its user may be reading. What an
  // attempt is told its call looks at.
  if (stream_ == nullptr || is_attempt_ ||
      (!response.initial.empty() && !stream_->received_any())) {
    told.initial = std::move(response.initial);
  }
  told.trailing = std::move(response.trailing);
}

void ClientCall::FailMalformed() {
  status_ = StatusOfException(absl::StatusCode::kInternal, method_->name);
}

// The caller of Finish holds a reference of its own besides the handle's, or is the handle's
// owner: the call cannot die before Finish returns.
void ClientCall::Finish() {
  if (extras_ != nullptr) [[unlikely]]
    FinishExtras();
  const uint32_t before = state_.fetch_or(kDone, std::memory_order_acq_rel);
  if (stream_ != nullptr && !is_attempt_) [[unlikely]]
    stream_->OnDone();
  if ((before & (kScope | kRepeats)) != 0) [[unlikely]]
    TellOfEnd(before);
  // Runs here or in OnDone: whoever of the two comes second.
  if ((before & kContinuation) != 0) RunContinuation();
  completion_.Complete();
}

void ClientCall::TellOfEnd(uint32_t state) {
  if ((state & kRepeats) != 0) repeats_->Stop();
  if ((state & kScope) != 0) extras_->options.within->Remove(this);
}

bool ClientCall::PublishContinuation() {
  if (WantBackground()) return true;
  if ((state_.fetch_or(kContinuation, std::memory_order_acq_rel) & kDone) == 0) return true;
  LeaveDeadlineQueue();
  return false;
}

bool ClientCall::PublishWhileOnlyOurs() {
  if (references_.load(std::memory_order_acquire) != 2 || in_deadline_queue_ ||
      stream_ != nullptr || (state_.load(std::memory_order_relaxed) & (kScope | kRepeats)) != 0) {
    return false;
  }
  state_.store(state_.load(std::memory_order_relaxed) | kContinuation, std::memory_order_release);
  return true;
}

void ClientCall::RunContinuation() {
  const Turns::Inside inside;
  InvokeContinuation();
}

void ClientCall::RunContinuationInTurn() {
  Ref();  // the continuation may drop the handle
  run = [](Turn& self) {
    ClientCall& call = static_cast<ClientCall&>(self);
    call.InvokeContinuation();
    call.Unref();
  };
  Turns::Run(*this);
}

void ClientCall::InvokeContinuation() {
  LeaveDeadlineQueue();
  const MethodInfo& method = *method_;  // the continuation may drop the last reference
  try {
    run_continuation_(continuation_, this);
  } catch (...) {
    Log(LogLevel::kError,
        StatusOfException(absl::StatusCode::kInternal, absl::StrCat("callback of ", method.name))
            .ToString());
  }
}

}  // namespace mi7
