// ClientCall, continued: how a call goes on with another attempt.

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/object_pool.h"
#include "rpc/call_outcome.h"
#include "rpc/call_repeats.h"
#include "rpc/caller_stream.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/flow_group.h"
#include "rpc/retry_judgement.h"
#include "rpc/session.h"

namespace mi7 {
namespace {

// `failure`, after which a call would be repeated whose request was not kept.
absl::Status NotKept(const absl::Status& failure) {
  const absl::Status plain = WithoutOutcome(failure);
  absl::Status result(plain.code(),
                      absl::StrCat(plain.message(), "; its request was not kept to be repeated",
                                   " (ChannelOptions::retry, kept_bytes_max)"));
  plain.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return WithOutcome(result, OutcomeOf(failure));
}

}  // namespace

transport::OutgoingMessage ClientCall::ShareCounted() {
  const size_t bytes_max = channel_->kept_request_bytes_max();
  if (bytes_max == 0) return {};
  if (counted_bytes_ == 0) {
    const size_t bytes = request_->HeldBytes();
    if (!channel_->KeepBytes(bytes)) return {};
    counted_bytes_ = bytes;
  }
  transport::OutgoingMessage second = ShareMessage(*request_, bytes_max);
  if (!second) Uncount();
  return second;
}

void ClientCall::Uncount() { channel_->LetGoBytes(std::exchange(counted_bytes_, 0)); }

bool ClientCall::AddRepeats() {
  repeats_ = ObjectPool<CallRepeats>::New(*this, may_repeat(), retry_policy());
  return (state_.fetch_or(kRepeats, std::memory_order_acq_rel) & kClaimed) == 0;
}

const RetryPolicy& ClientCall::retry_policy() const {
  return extras_ != nullptr && extras_->options.retry != nullptr ? *extras_->options.retry
                                                                 : channel_->retry_policy();
}

bool ClientCall::ContinuesWithRepeats(absl::Status& failure) {
  CallRepeats* own = repeats();
  if (own == nullptr) {
    if (hopeless_.load(std::memory_order_relaxed) ||
        !JudgeFailure(failure, may_repeat(), recognized()).repeat) {
      return false;
    }
    // It can be repeated if its request is still here.
    if (!request_) {
      if (stream_ == nullptr) failure = NotKept(failure);
      return false;
    }
    if (stream_ != nullptr && !stream_->Restart()) return false;
    if (!AddRepeats()) return false;
    own = repeats_;
  }
  std::optional<absl::Status> end =
      own->OnFirstFailed(failure, std::move(request_), std::exchange(counted_bytes_, 0),
                         hopeless_.load(std::memory_order_relaxed));
  if (!end) return true;
  failure = *std::move(end);
  return false;
}

void ClientCall::StartHeld() {
  started_ = true;
  if (extras_ != nullptr && !StartWithExtras()) return;
  if (channel_->forked()) return EndInForkedChild(CallOutcome::kNotSent);
  if (failed_early_ || deadline_.passed()) return FailEarly();
  if (extras_ != nullptr && !PrepareToStart()) return;
  Hold();
}

bool ClientCall::Overtakes(uint32_t moves) const {
  if (in_order_ != nullptr) return in_order_->moves != moves;
  return is_attempt_ && extras_->series_moves.value_or(moves) != moves;
}

void ClientCall::Hold() {
  if (is_attempt_) {
    return Fail(NotSent(absl::UnavailableError("calls of its series before it are elsewhere")));
  }
  if (!AddRepeats()) return;
  repeats_->HoldUnsent(std::move(request_), std::exchange(counted_bytes_, 0));
}

bool ClientCall::recognized() const {
  // In its order it is not made again once it may have run.
  return method_->deduplicate && in_order_ == nullptr && session_ &&
         session_->calls().recognizes_calls();
}

bool ClientCall::PrepareRepetition(const CallSide& to) {
  if (extras_->needs_recognition && !to.Recognizes(extras_->recognized_by)) return false;
  EncodeExtras().IgnoreError();  // it was encoded before
  return true;
}

ClientCall* ClientCall::NewAttempt(transport::OutgoingMessage request) {
  CallOptions options;
  if (extras_ != nullptr) options = extras_->options;
  options.deadline = deadline_;
  options.no_deadline = true;
  options.wait_for_ready = wait_for_ready_;
  options.repeat = Repeat::kNever;
  options.within = nullptr;
  // Attempts run beside each other. The interceptors, which see the call as a whole, want it, too.
  if (extras_ != nullptr && (options.received || extras_->interception)) {
    options.received = std::make_shared<ResponseMetadata>();
  }
  ClientCall* const attempt =
      New(channel_, nullptr, *service_, *method_, options, std::move(request));
  attempt->is_attempt_ = true;
  if (attempt->extras_ == nullptr) attempt->extras_ = MakePooled<ClientCallExtras>(options);
  if (stream_ != nullptr) {
    attempt->stream_ = stream_;
    stream_->Ref();
    // Of a stream that is over what has come is dropped, and its end told: the call's deadline does
    // that.
    attempt->in_deadline_queue_ = true;
  }
  return attempt;
}

void ClientCall::CompleteByAttempt(ClientCall& attempt, absl::Status failure) {
  if (const auto& received = attempt.extras_->options.received; received) {
    extras_->response = std::move(*received);  // Finish passes it on
  }
  if (failure.ok()) {
    CompleteWith(std::move(attempt.ResponseOrEmpty()));
  } else {
    CompleteWith(std::move(failure));
  }
}

bool ClientCall::WaitsToConnect(absl::Duration wait, bool hopeless) const {
  if (wait_for_ready_) return true;
  if (hopeless) return false;
  if (repeat_ == Repeat::kNever && !is_attempt_) return false;
  const RetryPolicy& policy = retry_policy();
  return connects_failed_ < policy.attempts_max && wait <= policy.backoff.max &&
         wait < deadline_.remaining();
}

}  // namespace mi7
