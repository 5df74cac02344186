#include "rpc/stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/turns.h"

namespace mi7 {
namespace {

using transport::FrameHeader;
using transport::FrameType;
using transport::OutgoingMessage;
using transport::StreamDirection;

bool Streams(const MethodInfo& method, StreamDirection direction) {
  return direction == StreamDirection::kToCallee ? StreamsParams(method.kind)
                                                 : StreamsResults(method.kind);
}

}  // namespace

Stream::Stream(const MethodInfo& method, StreamDirection outgoing, const Limits& limits,
               const Interceptors* interceptors)
    : method_(method),
      outgoing_(outgoing),
      limits_(limits),
      interceptors_(interceptors),
      inbox_(this, limits.stream_window_bytes),
      outbox_(this) {}

bool Stream::StreamsIn() const { return Streams(method_, Opposite(outgoing_)); }
bool Stream::StreamsOut() const { return Streams(method_, outgoing_); }

absl::Status Stream::Named(absl::StatusCode code, absl::string_view text) const {
  return absl::Status(code, absl::StrCat(method_.name, ": ", text));
}

void Stream::Connect(SessionStreams& streams, uint32_t call_id) {
  MutexLock lock(&send_mutex_);
  call_id_ = call_id;
  stopped_ = false;
  streams_.store(&streams, std::memory_order_release);
}

void Stream::Disconnect() {
  SessionStreams* before;
  {
    MutexLock lock(&send_mutex_);
    stopped_ = true;
    ++attempt_;
    before = streams_.exchange(nullptr, std::memory_order_acq_rel);
  }
  if (before != nullptr) before->Forget(this);
}

absl::Status Stream::OnFrame(transport::IncomingMessage&& message) {
  const FrameHeader& header = message.header();
  switch (header.type) {
    case FrameType::kStreamMessage: {
      if (!StreamsIn() && message.has_body()) return OnUnexpectedMessage();
      const bool is_first = !received_any_.exchange(true, std::memory_order_relaxed);
      if (is_first) OnFirstMessage(message);
      // Of one with a body when its turn comes. Later its user may be reading what it told of.
      if (is_first && !message.has_body()) ReceiveExtra(message).IgnoreError();
      return inbox_.OnMessage(std::move(message), is_first);
    }
    case FrameType::kStreamEnd:
      return StreamsIn() ? inbox_.OnHalfClose() : absl::OkStatus();
    default:
      return outbox_.OnCredit(header.timeout);
  }
}

bool Stream::IsStray(const FrameHeader& header) const {
  switch (header.type) {
    case FrameType::kStreamMessage: {
      // The first one may be without a body, for the sake of its metadata.
      const bool has_body = header.size != transport::kFrameHeaderBytes + header.extra_size;
      return has_body ? !StreamsIn() : received_any();
    }
    case FrameType::kStreamEnd:
      return !StreamsIn();
    default:
      // Credit is granted by the half window (StreamInbox::Give).
      return header.timeout < streams()->peer_window() / 4;
  }
}

absl::Status Stream::OnRejected(const FrameHeader& header, const absl::Status& why) {
  absl::Status valid = inbox_.OnRejected(header.size);
  if (valid.ok()) FailInput(why);
  return valid;
}

uint32_t Stream::LateFramesMost() const {
  return (StreamsIn() ? inbox_.MessagesMost() : 0) + kLateOthers;
}

void Stream::OnRoom() {
  inbox_.OnRoom();
  outbox_.OnRoom();
}

absl::Status Stream::Await(Readiness& half) {
  if (half.Ready()) return absl::OkStatus();
  if (absl::Status may = MayBlock(); !may.ok()) return may;
  transport::Completion completion;
  if (!half.List(completion)) return absl::OkStatus();
  const Turns::Waiting waiting;
  if (!Sleep(completion, deadline())) {
    // Either this ends the stream, or whoever ended it before is about to complete.
    OnDeadline();
    Sleep(completion, Deadline::Infinite());
  }
  return absl::OkStatus();
}

void Stream::FailTooMuchKept() {
  FailInput(Named(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("limits.stream_kept_bytes_max, ", limits_.stream_kept_bytes_max,
                   " bytes, is reached by what the streams of this connection have received and "
                   "nobody has read yet")));
}

bool Stream::HasRoom() {
  SessionStreams* const of_session = streams();
  return of_session == nullptr || of_session->HasRoom(this);
}

absl::Status Stream::SendMessage(OutgoingMessage message, uint32_t attempt) {
  message->header.type = FrameType::kStreamMessage;
  message->header.code = static_cast<uint16_t>(outgoing_);
  message->may_gather = true;
  return Send(std::move(message), attempt);
}

void Stream::SendCredit(uint32_t bytes) {
  // For messages of the peer's, after the first of which the call is not made again.
  SendControl(FrameType::kCredit, static_cast<uint16_t>(Opposite(outgoing_)), bytes, kAnyAttempt);
}

void Stream::SendControl(FrameType type, uint16_t code, uint32_t bytes, uint32_t attempt) {
  OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = type;
  message->header.code = code;
  message->header.timeout = bytes;
  message->has_body = false;
  // Fails only when the connection is closed, and then the message has no meaning.
  Send(std::move(message), attempt).IgnoreError();
}

absl::Status Stream::Send(OutgoingMessage message, uint32_t attempt) {
  MutexLock lock(&send_mutex_);
  // The end, which follows, says why, or the next attempt sends it.
  if (stopped_ || (attempt != attempt_ && attempt != kAnyAttempt)) return absl::OkStatus();
  message->header.call_id = call_id_;
  return streams()->connection().Send(std::move(message));
}

}  // namespace mi7
