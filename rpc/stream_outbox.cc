#include "rpc/stream_outbox.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/stream.h"

namespace mi7 {

StreamOutbox::StreamOutbox(Stream* stream) : Readiness(stream), stream_(stream) {}

void StreamOutbox::Open(uint32_t window) {
  bool close = false;
  Waiter waiter;
  for (bool first = true;; first = false) {
    transport::OutgoingMessage early;
    uint64_t bytes = 0;
    {
      MutexLock lock(&mutex_);
      if (ended_) return;
      if (first) {
        window_ = window;
        credit_ = window;
      }
      if (!early_) {
        open_ = true;
        close = closed_;
        waiter = TakeWaiter();
        break;
      }
      early = std::move(early_);
      bytes = transport::MessageBytes(*early);
      credit_ -= static_cast<int64_t>(bytes);
    }
    SendNow(std::move(early), bytes);
  }
  if (close) stream_->SendEnd();
  waiter.Wake();
}

absl::Status StreamOutbox::OnCredit(uint32_t bytes) {
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::OkStatus();
    credit_ += bytes;
    if (credit_ > int64_t{window_}) {
      return absl::InvalidArgumentError(
          absl::StrCat("credit of ", bytes, " bytes on a stream makes ", credit_,
                       ", more than the streamWindowBytes of the peer's hello, ", window_));
    }
    waiter = TakeWaiter();
  }
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

absl::Status StreamOutbox::Write(transport::OutgoingMessage message) {
  if (!std::exchange(begun_, true)) stream_->PrepareFirst(*message);
  uint64_t bytes;
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::OkStatus();  // and result() says how
    if (closed_) return absl::FailedPreconditionError("Write after Close");
    if (open_ ? !IsReady() : static_cast<bool>(early_)) {
      return absl::FailedPreconditionError("Write before the last one has completed");
    }
    result_ = absl::OkStatus();
    if (!open_) {
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
    MutexLock lock(&mutex_);
    credit_ += static_cast<int64_t>(bytes);
    if (!ended_) result_ = sent;
    return;
  }
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
    if (!open_) return;  // Open tells it
  }
  stream_->SendEnd();
}

}  // namespace mi7
