#include "rpc/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/go_away.h"
#include "rpc/liveness_watch.h"

namespace mi7 {

using transport::FrameHeader;
using transport::FrameType;
using transport::StreamDirection;

Session::Session(std::shared_ptr<transport::Connection> connection,
                 std::weak_ptr<Observer> observer, std::shared_ptr<const SessionConfig> config)
    : Session(connection, std::move(observer), std::move(config), connection->info().negotiated) {}

Session::Session(std::shared_ptr<transport::Connection> connection,
                 std::weak_ptr<Observer> observer, std::shared_ptr<const SessionConfig> config,
                 const transport::Negotiated& negotiated)
    : connection_(std::move(connection)),
      observer_(std::move(observer)),
      config_(std::move(config)),
      streams_(connection_.get(), negotiated),
      calls_(&streams_, negotiated, config_->limits),
      answers_(this, config_.get()),
      watched_(config_->liveness == nullptr) {
  if (config_->liveness == nullptr) return;
  const Keepalive& keepalive = config_->liveness->keepalive();
  const bool may_be_half_open =
      keepalive.enabled() && (keepalive.on_this_machine || connection_->info().transport == "tcp");
  looks_.may_be_half_open = may_be_half_open ? 1 : 0;
  watched_ = !may_be_half_open && !config_->liveness->closes_idle();
}

void Session::BeWatched() {
  if (!watched_.exchange(true, std::memory_order_relaxed)) {
    config_->liveness->Add(weak_from_this());
  }
}

bool Session::StopWatching() {
  // Whoever has a call in flight before the calls are looked at here is seen; whoever has it later
  // took their lock after us, and sees that nobody watches.
  watched_.store(false, std::memory_order_relaxed);
  return !has_calls() || watched_.exchange(true, std::memory_order_relaxed);
}

void Session::GiveUpPeer(const Keepalive& keepalive) {
  connection_->Close(absl::UnavailableError(
      absl::StrCat(connection_->info().peer, " has sent nothing for keepalive.interval, ",
                   absl::FormatDuration(keepalive.interval), ", and has not answered a ping for ",
                   "keepalive.timeout, ", absl::FormatDuration(keepalive.timeout))));
}

void Session::EndIdle(bool asked) {
  if (config_->dispatcher == nullptr) {
    // A call that is made at this moment either comes before, or is made on another connection.
    if (calls_.StopSendingIfIdle()) connection_->Close(absl::OkStatus());
    return;
  }
  // The server goes on answering: what crosses this on its way is an ordinary call.
  if (!asked) return SendControl(FrameType::kGoAway, 0);
  connection_->Close(absl::OkStatus());
}

void Session::Drain() {
  // Refusing begins before the peer is told, so every call that came later is answered "refused".
  const bool drained = answers_.Drain();
  SendControl(FrameType::kGoAway, 0);
  // Not together with it. A call that is being answered inline at this moment is in no table, and
  // its return, once it was sent, may be held back and come after what another thread sends.
  answers_.names_due.store(true, std::memory_order_release);
  connection_->RequestWritable();
  if (drained) OnAnswersDone(/*draining=*/true);
}

void Session::OnMessage(transport::IncomingMessage&& message) {
  heard_.store(true, std::memory_order_relaxed);
  switch (message.header().type) {
    case FrameType::kCall:
      answering_.store(Answering::kInline, std::memory_order_relaxed);
      answers_.OnCall(std::move(message));
      answering_.store(Answering::kNothing, std::memory_order_relaxed);
      return;
    case FrameType::kReturn:
      if (absl::Status valid = calls_.OnReturn(std::move(message)); !valid.ok()) [[unlikely]] {
        connection_->Close(std::move(valid));
      }
      CloseIfGoneAway();
      return;
    default:
      OnOtherMessage(std::move(message));
  }
}

void Session::OnOtherMessage(transport::IncomingMessage&& message) {
  const FrameHeader& header = message.header();
  switch (header.type) {
    case FrameType::kCancel:
      answers_.OnCancel(header.call_id);
      return;
    case FrameType::kPing:
      answers_.OnStray();
      // What is queued already is sign of life enough, and one who reads nothing gets no more of
      // it.
      if (connection_->HasRoom()) SendControl(FrameType::kPong, header.call_id);
      return;
    case FrameType::kPong:
      answers_.OnStray();
      return;
    case FrameType::kGoAway:
      return OnGoAway(AcceptedIn(message, config_->limits));
    case FrameType::kStreamMessage:
    case FrameType::kStreamEnd:
    case FrameType::kCredit:
      if (!streams_.supported()) break;
      return OnStreamFrame(std::move(message));
    case FrameType::kCall:
    case FrameType::kReturn:
    case FrameType::kHello:
    case FrameType::kClose:
      break;
  }
  connection_->Close(absl::InvalidArgumentError(
      absl::StrCat("message of type ", static_cast<int>(header.type), " after the handshake")));
}

void Session::OnGoAway(const std::optional<std::vector<uint32_t>>& accepted) {
  if (gone_away_) answers_.OnStray();
  if (accepted) calls_.OnAcceptedNamed(*accepted);
  calls_.StopSending();
  gone_away_ = true;
  if (std::shared_ptr<Observer> observer = observer_.lock()) observer->OnGoAway(*this);
  CloseIfGoneAway();
}

void Session::NameAccepted() {
  answers_.names_due.store(false, std::memory_order_relaxed);
  // Where they do not fit nothing is said.
  transport::OutgoingMessage names = NewGoAway(answers_.Accepted(), config_->limits);
  if (names) connection_->Send(std::move(names)).IgnoreError();
}

void Session::OnStreamFrame(transport::IncomingMessage&& message) {
  const FrameHeader& header = message.header();
  // Credit is for messages that go the other way.
  const auto toward = static_cast<uint16_t>(
      header.type == FrameType::kCredit ? StreamDirection::kToCaller : StreamDirection::kToCallee);
  if (header.code == toward) {
    absl::Status valid = answers_.OnStreamFrame(std::move(message));
    if (!valid.ok()) connection_->Close(std::move(valid));
    return;
  }
  CallSide::Stray stray = CallSide::Stray::kNo;
  absl::Status valid = calls_.OnStreamFrame(std::move(message), stray);
  AfterFrameOfCall(std::move(valid), stray);
}

void Session::AfterFrameOfCall(absl::Status valid, CallSide::Stray stray) {
  if (stray == CallSide::Stray::kOfOpen) answers_.OnStray();
  if (stray == CallSide::Stray::kOfEnded) answers_.OnStrayOfStream();
  if (!valid.ok()) connection_->Close(std::move(valid));
}

void Session::OnRejected(const FrameHeader& header, const absl::Status& why) {
  if (header.type == FrameType::kCall) {
    answers_.OnRejectedCall(header, why);
    return;
  }
  // It names more calls than we read of, which is as if it named none.
  if (header.type == FrameType::kGoAway) return OnGoAway(std::nullopt);
  if (header.type == FrameType::kStreamMessage && streams_.supported()) {
    if (header.code == static_cast<uint16_t>(StreamDirection::kToCallee)) {
      absl::Status valid = answers_.OnRejectedStreamMessage(header, why);
      if (!valid.ok()) connection_->Close(std::move(valid));
    } else {
      CallSide::Stray stray = CallSide::Stray::kNo;
      absl::Status valid = calls_.OnRejectedStreamMessage(header, why, stray);
      AfterFrameOfCall(std::move(valid), stray);
    }
    return;
  }
  absl::Status valid =
      header.type == FrameType::kReturn ? calls_.OnRejectedReturn(header, why) : why;
  if (!valid.ok()) connection_->Close(std::move(valid));
  CloseIfGoneAway();
}

void Session::OnUnsent(const FrameHeader& header, const absl::Status& why) {
  // It is dying: what is repeated goes to the next one.
  if (absl::IsUnavailable(why)) calls_.StopSending();
  if (header.type == FrameType::kCall) calls_.OnUnsent(header, why);
  if (header.type == FrameType::kReturn) answers_.OnUnsent(header, why);
  if (header.type == FrameType::kStreamMessage && !absl::IsUnavailable(why)) {
    // For want of memory, and without it the stream cannot go on.
    if (header.code == static_cast<uint16_t>(StreamDirection::kToCallee)) {
      calls_.OnUnsentStreamMessage(header, why);
    } else {
      answers_.OnUnsentStreamMessage(header, why);
    }
  }
  CloseIfGoneAway();
}

void Session::OnClosed(const absl::Status& why) {
  answers_.OnClosed();
  // Before the calls end, so that a caller that tries again at once gets a new connection.
  if (std::shared_ptr<Observer> observer = observer_.lock()) observer->OnSessionClosed(*this, why);
  calls_.OnClosed(why);
  streams_.OnClosed();
}

void Session::OnAnswersDone(bool draining) {
  CloseIfGoneAway();
  if (!draining) return;
  if (std::shared_ptr<Observer> observer = observer_.lock()) observer->OnDrained(*this);
}

void Session::SendControl(FrameType type, uint32_t call_id) {
  transport::OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = type;
  message->header.call_id = call_id;
  message->has_body = false;
  // Fails only when the connection is closed, and then the message has no meaning.
  connection_->Send(std::move(message)).IgnoreError();
}

void Session::CloseIfGoneAway() {
  if (gone_away_ && calls_.idle() && answers_.in_flight() == 0) connection_->CloseWhenSent();
}

}  // namespace mi7
