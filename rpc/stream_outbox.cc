#include "rpc/stream_outbox.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/stream.h"
#include "rpc/stream_interception.h"

namespace mi7 {

StreamOutbox::StreamOutbox(Stream* stream) : Readiness(stream), stream_(stream) {}

void StreamOutbox::Open(uint32_t window) {
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
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
  transport::OutgoingMessage early;
  uint64_t bytes = 0;
  {
    MutexLock lock(&mutex_);
    if (ended_ || stage_ != Stage::kWaitingForRoom) return;
    early = std::move(early_);
    if (early) {
      stage_ = Stage::kOpening;
      bytes = transport::MessageBytes(*early);
      credit_ -= static_cast<int64_t>(bytes);
    } else {
      stage_ = Stage::kOpen;
      close = closed_;
      waiter = TakeWaiter();
    }
  }
  if (early) {
    SendNow(std::move(early), bytes);
    MutexLock lock(&mutex_);
    stage_ = Stage::kOpen;
    close = closed_ && !ended_;
    waiter = TakeWaiter();
  }
  if (close) stream_->SendEnd();
  waiter.Wake();
}

absl::Status StreamOutbox::OnCredit(uint32_t bytes) {
  Waiter waiter;
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
  }
  waiter.Wake();
  return absl::OkStatus();
}

void StreamOutbox::OnRoom() {
  Begin();
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    waits_for_room_ = false;
    waiter = TakeWaiter();
  }
  waiter.Wake();
}

void StreamOutbox::End(const absl::Status& status) {
  Waiter waiter;
  transport::OutgoingMessage early;
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    result_ = status;
    early = std::move(early_);
    waiter = TakeWaiter();
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
  const bool may_write = stage_ == Stage::kOpen ? IsReady() : !early_ && stage_ != Stage::kOpening;
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
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::OkStatus();  // and result() says how
    if (absl::Status refusal = Refusal(); !refusal.ok()) return refusal;
    result_ = absl::OkStatus();
    if (stage_ != Stage::kOpen) {
      early_ = std::move(message);
      return absl::OkStatus();
    }
    // Before it is sent: the peer may answer with credit at once.
    bytes = transport::MessageBytes(*message);
    credit_ -= static_cast<int64_t>(bytes);
  }
  SendNow(std::move(message), bytes);
  return absl::OkStatus();
}

void StreamOutbox::SendNow(transport::OutgoingMessage message, uint64_t bytes) {
  const absl::Status sent = stream_->SendMessage(std::move(message));
  if (!sent.ok()) {
    // Of a connection that is closed the end tells, with the call's outcome.
    const bool lost = absl::IsUnavailable(sent);
    if (!lost && !sent_any_.load(std::memory_order_relaxed)) stream_->FirstWasNotSent();
    MutexLock lock(&mutex_);
    credit_ += static_cast<int64_t>(bytes);
    lost_ |= lost;
    if (!ended_ && !lost) result_ = sent;
    return;
  }
  sent_any_.store(true, std::memory_order_relaxed);
  if (stream_->HasRoom()) [[likely]]
    return;
  {
    MutexLock lock(&mutex_);
    waits_for_room_ = true;
  }
  // OnRoom may have come before that.
  if (!stream_->HasRoom()) return;
  MutexLock lock(&mutex_);
  waits_for_room_ = false;
}

absl::Status StreamOutbox::result() const {
  MutexLock lock(&mutex_);
  return result_;
}

void StreamOutbox::Close() {
  {
    MutexLock lock(&mutex_);
    if (closed_ || ended_) return;
    closed_ = true;
    if (stage_ != Stage::kOpen) return;  // Begin tells it
  }
  stream_->SendEnd();
}

}  // namespace mi7
