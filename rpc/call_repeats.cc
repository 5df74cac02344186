#include "rpc/call_repeats.h"

#include <algorithm>
#include <climits>
#include <memory>
#include <utility>

#include <capnp/message.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/caller_stream.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/flow_group.h"
#include "rpc/request.h"
#include "rpc/retry_judgement.h"
#include "rpc/session.h"

namespace mi7 {
namespace {

using transport::OutgoingMessage;

// Of the jitter. Not the clock alone: calls that fail together would wait together.
uint64_t Seed(const void* object) {
  return static_cast<uint64_t>(MonotonicNanos()) ^ reinterpret_cast<uintptr_t>(object);
}

ClientCallRef Share(ClientCall& call) {
  call.Ref();
  return ClientCallRef(&call);
}

// A request with what these segments have.
OutgoingMessage NewRequest(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  // It is our own message, which needs no bounds.
  capnp::ReaderOptions unbounded;
  unbounded.traversalLimitInWords = UINT64_MAX;
  unbounded.nestingLimit = INT_MAX;
  size_t words = 0;
  for (const auto& segment : segments) words += segment.size();
  capnp::SegmentArrayMessageReader reader(segments, unbounded);
  OutgoingMessage request = transport::NewHeapMessage(words * sizeof(capnp::word));
  request->setRoot(reader.getRoot<capnp::AnyPointer>());
  return request;
}

}  // namespace

CallRepeats::CallRepeats(ClientCall& call, Repeat may_repeat, const RetryPolicy& policy)
    : call_(call), may_repeat_(may_repeat), policy_(policy), began_ns_(BootNanos()) {}

CallRepeats::~CallRepeats() { call_.channel_->LetGoBytes(counted_bytes_); }

void CallRepeats::KeepRequest(transport::MessageBody& request) {
  MutexLock lock(&mutex_);
  for (const auto& segment : request.Segments()) {
    const auto* const words = reinterpret_cast<const uint64_t*>(segment.begin());
    words_.insert(words_.end(), words, words + segment.size());
    segment_words_.push_back(segment.size());
  }
}

void CallRepeats::TakeBack(OutgoingMessage request, size_t counted_bytes) {
  counted_bytes_ += counted_bytes;
  if (stopped_) {
    // Nobody needs it.
  } else if (transport::IsSole(*request)) {
    // Its memory may be that of a connection that ends.
    transport::EnsureHeapMessage(request);
    request->segment_source = nullptr;
    returned_ = std::move(request);
  } else if (segment_words_.empty()) {
    // A connection has not let go of it yet, or it lies where the peer reads it.
    transport::ReadShared(*request, [&](auto segments) { returned_ = NewRequest(segments); });
  }
  if (!returned_) call_.channel_->LetGoBytes(std::exchange(counted_bytes_, 0));
}

OutgoingMessage CallRepeats::MakeRequest() {
  if (returned_) {
    returned_->SetExtra({});  // the next attempt has its own
    return std::move(returned_);
  }
  absl::InlinedVector<kj::ArrayPtr<const capnp::word>, 1> segments;
  const auto* words = reinterpret_cast<const capnp::word*>(words_.data());
  for (const size_t size : segment_words_) {
    segments.push_back(kj::arrayPtr(words, size));
    words += size;
  }
  return NewRequest(kj::arrayPtr(segments.data(), segments.size()));
}

void CallRepeats::BeginHedging() {
  MutexLock lock(&mutex_);
  if (may_repeat_ == Repeat::kIdempotent && !stopped_ && first_runs_) ScheduleHedge();
}

void CallRepeats::ScheduleHedge() {
  if (policy_.hedge_delay == absl::InfiniteDuration() || attempts_ >= policy_.attempts_max) return;
  Schedule(policy_.hedge_delay);
}

void CallRepeats::Schedule(absl::Duration wait) {
  timer_ = call_.channel_->timers()->Schedule(
      Deadline::After(wait),
      [this, self = Share(call_), number = ++timer_number_] { OnTimer(number); });
}

void CallRepeats::Unschedule() {
  ++timer_number_;
  if (timer_ != Timers::Handle()) call_.channel_->timers()->Cancel(std::exchange(timer_, {}));
}

void CallRepeats::OnTimer(uint32_t number) {
  std::optional<FlowGroupRef> group;
  ClientCall* attempt = nullptr;
  {
    MutexLock lock(&mutex_);
    if (number != timer_number_) return;
    timer_ = {};
    if (stopped_) return;
    if (call_.in_order_ != nullptr) {
      group = call_.in_order_->group->Rested(call_.in_order_);
    } else {
      if (first_runs_ || !running_.empty()) {
        // A hedge, which is one attempt too many if the others get their answers.
        if (!call_.channel_->retry_budget().Take(MonotonicNanos())) return;
      }
      attempt = NewAttempt();
    }
  }
  if (group) {
    (*group)->GoOn();
  } else {
    Launch(attempt);
  }
}

ClientCall* CallRepeats::NewAttempt() {
  if (stopped_) return nullptr;
  const bool others = may_have_run_ || answered_ || first_runs_ || !running_.empty();
  // Only a hedge may run beside it, which is idempotent; what was answered has done nothing.
  ClientCall* const attempt = call_.NewAttempt(MakeRequest());
  attempt->counted_bytes_ = std::exchange(counted_bytes_, 0);
  ClientCallExtras& extras = *attempt->extras_;
  extras.previous_attempts = static_cast<uint32_t>(attempts_);
  extras.may_have_run_since_ns = others ? began_ns_ : 0;
  extras.needs_recognition = may_have_run_ && may_repeat_ != Repeat::kIdempotent;
  extras.recognized_by = recognized_by_;
  if (call_.in_order_ != nullptr) extras.series_moves = call_.in_order_->moves;
  ++attempts_;
  // Beside the handle's reference, which the continuation gives back: Stop may come at any moment.
  attempt->Ref();
  running_.push_back(attempt);
  if (may_repeat_ == Repeat::kIdempotent) ScheduleHedge();
  return attempt;
}

bool CallRepeats::Launch(ClientCall* attempt) {
  if (attempt == nullptr) return false;
  attempt->Start();
  // Until OnDone the handle's reference is still here. One that somebody has claimed may not have
  // been sent.
  const bool goes = !attempt->claimed() || (attempt->done() && attempt->status().ok());
  attempt->OnDone([this, self = Share(call_)](ClientCall& done) { OnAttemptDone(done); });
  return goes;
}

void CallRepeats::HoldUnsent(OutgoingMessage request, size_t counted_bytes) {
  std::optional<FlowGroupRef> group;
  {
    MutexLock lock(&mutex_);
    TakeBack(std::move(request), counted_bytes);
    if (stopped_) return;
    first_runs_ = false;
    attempts_ = 0;
    MI7_CHECK(static_cast<bool>(returned_), "nobody else has a request that was not sent");
    held_failure_ = call_.NotSent(absl::UnavailableError("waited for the calls before it"));
    next_is_free_ = true;
    group = call_.in_order_->group->Hold(call_.in_order_, /*rests=*/false);
  }
  (*group)->GoOn();
}

bool CallRepeats::Release() {
  bool admitted;
  ClientCall* attempt = nullptr;
  {
    MutexLock lock(&mutex_);
    admitted = next_is_free_ || call_.channel_->retry_budget().Take(MonotonicNanos());
    if (admitted) {
      held_failure_.reset();
      attempt = NewAttempt();
    }
  }
  if (admitted) return Launch(attempt);
  EndHeld();
  return false;
}

void CallRepeats::EndHeld() {
  absl::Status end;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return;  // somebody else ends it
    end = Final(*held_failure_);
  }
  if (call_.Claim()) call_.CompleteWith(std::move(end));
}

std::optional<absl::Status> CallRepeats::OnFirstFailed(const absl::Status& failure,
                                                       OutgoingMessage request,
                                                       size_t counted_bytes, bool hopeless) {
  {
    MutexLock lock(&mutex_);
    first_runs_ = false;
    if (request) TakeBack(std::move(request), counted_bytes);
  }
  return OnFailed(failure, hopeless, call_);
}

void CallRepeats::OnAttemptDone(ClientCall& attempt) {
  const ClientCallRef handle(&attempt);
  {
    MutexLock lock(&mutex_);
    const auto found = std::find(running_.begin(), running_.end(), &attempt);
    if (found == running_.end()) return;  // stopped
    running_.erase(found);
    attempt.Unref();
    const CallOutcome outcome = OutcomeOf(attempt.status());
    // Of others it may be in a connection's hands still.
    if ((outcome == CallOutcome::kNotSent || outcome == CallOutcome::kRefused) &&
        attempt.request_) {
      TakeBack(std::move(attempt.request_), std::exchange(attempt.counted_bytes_, 0));
    }
  }
  absl::Status end = attempt.status();
  if (!end.ok()) {
    bool hopeless = attempt.hopeless_.load(std::memory_order_relaxed);
    // What was written to a stream may be needed once more.
    if (call_.stream_ != nullptr && !hopeless && JudgeFailure(end, may_repeat_).repeat) {
      hopeless = !call_.stream_->Restart();
    }
    std::optional<absl::Status> final = OnFailed(end, hopeless, attempt);
    if (!final) return;
    end = *std::move(final);
  }
  if (call_.Claim()) {
    WithdrawFirst();
    call_.CompleteByAttempt(attempt, std::move(end));
  }
}

void CallRepeats::WithdrawFirst() {
  bool runs;
  {
    MutexLock lock(&mutex_);
    runs = std::exchange(first_runs_, false);
  }
  if (runs) call_.channel_->WithdrawCall(&call_);
}

std::optional<absl::Status> CallRepeats::OnFailed(const absl::Status& failure, bool hopeless,
                                                  const ClientCall& attempt) {
  const bool recognized = call_.in_order_ == nullptr && attempt.recognized();
  std::optional<FlowGroupRef> group;
  ClientCall* next_attempt = nullptr;
  const uint64_t instance = recognized ? attempt.session_->calls().peer_instance() : 0;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return std::nullopt;
    const CallOutcome outcome = OutcomeOf(failure);
    if (outcome == CallOutcome::kUnknown) {
      may_have_run_ = true;
      if (recognized) recognized_by_ = instance;
    }
    answered_ |= outcome == CallOutcome::kAnswered;
    const RetryJudgement judgement = JudgeFailure(failure, may_repeat_, recognized);
    // Others may do better, unless this is what any of them would be told.
    const bool others_run = first_runs_ || !running_.empty();
    if (others_run && (judgement.repeat || outcome != CallOutcome::kAnswered)) return std::nullopt;
    if (!judgement.repeat || hopeless) return Final(failure);
    const std::optional<absl::Duration> next = Wait(judgement);
    if (!next) return Final(failure);
    Unschedule();
    const bool rests = *next != absl::ZeroDuration();
    if (rests) Schedule(*next);
    if (call_.in_order_ != nullptr) {
      held_failure_ = failure;
      // Under the mutex: the call is not stopped, so it has its place.
      group = call_.in_order_->group->Hold(call_.in_order_, rests);
    } else if (!rests) {
      next_attempt = NewAttempt();
    }
  }
  if (group) {
    (*group)->GoOn();
  } else {
    Launch(next_attempt);
  }
  return std::nullopt;
}

std::optional<absl::Duration> CallRepeats::Wait(const RetryJudgement& judgement) {
  if (attempts_ >= policy_.attempts_max) return std::nullopt;
  if (!returned_ && segment_words_.empty()) return std::nullopt;  // no copy was kept
  absl::Duration wait;
  const bool free = judgement.free && attempts_ == 1;
  if (judgement.advice) {
    wait = *judgement.advice;
  } else if (!free) {
    if (!backoff_) backoff_.emplace(policy_.backoff, Seed(this));
    wait = backoff_->Next();
  }
  if (wait >= call_.deadline_.remaining()) return std::nullopt;
  if (call_.in_order_ != nullptr) {
    // Else paid for when it is made, if it is. A series whose every call was paid for the second
    // time that a server goes away would end by that.
    next_is_free_ = judgement.free;
  } else if (!free && !call_.channel_->retry_budget().Take(MonotonicNanos())) {
    return std::nullopt;
  }
  return wait;
}

absl::Status CallRepeats::Final(const absl::Status& failure) {
  stopped_ = true;  // Stop, which follows, cancels what runs
  if (attempts_ <= 1) return failure;
  // That the last attempt was not sent says nothing of those before it.
  CallOutcome outcome = OutcomeOf(failure);
  const bool nothing_done = outcome == CallOutcome::kNotSent || outcome == CallOutcome::kRefused;
  if (may_have_run_ || (answered_ && nothing_done)) outcome = CallOutcome::kUnknown;
  // The answer of a server that does not know what another one does at this moment.
  const bool others_run = first_runs_ || !running_.empty();
  if (others_run && call_.method().deduplicate && absl::IsAborted(failure)) {
    outcome = CallOutcome::kUnknown;
  }
  const absl::Status plain = WithoutOutcome(failure);
  absl::Status result(plain.code(), absl::StrCat(plain.message(), " (", attempts_, " attempts)"));
  plain.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return WithOutcome(result, outcome);
}

void CallRepeats::Stop() {
  std::vector<ClientCall*> running;
  Timers::Handle timer;
  OutgoingMessage returned;  // the handle of a call may live long
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    running.swap(running_);
    returned = std::move(returned_);
    call_.channel_->LetGoBytes(std::exchange(counted_bytes_, 0));
    timer = std::exchange(timer_, {});
  }
  if (timer != Timers::Handle()) call_.channel_->timers()->Cancel(timer);
  for (ClientCall* attempt : running) {
    attempt->Cancel();
    attempt->Unref();
  }
}

CallOutcome CallRepeats::StopEarly(CallOutcome first) {
  MutexLock lock(&mutex_);
  stopped_ = true;
  if (first_runs_ && running_.empty() && !may_have_run_) return first;
  if (may_have_run_ || answered_ || !running_.empty()) return CallOutcome::kUnknown;
  return CallOutcome::kNotSent;
}

}  // namespace mi7
