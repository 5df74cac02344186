#include "rpc/stream_outbox.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/stream.h"
#include "rpc/stream_interception.h"

namespace mi7 {

StreamOutbox::StreamOutbox(Stream* stream) : Readiness(stream), stream_(stream) {}

void StreamOutbox::KeepWritten() {
  MutexLock lock(&mutex_);
  keeps_ = true;
}

void StreamOutbox::Keep(transport::OutgoingMessage& message) {
  if (!keeps_) return;
  if (written_ == nullptr) written_ = MakePooled<WrittenMessages>();
  written_->Add(message);
}

void StreamOutbox::DropWritten() {
  MutexLock lock(&mutex_);
  keeps_ = false;
  if (written_ == nullptr) return;
  written_->DropSent();
  if (!written_->has_unsent()) written_.reset();
}

bool StreamOutbox::Restart() {
  MutexLock lock(&mutex_);
  may_write_ |= stage_ == Stage::kOpen && IsReady();
  ++attempt_;
  stage_ = Stage::kUnconnected;
  window_ = 0;
  credit_ = 0;
  waits_for_room_ = lost_ = sends_early_ = false;
  if (!keeps_) return !sent_any_.load(std::memory_order_relaxed);
  return written_ == nullptr || written_->Rewind();
}

void StreamOutbox::Open(uint32_t window, uint32_t attempt) {
  {
    MutexLock lock(&mutex_);
    if (ended_ || attempt != attempt_) return;
    window_ = window;
    credit_ = window;
    stage_ = Stage::kWaitingForRoom;
  }
  // Where there is none OnRoom comes, perhaps before this returns.
  if (stream_->HasRoom()) Begin();
}

void StreamOutbox::Begin() {
  bool close = false;
  Waiter waiter;
  uint32_t attempt = 0;
  for (bool first = true;; first = false) {
    transport::OutgoingMessage message;
    bool again = false;
    uint64_t bytes = 0;
    {
      MutexLock lock(&mutex_);
      if (first) {
        if (ended_ || stage_ != Stage::kWaitingForRoom) return;
        attempt = attempt_;
      } else if (attempt != attempt_) {
        return;
      }
      sends_early_ = false;
      if (ended_ || !MessageWaits()) {
        stage_ = Stage::kOpen;
        close = closed_ && !ended_;
        waiter = TakeWaiter();
        break;
      }
      // OnCredit goes on, or OnRoom.
      if (credit_ <= 0 || (!first && !stream_->HasRoom())) {
        stage_ = Stage::kWaitingForRoom;
        return;
      }
      stage_ = Stage::kOpening;
      message = TakeMessage(again);
      bytes = transport::MessageBytes(*message);
      credit_ -= static_cast<int64_t>(bytes);
    }
    SendNow(std::move(message), bytes, attempt, again);
  }
  if (close) stream_->SendEnd(attempt);
  waiter.Wake();
}

transport::OutgoingMessage StreamOutbox::TakeMessage(bool& again) {
  again = written_ != nullptr && written_->has_unsent();
  if (again) {
    transport::OutgoingMessage message = written_->Next(keeps_);
    if (!keeps_ && !written_->has_unsent()) written_.reset();
    return message;
  }
  sends_early_ = true;
  transport::OutgoingMessage message = std::move(early_);
  // It may have been begun in the memory of the connection before this one.
  if (attempt_ != 0) transport::EnsureHeapMessage(message);
  Keep(message);
  return message;
}

absl::Status StreamOutbox::OnCredit(uint32_t bytes) {
  Waiter waiter;
  bool goes_on = false;
  {
    MutexLock lock(&mutex_);
    // Also when the half has ended: what is granted then is what the peer had not yet granted.
    credit_ += bytes;
    if (credit_ > int64_t{window_}) {
      return absl::InvalidArgumentError(
          absl::StrCat("credit of ", bytes, " bytes on a stream makes ", credit_,
                       ", more than the streamWindowBytes of the peer's hello, ", window_));
    }
    if (!ended_) waiter = TakeWaiter();
    goes_on = stage_ == Stage::kWaitingForRoom && credit_ > 0;
  }
  if (goes_on && stream_->HasRoom()) Begin();
  waiter.Wake();
  return absl::OkStatus();
}

void StreamOutbox::OnRoom() {
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    waits_for_room_ = false;
    waiter = TakeWaiter();
  }
  // After that: a Write in between has found room, or left its message for this.
  Begin();
  waiter.Wake();
}

void StreamOutbox::End(const absl::Status& status) {
  Waiter waiter;
  transport::OutgoingMessage early;
  PooledPtr<WrittenMessages> written;
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    keeps_ = false;
    result_ = status;
    early = std::move(early_);
    waiter = TakeWaiter();
    written = std::move(written_);
  }
  waiter.Wake();
}

absl::Status StreamOutbox::Intercept(const Interceptors& interceptors,
                                     transport::OutgoingMessage& message) {
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::OkStatus();  // it is not sent
  }
  return InterceptOutgoing(interceptors, *stream_, message);
}

absl::Status StreamOutbox::Refusal() const {
  if (closed_) return absl::FailedPreconditionError("Write after Close");
  const bool may_write =
      may_write_ || (stage_ == Stage::kOpen ? IsReady() : !early_ && !sends_early_);
  if (may_write) return absl::OkStatus();
  return absl::FailedPreconditionError("Write before the last one has completed");
}

absl::Status StreamOutbox::Write(transport::OutgoingMessage message) {
  if (const Interceptors* const interceptors = stream_->interceptors()) [[unlikely]] {
    if (absl::Status status = Intercept(*interceptors, message); !status.ok()) return status;
  }
  if (!sent_any_.load(std::memory_order_relaxed)) {
    {
      MutexLock lock(&mutex_);
      if (ended_) return absl::OkStatus();  // and result() says how
      if (absl::Status refusal = Refusal(); !refusal.ok()) return refusal;
    }
    stream_->PrepareFirst(*message);
  }
  uint64_t bytes;
  uint32_t attempt;
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::OkStatus();  // and result() says how
    if (absl::Status refusal = Refusal(); !refusal.ok()) return refusal;
    result_ = absl::OkStatus();
    if (stage_ == Stage::kOpen && !IsReady()) [[unlikely]] {
      // It was, on a connection that is gone.
      stage_ = Stage::kWaitingForRoom;
    }
    may_write_ = false;
    if (stage_ != Stage::kOpen) {
      early_ = std::move(message);
      return absl::OkStatus();
    }
    // Before it is sent: the peer may answer with credit at once.
    bytes = transport::MessageBytes(*message);
    credit_ -= static_cast<int64_t>(bytes);
    attempt = attempt_;
    Keep(message);
  }
  SendNow(std::move(message), bytes, attempt, /*again=*/false);
  return absl::OkStatus();
}

void StreamOutbox::SendNow(transport::OutgoingMessage message, uint64_t bytes, uint32_t attempt,
                           bool again) {
  const absl::Status sent = stream_->SendMessage(std::move(message), attempt);
  if (!sent.ok()) {
    // Of a connection that is closed the end tells, with the call's outcome.
    const bool lost = absl::IsUnavailable(sent);
    if (!lost && !sent_any_.load(std::memory_order_relaxed)) stream_->FirstWasNotSent();
    {
      MutexLock lock(&mutex_);
      if (attempt != attempt_) return;  // the next one will see
      credit_ += static_cast<int64_t>(bytes);
      lost_ |= lost;
      if (lost || ended_) return;
      if (!again) {
        result_ = sent;
        if (keeps_) written_->DropLast();
        return;
      }
    }
    return stream_->FailAgain(sent);
  }
  sent_any_.store(true, std::memory_order_relaxed);
  if (stream_->HasRoom()) [[likely]]
    return;
  {
    MutexLock lock(&mutex_);
    if (attempt != attempt_) return;  // nobody would tell of room
    waits_for_room_ = true;
  }
  // OnRoom may have come before that.
  if (!stream_->HasRoom()) return;
  MutexLock lock(&mutex_);
  if (attempt == attempt_) waits_for_room_ = false;
}

absl::Status StreamOutbox::result() const {
  MutexLock lock(&mutex_);
  return result_;
}

void StreamOutbox::Close() {
  uint32_t attempt;
  {
    MutexLock lock(&mutex_);
    if (closed_ || ended_) return;
    closed_ = true;
    if (stage_ != Stage::kOpen) return;  // Begin tells it
    attempt = attempt_;
  }
  stream_->SendEnd(attempt);
}

}  // namespace mi7
