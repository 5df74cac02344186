#include "rpc/call_side.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/asymmetric_fence.h"
#include "rpc/call_outcome.h"
#include "rpc/caller_stream.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/error_codec.h"
#include "rpc/retry_info.h"
#include "rpc/session_streams.h"

namespace mi7 {
namespace {

using transport::FrameHeader;
using transport::FrameType;

// Stands in the table for a call that nobody waits for any more, whose id is taken until its return
// arrives. The call itself is let go at once, so that a server that never answers pins nothing.
ClientCall* const kGivenUp = reinterpret_cast<ClientCall*>(alignof(ClientCall));

absl::Status NoSuchCall(const FrameHeader& header) {
  return absl::InvalidArgumentError(
      absl::StrCat("return for call ", header.call_id, ", which is not in flight"));
}

absl::Status NoSuchStream(const FrameHeader& header) {
  return absl::InvalidArgumentError(
      absl::StrCat("stream frame for call ", header.call_id, ", which is not in flight"));
}

}  // namespace

// Why the sender and those who look see each other. Either fence is one for both sides
// (asymmetric_fence.h); where there are none, S1 and all others are sequentially consistent.
//   sender: S1 send_stage_ = how       LightFence    S2 reads lost_, and state_ for a claim
//   other:  O1 lost_ = true, a claim   HeavyFence    O2 reads send_stage_
// Either S2 sees O1, or O2 sees S1. An atomic operation instead, once a call, would wait until what
// the send wrote to shared memory has come to its place. Of two that both see that the call was
// lost the exchange makes one end it; acq_rel, so that it sees what the other one wrote before.
[[gnu::always_inline]] inline bool ClientCall::EndSend(SendStage how) {
  if (HaveAsymmetricFences()) [[likely]] {
    send_stage_.store(how, std::memory_order_release);  // S1
    LightFence();
  } else {
    send_stage_.exchange(how, std::memory_order_seq_cst);  // S1
  }
  return lost_.load(std::memory_order_seq_cst) &&  // S2
         !lost_is_told_.exchange(true, std::memory_order_acq_rel);
}

ClientCall::SendStage ClientCall::SendStageAfterChange() const {
  const SendStage stage = send_stage_.load(std::memory_order_seq_cst);
  // Once it is said it stays.
  if (stage != kSending || !HaveAsymmetricFences()) return stage;
  HeavyFence();
  return send_stage_.load(std::memory_order_seq_cst);  // O2
}

CallSide::CallSide(SessionStreams* streams, const transport::Negotiated& negotiated,
                   const Limits& limits)
    : streams_(streams),
      in_flight_max_(std::min(limits.calls_in_flight_max, negotiated.calls_in_flight_max)),
      // One that does not say who it is cannot be told from its successor.
      recognizes_calls_((negotiated.features & transport::kFeatureRequestIds) != 0 &&
                        negotiated.peer_instance != 0) {}

bool CallSide::HasControlRoom(const ClientCall& call) const {
  return call.method_->priority == Priority::kControl &&
         calls_.in_use() - in_flight_max_ < kControlCallsReserved;
}

transport::Connection& CallSide::connection() const { return streams_->connection(); }

void CallSide::Send(ClientCall* call) {
  if (TrySend(call)) return;
  const absl::Status why = closed();
  call->Fail(
      WithOutcome(absl::UnavailableError(absl::StrCat(
                      call->method().name, ": ",
                      why.ok() ? absl::string_view("connection is closing") : why.message())),
                  CallOutcome::kNotSent));
}

uint64_t CallSide::peer_instance() const { return connection().info().negotiated.peer_instance; }

bool CallSide::FailUnrecognized(ClientCall& call) {
  if (stopped()) return false;  // the next server may
  call.DropRequest();
  call.FailForGood(call.NotSent(
      recognizes_calls_
          ? absl::AbortedError(
                "an earlier attempt may have run, on another server than the one that is there now "
                "(it was restarted, or there are several)")
          : absl::UnavailableError("an earlier attempt may have run, and the server's mi7 does "
                                   "not recognize calls that are made again")));
  return true;
}

absl::Status CallSide::TooManyCalls() const {
  // As a server refuses it, whose own advice is not known here.
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat(
          calls_.in_use(), " calls in flight, calls_in_flight_max is ", in_flight_max_)),
      LoadLimits().retry_after);
}

bool CallSide::TrySend(ClientCall* call) {
  if (!call->PrepareAttempt(*this)) [[unlikely]]
    return FailUnrecognized(*call);
  FrameHeader& header = call->request_->header;
  header.type = FrameType::kCall;
  header.target = transport::TargetKind::kService;
  header.code = call->method_->method_id;
  header.interface_id = call->method_->interface_id;
  header.target_id = ServiceKey(call->service_->id);
  if (const Deadline deadline = call->deadline_; !deadline.infinite()) {
    header.timeout = transport::EncodeTimeout(deadline.remaining_ns());
  }

  // What is kept of the request belongs to whoever takes the call out of the table, from the moment
  // that it is there.
  transport::OutgoingMessage request;
  if (call->keeps_request()) {
    request = ShareMessage(*call->request_, call->channel_->uncounted_request_bytes_max());
    if (!request) [[unlikely]]
      request = call->ShareCounted();
  }
  absl::Status failure;
  {
    BiasedLock lock(&mutex_);
    if (stopped()) return false;
    if (calls_.in_use() >= in_flight_max_ && !HasControlRoom(*call)) [[unlikely]] {
      failure = TooManyCalls();
    } else if (call->stream_ != nullptr && !streams_->supported()) [[unlikely]] {
      failure = absl::UnimplementedError("the server's mi7 knows no streams");
    } else {
      if (!request) request = std::move(call->request_);
      call->call_id_ = header.call_id = calls_.Add(call);
      call->Ref();
      if (call->stream_ != nullptr) [[unlikely]]
        call->stream_->OnSending(*streams_, header.call_id, *call);
      if (call->background_) TakeBackground(call);
    }
  }
  if (failure.ok()) [[likely]] {
    const uint32_t call_id = header.call_id;
    failure = connection().Send(std::move(request));
    if (failure.ok()) [[likely]] {
      // OnClosed leaves a call to us that it finds unsent, because it cannot know how this ends; so
      // does Withdraw, because a cancellation must not overtake its call.
      if (call->EndSend(ClientCall::kSent)) [[unlikely]] {
        call->Fail(LostStatus(*call));
      } else if (call->claimed()) {
        Withdraw(call);  // or it was answered already, and is not in the table
      } else if (call->stream_ != nullptr) [[unlikely]] {
        call->stream_->OnSent(call->previous_attempts(), streams_->peer_window());
      }
      return true;
    }
    // Nothing of it was sent. No return is due, but a broken peer may have made one up, and
    // OnClosed may have taken the call: one of us ends it. So what was kept of the request has to
    // be the call's alone by now, for the next attempt.
    request.reset();
    if (!call->EndSend(ClientCall::kUnsent)) {
      // The id may be another call's already.
      if (Take(call_id, call) == nullptr) return true;
      call->Unref();
    }
  }
  request.reset();  // as above, of a call that no connection was asked to send
  if (transport::IsQueueFull(failure)) [[unlikely]] {
    // Not repeated by itself: what waited for that would take the memory for which there is no
    // room.
    call->FailForGood(call->NotSent(WithRetryAfter(failure, LoadLimits().retry_after)));
  } else {
    call->Fail(call->NotSent(failure));
  }
  return true;
}

bool CallSide::Withdraw(ClientCall* call) {
  bool unsent;
  // Under the lock, so that no new call can take the id and overtake its predecessor's
  // cancellation: a new call gets its id under the lock and is sent after that.
  {
    BiasedLock lock(&mutex_);
    const uint32_t call_id = call->call_id_;
    const ClientCall::SendStage stage = call->SendStageAfterChange();
    // The connection has refused it, and whoever is about to end it for that comes too late.
    if (stage == ClientCall::kUnsent) return true;
    // kSending: what becomes of it at this moment only TrySend will know, which then tells the
    // server, and for which a cancellation does not wait.
    if (calls_.At(call_id) != call || stage != ClientCall::kSent) return false;
    if (call->stream_ != nullptr) [[unlikely]]
      call->stream_->StopSending();
    GiveBackBackground(call);
    // A server that goes away is answered: the last return closes the connection.
    unsent = !stopped() && connection().Withdraw(call_id);
    if (unsent) {
      calls_.Free(call_id);
    } else {
      if (call->stream_ != nullptr) [[unlikely]]
        streams_->ExpectLate(call->stream_->LateFramesMost());
      calls_.Replace(call_id, kGivenUp);
      SendCancelOf(call_id);
    }
  }
  call->DropRequest();  // the handle of a call may live long
  call->Unref();        // the table's; the caller has its own
  return unsent;
}

void CallSide::SendCancelOf(uint32_t call_id) {
  transport::OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = FrameType::kCancel;
  message->header.call_id = call_id;
  message->has_body = false;
  // Never refused for want of room: it fails when the connection is closed, which cancels, too.
  connection().Send(std::move(message)).IgnoreError();
}

absl::Status CallSide::OnReturn(transport::IncomingMessage&& message) {
  ClientCall* const call = Take(message.header().call_id);
  if (call == nullptr) [[unlikely]]
    return NoSuchCall(message.header());
  if (call == kGivenUp) return absl::OkStatus();
  const bool plain = call->extras_ == nullptr && call->stream_ == nullptr;
  if (plain && message.header().code == 0 && message.has_body()) [[likely]] {
    call->TakeReturn(std::move(message));
  } else {
    TakeUnusualReturn(call, std::move(message));
  }
  return absl::OkStatus();
}

void CallSide::TakeUnusualReturn(ClientCall* call, transport::IncomingMessage&& message) {
  absl::Status status;
  if (message.header().code != 0) [[unlikely]] {
    status = DecodeError(message, *call->limits_);
  } else if (!message.has_body() && (call->stream_ == nullptr || call->stream_->awaits_results()))
      [[unlikely]] {
    status = absl::InternalError(
        absl::StrCat(call->method().name, ": the server's return has neither error nor results"));
  }
  if ((status.ok() || !call->Continues(status)) && call->Claim()) {
    if (status.ok() || !call->is_attempt_) call->DropRequest();
    if (call->extras_ != nullptr) [[unlikely]]
      call->ReceiveExtras(message, status);
    if (status.ok()) [[likely]] {
      call->CompleteWith(std::move(message));
    } else {
      call->CompleteWith(std::move(status));
    }
  }
  call->Unref();
}

absl::Status CallSide::OnRejectedReturn(const FrameHeader& header, const absl::Status& why) {
  ClientCall* const call = Take(header.call_id);
  if (call == nullptr) return NoSuchCall(header);
  if (call == kGivenUp) return absl::OkStatus();
  call->Fail(
      absl::Status(why.code(), absl::StrCat(call->method().name, ": results: ", why.message())));
  call->Unref();
  return absl::OkStatus();
}

absl::Status CallSide::OnStreamFrame(transport::IncomingMessage&& message, Stray& stray) {
  const FrameHeader& header = message.header();
  ClientCall* const call = Find(header.call_id);
  if (call == nullptr) return NoSuchStream(header);
  if (call == kGivenUp) {
    stray = Stray::kOfEnded;
    return absl::OkStatus();
  }
  absl::Status valid;
  if (call->stream_ != nullptr) {
    switch (call->stream_->OnBegun(call->previous_attempts())) {
      case CallerStream::Begun::kNow:
        DropKept(header.call_id, *call);
        [[fallthrough]];
      case CallerStream::Begun::kBefore:
        if (call->stream_->IsStray(header)) stray = Stray::kOfOpen;
        valid = call->stream_->OnFrame(std::move(message));
        break;
      case CallerStream::Begun::kOver:
        stray = Stray::kOfEnded;
        break;
    }
  } else if (header.type == FrameType::kStreamMessage) {
    call->FailAndCancel(absl::InternalError(absl::StrCat(
        call->method().name,
        ": the server sent a stream message for a unary method; do the schemas differ?")));
  } else {
    valid = absl::InvalidArgumentError(
        absl::StrCat("credit for call ", header.call_id, ", which is no stream"));
  }
  call->Unref();
  return valid;
}

absl::Status CallSide::OnRejectedStreamMessage(const FrameHeader& header, const absl::Status& why,
                                               Stray& stray) {
  ClientCall* const call = Find(header.call_id);
  if (call == nullptr) return NoSuchStream(header);
  if (call == kGivenUp) {
    stray = Stray::kOfEnded;
    return absl::OkStatus();
  }
  FailStream(*call, why);
  return absl::OkStatus();
}

void CallSide::OnUnsentStreamMessage(const FrameHeader& header, const absl::Status& why) {
  ClientCall* const call = Find(header.call_id);
  if (call != nullptr && call != kGivenUp) FailStream(*call, why);
}

void CallSide::DropKept(uint32_t call_id, ClientCall& call) {
  transport::OutgoingMessage kept;
  size_t counted = 0;
  {
    BiasedLock lock(&mutex_);
    // Outside of the table it is somebody else's.
    if (calls_.At(call_id) != &call) return;
    kept = std::move(call.request_);
    counted = std::exchange(call.counted_bytes_, 0);
  }
  call.channel_->LetGoBytes(counted);
}

void CallSide::FailStream(ClientCall& call, const absl::Status& why) {
  // What ends an attempt so ends its call.
  ClientCall& whole = call.stream_ != nullptr ? *call.stream_->call() : call;
  whole.FailAndCancel(absl::Status(
      why.code(), absl::StrCat(call.method().name, ": stream message: ", why.message())));
  call.Unref();
}

void CallSide::OnUnsent(const FrameHeader& header, const absl::Status& why) {
  ClientCall* const call = Take(header.call_id);
  if (call == nullptr || call == kGivenUp) return;
  call->Fail(call->NotSent(why));
  call->Unref();
}

void CallSide::OnClosed(const absl::Status& why) {
  absl::Status closed;
  std::vector<ClientCall*> lost;
  {
    BiasedLock lock(&mutex_);
    stopped_ = true;
    closed = absl::UnavailableError(
        absl::StrCat("connection lost", !why.ok() ? absl::StrCat(": ", why.message())
                                        : closes_ ? " (the channel was closed)"
                                                  : " (closed by the peer)"));
    closed_ = closed;
    lost = calls_.TakeAll();
    background_ = 0;
  }
  for (ClientCall* call : lost) {
    if (call == kGivenUp) continue;
    call->lost_.store(true, std::memory_order_seq_cst);
    const ClientCall::SendStage stage = call->SendStageAfterChange();
    // Otherwise TrySend ends it, or has.
    if (stage != ClientCall::kSending &&
        !call->lost_is_told_.exchange(true, std::memory_order_acq_rel)) {
      call->Fail(stage == ClientCall::kSent ? LostStatus(*call) : call->NotSent(closed));
    }
    call->Unref();
  }
}

absl::Status CallSide::closed() const {
  BiasedLock lock(&mutex_);
  return closed_;
}

absl::Status CallSide::LostStatus(const ClientCall& call) const {
  BiasedLock lock(&mutex_);
  return WithOutcome(
      absl::Status(closed_.code(), absl::StrCat(call.method().name, ": ", closed_.message())),
      names_accepted_ && !call.named_ ? CallOutcome::kRefused : CallOutcome::kUnknown);
}

bool CallSide::DriveInBackground(ClientCall* call) {
  BiasedLock lock(&mutex_);
  // One that has left the table needs no driving.
  if (calls_.At(call->call_id_) != call) return false;
  if (!call->background_) TakeBackground(call);
  return call->PublishWhileOnlyOurs();
}

void CallSide::TakeBackground(ClientCall* call) {
  call->background_ = true;
  if (background_++ == 0) connection().SetBackground(true);
}

void CallSide::GiveBackBackground(ClientCall* call) {
  if (std::exchange(call->background_, false) && --background_ == 0) {
    connection().SetBackground(false);
  }
}

void CallSide::StopSending() {
  BiasedLock lock(&mutex_);
  stopped_ = true;
}

void CallSide::StopForClose() {
  BiasedLock lock(&mutex_);
  stopped_ = true;
  closes_ = true;
}

void CallSide::OnAcceptedNamed(const std::vector<uint32_t>& call_ids) {
  BiasedLock lock(&mutex_);
  // From here on the table only gets emptier, so what is said of its calls holds for all of them:
  // also for those whose bytes have not left yet, which come too late.
  stopped_ = true;
  names_accepted_ = true;
  for (const uint32_t id : call_ids) {
    ClientCall* const call = calls_.At(id);
    if (call != nullptr && call != kGivenUp) call->named_ = true;
  }
}

bool CallSide::StopSendingIfIdle() {
  BiasedLock lock(&mutex_);
  if (calls_.in_use() != 0) return false;
  stopped_ = true;
  return true;
}

bool CallSide::idle() const {
  BiasedLock lock(&mutex_);
  return calls_.in_use() == 0;
}

ClientCall* CallSide::Find(uint32_t call_id) {
  BiasedLock lock(&mutex_);
  ClientCall* const call = calls_.At(call_id);
  if (call != nullptr && call != kGivenUp) call->Ref();
  return call;
}

ClientCall* CallSide::Take(uint32_t call_id, const ClientCall* expected) {
  BiasedLock lock(&mutex_);
  ClientCall* const call = calls_.At(call_id);
  if (call == nullptr || (expected != nullptr && call != expected)) return nullptr;
  if (call != kGivenUp) {
    GiveBackBackground(call);
    // Before another call can get the id.
    if (call->stream_ != nullptr) [[unlikely]]
      call->stream_->StopSending();
  }
  calls_.Free(call_id);
  return call;
}

}  // namespace mi7
