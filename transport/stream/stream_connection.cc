#include "transport/stream/stream_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "transport/handshake.h"
#include "transport/message_queue.h"
#include "transport/stream/dispatch_scope.h"
#include "transport/stream/socket.h"

namespace mi7::transport {
namespace {

// While a burst is dispatched, answers are written when there are so many of them, so that the peer
// works on them meanwhile.
constexpr uint32_t kCorkedMessagesMax = 64;
constexpr uint64_t kCorkedBytesMax = 32u << 10;
// A message that may wait for others does when it is no larger, and comes within so many
// nanoseconds after the last such one was written: less than a write takes, so that one who pauses
// for longer loses nothing by each of them being written at once.
constexpr uint32_t kGatheredMessageBytesMax = 4u << 10;
constexpr uint32_t kRightAfterNanos = 2'000;
// What has gathered for so long is written by whoever comes next, for the loop may be busy.
constexpr uint32_t kGatheredNanosMax = 50'000;

}  // namespace

StreamConnection::StreamConnection(Made made)
    : context_(std::move(made.context)),
      loop_(made.loop),
      socket_(std::move(made.socket)),
      ends_(context_->kind->EndsOf(socket_.get(), made.accepted)),
      negotiated_(made.negotiated),
      accepted_(made.accepted),
      assembler_(std::move(made.assembler)),
      watch_(made.loop, socket_.get(), this) {
  assembler_.set_limits(&context_->limits);
  ConfigureConnected(socket_.get(), /*bounded_reads=*/true);
}

std::shared_ptr<Connection> StreamConnection::Create(Made made) {
  auto connection = std::make_shared<StreamConnection>(std::move(made));
  Connection* const raw = connection.get();
  // The deleter holds what it is called for.
  return std::shared_ptr<Connection>(raw, [connection = std::move(connection)](Connection*) {
    connection->Close(absl::OkStatus());
  });
}

void StreamConnection::Start(std::shared_ptr<Receiver> receiver) {
  MI7_CHECK(!closing() && token_.TryTake(), "a connection is started first of all");
  MI7_CHECK(receiver_ == nullptr && receiver != nullptr, "a connection is started once");
  receiver_ = std::move(receiver);
  self_ = shared_from_this();
  const bool more_at_hand = assembler_.buffered_bytes() != 0;
  if (token_.Release()) CallLoop();
  if (absl::Status started = watch_.Start(); !started.ok()) {
    BeginClose(std::move(started), /*tell=*/true);
    return;
  }
  if (more_at_hand) {
    CallLoop();  // what came with the handshake is read like anything else, and the watch begun
  } else {
    watch_.WatchReads(true);
  }
}

ConnectionInfo StreamConnection::info() const {
  return {.transport = std::string(context_->kind->name()),
          .peer = peer(),
          .local = context_->kind->LocalText(ends_, accepted_),
          .negotiated = negotiated_};
}

bool StreamConnection::InCallback() const { return DispatchScope::Of(this) != nullptr; }

absl::Status StreamConnection::ClosedError() const {
  MutexLock lock(&close_mutex_);
  return absl::UnavailableError(
      absl::StrCat("connection to ", peer(), " is closed",
                   close_status_.ok() ? "" : absl::StrCat(": ", close_status_.message())));
}

absl::Status StreamConnection::ForkedError() const {
  // Not the peer's address: the descriptor that knows it is the parent's.
  return ForkGuard::Refusal(absl::StrCat("connection over ", context_->kind->name()));
}

Limits StreamConnection::send_limits() const {
  Limits limits = context_->limits;
  limits.message_bytes_max = std::min(limits.message_bytes_max, negotiated_.message_bytes_max);
  return limits;
}

absl::StatusOr<OutgoingMessage> StreamConnection::Reserve(size_t bytes) {
  if (forked()) [[unlikely]]
    return ForkedError();
  if (closing()) [[unlikely]]
    return ClosedError();
  const uint64_t queue_max = context_->limits.queued_bytes_max;
  if (!accepted_ && writer_.Full(queue_max)) [[unlikely]] {
    writer_.WantRoom();
    // The queue may have drained before that was seen.
    if (writer_.TakeRoom(context_->limits)) return NewHeapMessage(bytes);
    return QueueFullError(absl::StrCat("limits.queued_bytes_max, ", queue_max,
                                       " bytes, wait to be sent to ", peer(),
                                       ", which does not read; try again later"));
  }
  return NewHeapMessage(bytes);
}

absl::Status StreamConnection::QueueFull(uint32_t message_bytes) {
  if (accepted_) return AnswersUnread(context_->limits, message_bytes, writer_.queued().weight());
  const uint64_t queue_max = context_->limits.queued_bytes_max;
  writer_.WantRoom();
  // Should there be room before that was seen, the loop tells at once.
  if (writer_.queued().IsLow(context_->limits)) CallLoop();
  return QueueFullError(absl::StrCat("message of ", message_bytes,
                                     " bytes does not fit limits.queued_bytes_max, ", queue_max,
                                     " bytes, of which ", writer_.queued().weight(),
                                     " wait to be sent to ", peer(), "; try again later"));
}

bool StreamConnection::HasRoom() {
  const Limits& limits = context_->limits;
  if (writer_.queued().HasRoom(limits)) [[likely]]
    return true;
  writer_.WantRoom();
  // Whoever drains the queue sees that, or we see that it has drained.
  return writer_.queued().HasRoom(limits);
}

void StreamConnection::RequestWritable() {
  if (forked()) return;
  writer_.WantRoom();
  const Use use(users_);
  if (!closing()) CallLoop();
}

absl::Status StreamConnection::Send(OutgoingMessage&& message) {
  OutgoingMessage taken = std::move(message);
  if (forked()) [[unlikely]]
    return ForkedError();
  DispatchScope* const scope = DispatchScope::Of(this);
  // A callback's thread has the token, without which the connection does not end.
  std::optional<Use> use;
  if (scope == nullptr) use.emplace(users_);
  if (closing()) [[unlikely]]
    return ClosedError();
  // It may have been begun in shared memory, before the channel lost that and came here.
  EnsureHeapMessage(taken);
  const Limits& own = context_->limits;
  absl::Status sealed = negotiated_.message_bytes_max >= own.message_bytes_max
                            ? SealMessage(*taken, own)
                            : SealMessage(*taken, send_limits());
  if (!sealed.ok()) [[unlikely]]
    return sealed;
  if (scope != nullptr) return Cork(*scope, std::move(taken));
  const uint64_t bound = QueueBound(own, accepted_, taken->header);
  const bool may_gather = taken->may_gather;
  const bool gathers = may_gather && Gathers(taken->header);
  switch (writer_.Add(taken, /*hold_back=*/gathers, bound)) {
    case Writer::Added::kQueued:
      if (gathers) NoteGathered();
      return absl::OkStatus();
    case Writer::Added::kWrite:
      AfterWrite(writer_.Write(socket_.get(), std::move(taken)));
      break;
    case Writer::Added::kFlush:
      AfterWrite(writer_.Flush(socket_.get()));
      break;
    case Writer::Added::kFull:
      return QueueFull(taken->header.size);
    case Writer::Added::kClosed:
      return ClosedError();
  }
  if (may_gather) NoteSeriesWritten();
  return absl::OkStatus();
}

bool StreamConnection::Gathers(const FrameHeader& header) const {
  if (header.size > kGatheredMessageBytesMax) return false;
  const uint32_t since_ns =
      static_cast<uint32_t>(MonotonicNanos()) - series_written_ns_.load(std::memory_order_relaxed);
  // Relaxed: at worst one is written by itself.
  return since_ns <
         (gathers_.load(std::memory_order_relaxed) ? kGatheredNanosMax : kRightAfterNanos);
}

void StreamConnection::NoteGathered() {
  if (gathers_.exchange(true, std::memory_order_seq_cst)) return;  // G2
  loop_->Post([self = shared_from_this()] {
    self->gathers_.store(false, std::memory_order_seq_cst);  // F1
    self->WriteGathered();                                   // F2
  });
}

void StreamConnection::WriteGathered() {
  const Use use(users_);
  if (closing()) return;  // which has written it
  AfterWrite(writer_.Flush(socket_.get()));
  NoteSeriesWritten();
}

bool StreamConnection::Withdraw(uint32_t call_id) {
  if (forked() || writer_.queued().messages == 0 || !writer_.Withdraw(call_id)) return false;
  const Use use(users_);
  // The socket tells nobody of the room that this made.
  if (!closing() && writer_.room_wanted()) CallLoop();
  return true;
}

absl::Status StreamConnection::Cork(DispatchScope& scope, OutgoingMessage message) {
  const Queued waiting = writer_.queued().With(scope.count().bytes, scope.count().messages);
  if (waiting.messages != 0 && waiting.With(message->header.size, 1).weight() >
                                   QueueBound(context_->limits, accepted_, message->header))
      [[unlikely]] {
    return QueueFull(message->header.size);
  }
  const bool spares_work = message->header.type == FrameType::kCancel;
  scope.Push(std::move(message));
  // A cancellation does not wait for what else the callback does, nor does anything for one of an
  // outer scope, which waits for another connection, for as long as it takes.
  if (scope.count().messages >= kCorkedMessagesMax || scope.count().bytes >= kCorkedBytesMax ||
      spares_work || &scope != CallbackScope::innermost()) {
    Uncork(scope);
  }
  return absl::OkStatus();
}

void StreamConnection::Uncork(DispatchScope& scope) {
  AfterWrite(scope.WriteTo(writer_, socket_.get()));
}

void StreamConnection::AfterWrite(const Writer::Result& result) {
  if (result.outcome == Writer::Result::kDone && !result.wrote) return;
  if (result.wrote) writes_.fetch_add(1, std::memory_order_relaxed);
  switch (result.outcome) {
    case Writer::Result::kDone:
      break;
    case Writer::Result::kBlocked:
      watch_.WatchWrites(writer_.blocked_flag());
      // Once a stall timeout at most: CheckStall keeps itself going while there is need.
      if (!stall_watched_.exchange(true, std::memory_order_seq_cst)) {
        loop_->Post([self = shared_from_this()] { self->CheckStall(); });
      }
      break;
    case Writer::Result::kFailed:
      // What the peer said before it went away is worth more than our error: the loop reads to
      // the end, and the end of the stream closes.
      write_error_.store(result.error, std::memory_order_seq_cst);
      CallLoop();
      return;
  }
  if (closes_when_sent_.load(std::memory_order_seq_cst)) [[unlikely]]
    return CloseIfSent();
  const bool paused = paused_.load(std::memory_order_seq_cst);
  const bool room_wanted = writer_.room_wanted();
  if (!paused && !room_wanted) [[likely]]
    return;
  const Queued queued = writer_.queued();
  const Limits& limits = context_->limits;
  if ((paused && queued.IsHalf(limits)) || (room_wanted && queued.IsLow(limits))) CallLoop();
}

void StreamConnection::CheckStall() {
  // S1 and S2: a sender that finds the flag set after S1 relies on the check at S2, one that finds
  // it cleared posts a new CheckStall.
  if (closing() || !writer_.blocked()) {
    stall_look_.reset();
    stall_watched_.store(false, std::memory_order_seq_cst);  // S1
    if (closing() || !writer_.blocked()) return;             // S2
    if (stall_watched_.exchange(true, std::memory_order_seq_cst)) return;
  }
  const Limits& limits = context_->limits;
  const uint32_t writes = writes_.load(std::memory_order_relaxed);
  if (stall_look_ == nullptr) {
    stall_look_ = std::make_unique<Look>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckStall();
    });
  } else if (writes == stall_look_->seen) {
    BeginClose(absl::UnavailableError(
                   absl::StrCat(peer(), " has not read for limits.write_stall_timeout, ",
                                absl::FormatDuration(limits.write_stall_timeout), ", while ",
                                writer_.queued().bytes, " bytes wait to be sent")),
               /*tell=*/false);
    return;
  }
  stall_look_->seen = writes;
  stall_look_->timer.Schedule(Deadline::After(limits.write_stall_timeout));
}

void StreamConnection::Close(absl::Status why) {
  if (forked()) return;  // it is the parent's
  const bool tell = !why.ok();
  BeginClose(std::move(why), tell);
}

bool StreamConnection::HasUnsent() {
  if (forked()) return false;
  const DispatchScope* const scope = DispatchScope::Of(this);
  return (scope != nullptr && scope->count().messages != 0) || writer_.HasUnsent();
}

void StreamConnection::CloseWhenSent() {
  if (forked()) return;
  // Whoever writes the last of it sees that (AfterWrite), or we see that it is written.
  closes_when_sent_.store(true, std::memory_order_seq_cst);
  CloseIfSent();
}

void StreamConnection::CloseIfSent() {
  if (!HasUnsent()) BeginClose(absl::OkStatus(), /*tell=*/false);
}

void StreamConnection::BeginClose(absl::Status why, bool tell) {
  const Use use(users_);
  OutgoingMessage last;
  if (tell) last = MakeClose(why);
  {
    MutexLock lock(&close_mutex_);
    if (closing()) return;
    close_status_ = std::move(why);
    closing_.store(true, std::memory_order_seq_cst);
  }
  if (DispatchScope* const scope = DispatchScope::Of(this)) {
    scope->WriteTo(writer_, socket_.get());  // what callbacks sent before
  }
  if (last) {
    if (SealMessage(*last, context_->limits).ok()) {
      // Held back: it is written below with everything that was queued before it.
      writer_.Add(last, /*hold_back=*/true, UINT64_MAX);
    }
  }
  // Not AfterWrite: nothing waits for room any more.
  writer_.Flush(socket_.get());
  // Wakes a thread that blocks in recv. The descriptor is valid: only Finalize ends its life, which
  // waits for our Use.
  ::shutdown(socket_.get(), SHUT_RD);
  CallLoop();
}

void StreamConnection::Finalize() {
  writer_.Flush(socket_.get());
  MessageBody* unsent = nullptr;
  if (users_.load(std::memory_order_seq_cst) != 0 || !writer_.Close(unsent)) {
    // Some thread is inside Send, BeginClose or a write, which does not block. The token stays
    // ours.
    loop_->Post([self = shared_from_this()] { self->Finalize(); });
    return;
  }
  loop_->ForgetSpinSource(this);
  watch_.Stop();
  lent_look_.reset();
  stall_look_.reset();
  arrival_.reset();
  ::shutdown(socket_.get(), SHUT_WR);
  // Closing a socket with unread bytes resets the connection, which may destroy what the peer has
  // not read yet, the reason for the end above all.
  DiscardUnread(socket_.get());
  socket_.reset();
  if (accepted_) context_->connections.fetch_sub(1, std::memory_order_relaxed);

  absl::Status why;
  {
    MutexLock lock(&close_mutex_);
    why = close_status_;
  }
  const std::shared_ptr<StreamConnection> self = std::move(self_);  // may be the last reference
  const std::shared_ptr<Receiver> receiver = std::move(receiver_);
  {
    DispatchScope scope(this);
    while (unsent != nullptr) {
      OutgoingMessage message(std::exchange(unsent, unsent->next));
      if (receiver != nullptr && message->header.type != FrameType::kClose) {
        receiver->OnUnsent(message->header, LostBeforeSend());
      }
    }
    if (receiver != nullptr) receiver->OnClosed(why);
  }
  assembler_ = FrameAssembler(&context_->limits);
}

}  // namespace mi7::transport
