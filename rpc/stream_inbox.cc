#include "rpc/stream_inbox.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/stream.h"

namespace mi7 {

StreamInbox::StreamInbox(Stream* stream, uint32_t window)
    : Readiness(stream), stream_(stream), window_(window), granted_(window) {}

absl::Status StreamInbox::OnMessage(transport::IncomingMessage&& message, bool is_first) {
  const uint32_t bytes = message.header().size;
  Waiter waiter;
  uint32_t credit = 0;
  bool too_much = false;
  {
    MutexLock lock(&mutex_);
    if (absl::Status valid = Charge(bytes); !valid.ok()) return valid;
    if (cleared_) return absl::OkStatus();
    if (message.has_body() && !stream_->Keep(bytes)) {
      too_much = true;
    } else if (message.has_body()) {
      kept_bytes_ += bytes;
      ReceivedMessage* const received =
          ObjectPool<ReceivedMessage>::New(std::move(message), is_first);
      (first_ == nullptr ? first_ : last_->next) = received;
      last_ = received;
      waiter = TakeWaiter();
      if (!waiter) received->Keep();
    } else {
      credit = Give(bytes);
    }
  }
  if (too_much) [[unlikely]]
    stream_->FailTooMuchKept();
  if (credit != 0) stream_->SendCredit(credit);
  waiter.Wake();
  return absl::OkStatus();
}

absl::Status StreamInbox::Charge(uint32_t bytes) {
  if (half_closed_) return absl::InvalidArgumentError("stream message after the stream's end");
  if (granted_ <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stream message of ", bytes, " bytes without credit; streamWindowBytes is ", window_));
  }
  granted_ -= static_cast<int64_t>(bytes);
  return absl::OkStatus();
}

uint32_t StreamInbox::MessagesMost() const {
  MutexLock lock(&mutex_);
  return half_closed_ || granted_ <= 0 ? 0 : MessagesIn(static_cast<uint64_t>(granted_));
}

absl::Status StreamInbox::OnHalfClose() {
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    if (half_closed_) return absl::InvalidArgumentError("second end of a stream");
    half_closed_ = closed_ = true;
    waiter = TakeWaiter();
  }
  waiter.Wake();
  return absl::OkStatus();
}

void StreamInbox::End(const absl::Status& status) {
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    waiter = EndLocked(status);
  }
  waiter.Wake();
}

void StreamInbox::Clear(const absl::Status& status) {
  ReceivedMessage* dropped;
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    cleared_ = true;
    dropped = std::exchange(first_, nullptr);
    if (kept_bytes_ != 0) stream_->LetGo(std::exchange(kept_bytes_, 0));
    waiter = EndLocked(status);
  }
  Drop(dropped);
  waiter.Wake();
}

StreamInbox::Waiter StreamInbox::EndLocked(const absl::Status& status) {
  closed_ = true;
  if (end_.ok()) end_ = status;
  return TakeWaiter();
}

void StreamInbox::OnRoom() {
  uint32_t credit;
  {
    MutexLock lock(&mutex_);
    credit = Give(0);
  }
  if (credit != 0) stream_->SendCredit(credit);
}

StreamInbox::Taken StreamInbox::Take(ReceivedMessageRef& message) {
  uint32_t credit;
  {
    MutexLock lock(&mutex_);
    if (first_ == nullptr) return closed_ ? Taken::kEnd : Taken::kNothing;
    ReceivedMessage* const taken = first_;
    first_ = taken->next;
    const uint32_t bytes = taken->message.header().size;
    kept_bytes_ -= bytes;
    stream_->LetGo(bytes);
    credit = Give(bytes);
    message = ReceivedMessageRef(taken);
  }
  if (credit != 0) stream_->SendCredit(credit);
  return Taken::kMessage;
}

uint32_t StreamInbox::Give(uint64_t bytes) {
  taken_bytes_ += bytes;
  if (closed_ || taken_bytes_ == 0 || taken_bytes_ < window_ / 2 || !stream_->HasRoom()) return 0;
  // What does not fit the frame's field is granted with the next message.
  const uint64_t credit = std::min<uint64_t>(taken_bytes_, std::numeric_limits<uint32_t>::max());
  taken_bytes_ -= credit;
  granted_ += static_cast<int64_t>(credit);
  return static_cast<uint32_t>(credit);
}

void StreamInbox::Drop(ReceivedMessage* first) {
  while (first != nullptr) {
    ObjectPool<ReceivedMessage>::Delete(std::exchange(first, first->next));
  }
}

}  // namespace mi7
