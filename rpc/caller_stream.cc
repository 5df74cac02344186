#include "rpc/caller_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/object_pool.h"
#include "rpc/call_extras.h"
#include "rpc/call_outcome.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/session.h"

namespace mi7 {

CallerStream::CallerStream(ClientCall* call)
    : Stream(call->method(), transport::StreamDirection::kToCallee, *call->limits_,
             call->interceptors()),
      call_(call) {}

StreamRef CallerStream::Open(ClientCallRef owned) {
  ClientCall* const call = owned.release();
  StreamRef stream(call->stream_ = ObjectPool<CallerStream>::New(call));
  // What it has run, and how it was answered, tells nobody whether a stream may run again.
  call->repeat_ = std::min(call->repeat_, Repeat::kUnlessItRan);
  if (call->keeps_request() && call->channel_->kept_request_bytes_max() != 0) {
    stream->outbox().KeepWritten();
  }
  // Nobody may be waiting when the deadline passes. An interceptor may set one in Start.
  call->in_deadline_queue_ = !call->deadline_.infinite() || call->extras_ != nullptr;
  call->Start();
  if (call->deadline_.infinite() || call->done()) return stream;
  call->channel_->deadlines().Add(call);
  if (call->done()) call->channel_->deadlines().Remove(call);
  return stream;
}

void CallerStream::Ref() { call_->Ref(); }
void CallerStream::Unref() { call_->Unref(); }

void CallerStream::WantBackground() {
  if (call_->channel_->forked()) [[unlikely]]
    return call_->EndInForkedChild(CallOutcome::kUnknown);
  // A call that was queued is driven in the background from the start, as are further attempts,
  // which say so before they are connected.
  if (streams() == nullptr || in_background_.load(std::memory_order_relaxed)) return;
  in_background_.store(true, std::memory_order_relaxed);
  call_->session_->calls().DriveInBackground(call_);
}

transport::OutgoingMessage CallerStream::NewMessage() {
  auto& guess = transport::SizeGuess::For(method().interface_id + method().method_id);
  if (SessionStreams* const of_session = streams()) {
    absl::StatusOr<transport::OutgoingMessage> reserved =
        of_session->connection().Reserve(guess.bytes());
    if (reserved.ok()) {
      (*reserved)->size_guess = &guess;
      return *std::move(reserved);
    }
  }
  // No connection yet, or one that is full: what is written then is not refused, but waits.
  return transport::NewHeapMessage(guess.bytes());
}

absl::Status CallerStream::ReceiveExtra(const transport::IncomingMessage& message) {
  if (call_->extras_ == nullptr || !call_->extras_->options.received) return absl::OkStatus();
  ResponseMetadata received;
  absl::Status decoded = DecodeExtra(message, received);
  if (decoded.ok() && !received.initial.empty()) {
    call_->extras_->options.received->initial = std::move(received.initial);
  }
  return decoded;
}

absl::Status CallerStream::DecodeExtra(const transport::IncomingMessage& message,
                                       ResponseMetadata& received) {
  const absl::Status decoded = DecodeResponseMetadata(message, limits(), received);
  if (decoded.ok()) return decoded;
  const absl::Status failure =
      Named(absl::IsResourceExhausted(decoded) ? decoded.code() : absl::StatusCode::kInternal,
            absl::StrCat("stream message: ", decoded.message()));
  FailInput(failure);
  return failure;
}

void CallerStream::OnFirstMessage(const transport::IncomingMessage& message) {
  if (interceptors() == nullptr || message.extra().empty()) return;
  ResponseMetadata received;
  if (!DecodeExtra(message, received).ok()) return;
  MutexLock lock(&initial_mutex_);
  initial_ = std::move(received.initial);
}

void CallerStream::TakeInitialMetadata(Metadata& initial) {
  MutexLock lock(&initial_mutex_);
  if (!initial_.empty()) initial = std::move(initial_);
}

absl::Status CallerStream::FailMalformed() {
  const absl::Status why = StatusOfException(absl::StatusCode::kInternal, method().name);
  FailInput(why);
  return why;
}

absl::Status CallerStream::OnUnexpectedMessage() {
  FailInput(
      Named(absl::StatusCode::kInternal,
            "the server sent a stream message for a method that has one result; do the schemas "
            "differ?"));
  return absl::OkStatus();
}

void CallerStream::FailInput(const absl::Status& why) {
  // The call ends with it, and the server is told to stop. One that had ended before keeps its end,
  // but nothing more is read of it.
  call_->FailAndCancel(why);
  inbox().Clear(why);
}

void CallerStream::OnSending(SessionStreams& streams, uint32_t call_id, const ClientCall& by) {
  if (by.is_attempt_) {
    in_background_.store(true, std::memory_order_relaxed);
    if (sessions_.empty() || sessions_.back() != by.session_) sessions_.push_back(by.session_);
  }
  Connect(streams, call_id);
}

CallerStream::Begun CallerStream::OnBegun(uint32_t attempt) {
  uint32_t progress = progress_.load(std::memory_order_relaxed);
  if (progress == 2 * attempt + 1) [[likely]]
    return Begun::kBefore;
  if (progress != 2 * attempt ||
      !progress_.compare_exchange_strong(progress, progress + 1, std::memory_order_relaxed)) {
    return Begun::kOver;
  }
  outbox().DropWritten();
  return Begun::kNow;
}

bool CallerStream::Restart() {
  uint32_t progress = progress_.load(std::memory_order_relaxed);
  if (progress % 2 != 0 ||
      !progress_.compare_exchange_strong(progress, progress + 2, std::memory_order_relaxed)) {
    return false;
  }
  Disconnect();
  return outbox().Restart() || !StreamsOut();
}

void CallerStream::FailAgain(const absl::Status& why) {
  // The handler has seen some of it, perhaps.
  call_->FailAndCancel(WithOutcome(
      Named(why.code(), absl::StrCat("stream message, in a further attempt: ", why.message())),
      CallOutcome::kUnknown));
}

void CallerStream::OnDone() {
  call_->LeaveDeadlineQueue();
  const absl::Status& status = call_->status();
  given_up_ ? inbox().Clear(status) : inbox().End(status);
  outbox().End(!status.ok() ? status
                            : Named(absl::StatusCode::kFailedPrecondition,
                                    "the server has ended the stream with OK"));
}

absl::Status CallerStream::MayBlock() {
  if (call_->channel_->forked()) [[unlikely]]
    return call_->channel_->ForkedError();
  // Not in a callback of the connection on which the call was begun either, on which the next
  // attempt may follow.
  SessionStreams* const of_session = streams();
  const bool in_loop = call_->channel_->InLoopThread();
  if (!in_loop && !call_->WouldWaitForItself() &&
      (of_session == nullptr || !of_session->connection().InCallback())) {
    return absl::OkStatus();
  }
  return Named(absl::StatusCode::kFailedPrecondition,
               absl::StrCat("Wait() inside a callback ",
                            in_loop ? "of the event loop that serves the channel"
                                    : "or handler of the same connection",
                            " would wait for itself; use Then() or co_await"));
}

bool CallerStream::Sleep(transport::Completion& completion, Deadline deadline) {
  // Not inside a callback of the connection that the stream has come to since MayBlock: there its
  // messages come by when the callback is over, or another thread drives.
  SessionStreams* const of_session = streams();
  if (of_session != nullptr && !of_session->connection().InCallback()) {
    return of_session->connection().Await(completion, deadline);
  }
  // No connection, or none yet: the channel's event loop connects, sends and drives.
  for (;;) {
    switch (completion.Sleep(deadline)) {
      case transport::Completion::Woken::kDone:
        return true;
      case transport::Completion::Woken::kDeadline:
        return false;
      case transport::Completion::Woken::kTurn:
        break;
    }
  }
}

Deadline CallerStream::deadline() const { return call_->deadline_; }

void CallerStream::OnDeadline() { call_->Expire(); }

}  // namespace mi7
