#include "transport/stream/writer.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/thread_kept.h"
#include "transport/message_queue.h"
#include "transport/stream/write_pieces.h"
#include "transport/system_calls.h"

namespace mi7::transport {
namespace {

// A PieceList is handed to the system as it is.
static_assert(sizeof(ByteSpan) == sizeof(iovec));
static_assert(offsetof(ByteSpan, data) == offsetof(iovec, iov_base));
static_assert(offsetof(ByteSpan, size) == offsetof(iovec, iov_len));

constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;

// Scratch space: the calling thread's, kept warm; one of its own when the thread ends.
class ScratchPieces {
 public:
  WritePieces* operator->() { return kept_ != nullptr ? kept_ : &own_.emplace(); }

 private:
  WritePieces* const kept_ = ThreadKept<WritePieces>::Get();
  std::optional<WritePieces> own_;
};

void RecycleAll(MessageBody* first) {
  while (first != nullptr) std::exchange(first, first->next)->Recycle();
}

}  // namespace

Writer::~Writer() { RecycleAll(first_); }

Writer::Added Writer::Add(OutgoingMessage& message, bool hold_back, uint64_t queue_max) {
  MutexLock lock(&mutex_);
  if (closed_) return Added::kClosed;
  if (first_ == nullptr && !writing_ && !hold_back) {
    writing_ = true;
    return Added::kWrite;
  }
  const Queued before = Count(std::memory_order_relaxed);
  const Queued after = before.With(message->header.size, 1);
  if (before.messages != 0 && after.weight() > queue_max) return Added::kFull;
  SetCount(after);
  MessageBody* const body = message.release();
  body->next = nullptr;
  (last_ == nullptr ? first_ : last_->next) = body;
  last_ = body;
  // Nobody writes although messages are queued: they are held back by a callback that still runs.
  const bool idle = !hold_back && !writing_ && !blocked_.load(std::memory_order_relaxed);
  return idle ? Added::kFlush : Added::kQueued;
}

Writer::Result Writer::Write(int fd, OutgoingMessage message) {
  MessageBody* const body = message.release();
  body->next = nullptr;
  return WriteAll(fd, Batch{body, body, 0});
}

Writer::Result Writer::WriteChain(int fd, MessageBody* first, MessageBody* last,
                                  const Queued& count) {
  Batch batch{first, last, 0};
  {
    MutexLock lock(&mutex_);
    MI7_CHECK(!closed_, "what callbacks sent is written before the connection ends");
    if (first_ != nullptr || writing_) {
      (last_ == nullptr ? first_ : last_->next) = first;
      last_ = last;
      SetCount(Count(std::memory_order_relaxed).With(count.bytes, count.messages));
      if (writing_ || blocked_.load(std::memory_order_relaxed)) return {};
      batch = TakeBatch();
    }
    writing_ = true;
  }
  return WriteAll(fd, batch);
}

Writer::Result Writer::Flush(int fd) {
  Batch batch;
  {
    MutexLock lock(&mutex_);
    if (writing_ || first_ == nullptr || blocked_.load(std::memory_order_relaxed)) return {};
    writing_ = true;
    batch = TakeBatch();
  }
  return WriteAll(fd, batch);
}

Writer::Result Writer::Resume(int fd) {
  {
    MutexLock lock(&mutex_);
    blocked_.store(false, std::memory_order_seq_cst);
  }
  return Flush(fd);
}

Writer::Batch Writer::TakeBatch() {
  Batch batch{first_, first_, written_};
  Queued left = Count(std::memory_order_relaxed);
  left.bytes += written_;
  for (int count = 1;; ++count) {
    left.bytes -= batch.last->header.size;
    --left.messages;
    if (count == kMessagesMax || batch.last->next == nullptr) break;
    batch.last = batch.last->next;
  }
  first_ = std::exchange(batch.last->next, nullptr);
  if (first_ == nullptr) last_ = nullptr;
  SetCount(left);
  written_ = 0;
  return batch;
}

Writer::Result Writer::WriteAll(int fd, Batch batch) {
  Result result;
  for (;;) {
    const int error = WriteBatch(fd, batch, result);
    MutexLock lock(&mutex_);
    if (error != 0) {
      // What is left goes back to the front.
      Queued queued = Count(std::memory_order_relaxed);
      for (MessageBody* body = batch.first; body != nullptr; body = body->next) {
        queued = queued.With(body->header.size, 1);
      }
      queued.bytes -= batch.written;
      batch.last->next = first_;
      if (first_ == nullptr) last_ = batch.last;
      first_ = batch.first;
      written_ = batch.written;
      SetCount(queued);
      writing_ = false;
      // On failure too: nobody else is to try.
      blocked_.store(true, std::memory_order_seq_cst);
      result.outcome = error == EAGAIN ? Result::kBlocked : Result::kFailed;
      result.error = error;
      return result;
    }
    if (first_ == nullptr) {
      writing_ = false;
      return result;
    }
    batch = TakeBatch();
  }
}

int Writer::WriteBatch(int fd, Batch& batch, Result& result) {
  ScratchPieces scratch;
  PieceList& pieces = scratch->List(batch.first);
  // Skip what is out already.
  size_t next = 0;
  for (size_t skip = batch.written; skip != 0;) {
    ByteSpan& piece = pieces[next];
    const size_t part = std::min(skip, piece.size);
    piece.data += part;
    piece.size -= part;
    skip -= part;
    if (piece.size == 0) ++next;
  }
  size_t out = 0;
  int error = 0;
  while (next < pieces.size()) {
    ssize_t written;
    if (pieces.size() - next == 1) {
      written = sys::Send(fd, pieces[next].data, pieces[next].size, kFlags);
    } else {
      msghdr header{};
      header.msg_iov = reinterpret_cast<iovec*>(pieces.data() + next);
      header.msg_iovlen = std::min<size_t>(pieces.size() - next, IOV_MAX);
      written = sys::SendMsg(fd, &header, kFlags);
    }
    if (written < 0) {
      if (errno == EINTR) continue;
      error = errno == EWOULDBLOCK ? EAGAIN : errno;
      break;
    }
    out += static_cast<size_t>(written);
    result.wrote = true;
    for (size_t skip = static_cast<size_t>(written); skip != 0;) {
      ByteSpan& piece = pieces[next];
      const size_t part = std::min(skip, piece.size);
      piece.data += part;
      piece.size -= part;
      skip -= part;
      if (piece.size == 0) ++next;
    }
  }
  // Recycle what is out. Its memory is not looked at afterwards.
  batch.written += out;
  while (batch.first != nullptr && batch.written >= batch.first->header.size) {
    MessageBody* const body = batch.first;
    batch.written -= body->header.size;
    batch.first = body->next;
    body->Recycle();
  }
  return error;
}

bool Writer::Withdraw(uint32_t call_id) {
  MutexLock lock(&mutex_);
  const OutgoingMessage message =
      TakeCall(first_, last_, written_ != 0 ? first_ : nullptr, call_id);
  if (!message) return false;
  const Queued before = Count(std::memory_order_relaxed);
  SetCount({before.bytes - message->header.size, before.messages - 1});
  return true;
}

bool Writer::Close(MessageBody*& unsent) {
  MutexLock lock(&mutex_);
  closed_ = true;
  if (writing_) return false;
  unsent = std::exchange(first_, nullptr);
  last_ = nullptr;
  SetCount({});
  if (unsent != nullptr && std::exchange(written_, 0) != 0) {
    std::exchange(unsent, unsent->next)->Recycle();
  }
  return true;
}

}  // namespace mi7::transport
