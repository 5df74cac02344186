#include "transport/shm/connection.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "transport/copy_counter.h"
#include "transport/handshake.h"
#include "transport/message_queue.h"
#include "transport/shm/scope.h"
#include "transport/shm/shm_message.h"
#include "transport/shm/slot_segments.h"

namespace mi7::transport {

std::shared_ptr<Connection> MakeShmConnection(ShmMade made) {
  auto connection = std::make_shared<shm::ShmConnection>(std::move(made));
  Connection* const raw = connection.get();
  // The deleter holds what it is called for.
  return std::shared_ptr<Connection>(raw, [connection = std::move(connection)](Connection*) {
    connection->Close(absl::OkStatus());
  });
}

namespace shm {
namespace {

constexpr size_t kWordBytes = 8;
}  // namespace

ShmConnection::ShmConnection(ShmMade made)
    : options_(std::move(made.options)),
      loop_(made.loop),
      link_(new Link(std::move(made.mine), std::move(made.theirs), std::move(made.socket),
                     made.trusted)),
      pool_(new SlotPool(
          link_->options(), link_->theirs(), made.trusted, [this] { TrimLater(); },
          [this] { SlotCameFree(); })),
      negotiated_(made.negotiated),
      accepted_(made.accepted),
      peer_(std::move(made.peer)),
      local_(std::move(made.local)),
      while_open_(std::move(made.while_open)),
      reader_(link_->theirs(), link_->mine()),
      writer_(link_->mine(), link_->theirs()) {}

ShmConnection::~ShmConnection() {
  while (first_ != nullptr) OutgoingMessage(std::exchange(first_, first_->next));
  pool_->Detach();
  link_->Unref();
}

void ShmConnection::Start(std::shared_ptr<Receiver> receiver) {
  MI7_CHECK(!closing(), "a connection is started before it is closed");
  // What was sent before may have called the loop, which finds nothing to do yet.
  while (!token_.TryTake()) ::sched_yield();
  MI7_CHECK(receiver_ == nullptr && receiver != nullptr, "a connection is started once");
  receiver_ = std::move(receiver);
  self_ = shared_from_this();
  // Not DeclareSleep: the loop looks after what came meanwhile, in LoopTurn.
  link_->doorbell().Declare(kSocket);
  absl::Status watched = loop_->Watch(link_->socket(), EPOLLIN | EPOLLRDHUP | EPOLLET, this);
  watching_ = watched.ok();
  static_cast<void>(token_.Release());
  if (!watched.ok()) BeginClose(std::move(watched), /*tell=*/true);
  CallLoop();
}

ConnectionInfo ShmConnection::info() const {
  return {.transport = "shm", .peer = peer_, .local = local_, .negotiated = negotiated_};
}

bool ShmConnection::InCallback() const { return Scope::Of(this) != nullptr; }

absl::Status ShmConnection::ClosedError() const {
  MutexLock lock(&close_mutex_);
  return absl::UnavailableError(
      absl::StrCat("connection to ", peer_, " is closed",
                   close_status_.ok() ? "" : absl::StrCat(": ", close_status_.message())));
}

absl::Status ShmConnection::ForkedError() const {
  return ForkGuard::Refusal(absl::StrCat("connection to ", peer_));
}

Limits ShmConnection::send_limits() const {
  Limits limits = options_->limits;
  limits.message_bytes_max = std::min(limits.message_bytes_max, negotiated_.message_bytes_max);
  return limits;
}

absl::StatusOr<OutgoingMessage> ShmConnection::Reserve(size_t bytes) {
  if (link_->forked()) [[unlikely]]
    return ForkedError();
  if (closing()) [[unlikely]]
    return ClosedError();
  if (!accepted_ && QueueFullNow()) [[unlikely]]
    return QueueFull(0);
  // What will travel in the ring itself is built where a message lies ready. Should it grow, it
  // does so in slots.
  if (bytes <= kRecordWordsMax * kWordBytes) [[likely]] {
    OutgoingMessage message = NewHeapMessage(bytes);
    message->segment_source = pool_;
    return message;
  }
  return ShmMessage::New(*pool_, bytes);
}

absl::Status ShmConnection::QueueFull(uint64_t message_bytes) {
  const Use use(users_);
  if (closing()) return ClosedError();
  room_wanted_.store(true, std::memory_order_seq_cst);
  // Should there be room before that was seen, the loop tells at once.
  CallLoop();
  return QueueFullError(absl::StrCat(
      message_bytes == 0 ? "" : absl::StrCat("message of ", message_bytes, " bytes: "),
      "limits.queued_bytes_max, ", queue_max(), " bytes, is reached: ", queue_count().weight(),
      " wait to be sent to ", peer_, ", which does not take them; try again later"));
}

bool ShmConnection::HasRoom() {
  if (queue_count().HasRoom(options_->limits)) [[likely]]
    return true;
  room_wanted_.store(true, std::memory_order_seq_cst);
  // Whoever drains the queue sees that, or we see that it has drained.
  return queue_count().HasRoom(options_->limits);
}

absl::Status ShmConnection::Send(OutgoingMessage&& message) {
  OutgoingMessage taken = std::move(message);
  if (link_->forked()) [[unlikely]]
    return ForkedError();
  if (closing()) [[unlikely]]
    return ClosedError();
  Scope* const scope = Scope::Of(this);
  const Limits& own = options_->limits;
  absl::Status sealed = negotiated_.message_bytes_max >= own.message_bytes_max
                            ? SealMessage(*taken, own)
                            : SealMessage(*taken, send_limits());
  if (!sealed.ok()) [[unlikely]]
    return sealed;
  const uint64_t bytes = taken->header.size;
  if (!pool_->CouldHold(bytes - kFrameHeaderBytes)) [[unlikely]] {
    return absl::ResourceExhaustedError(absl::StrCat(
        "message of ", bytes, " bytes exceeds the shared memory for messages, of which ",
        pool_->largest_bytes(), " bytes can be had in one piece (shm.slot_classes)"));
  }
  const uint64_t bound = QueueBound(own, accepted_, taken->header);
  const bool spares_work = taken->header.type == FrameType::kCancel;
  absl::Status refused;
  Put put;
  bool queued = false;
  {
    BiasedLock lock(&send_mutex_);
    if (sending_ended_) return ClosedError();
    put = first_ == nullptr ? PutMessage(taken, refused) : Put::kNoRoom;
    if (put == Put::kNoRoom) queued = Enqueue(taken, bound);
  }
  if (put == Put::kDone) [[likely]] {
    // Relaxed: a count that a timer compares.
    writes_.store(writes_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    // A cancellation does not wait for what else the callback does, nor does anything for one of
    // an outer scope, which waits for another connection, for as long as it takes.
    if (scope != nullptr && scope == CallbackScope::innermost() && !spares_work) {
      scope->Sent();
    } else {
      WakePeer();
    }
    return absl::OkStatus();
  }
  if (put == Put::kRefused) [[unlikely]]
    return refused;
  if (!queued) {
    if (accepted_) {
      return AnswersUnread(own, bytes, queue_count().weight());
    }
    return QueueFull(bytes);
  }
  const Use use(users_);  // the loop is there until Finalize, which sees to the queue itself
  if (closing()) return absl::OkStatus();
  // Once a stall timeout at most: CheckStall keeps itself going while there is need.
  if (!stall_watched_.exchange(true, std::memory_order_seq_cst)) {
    loop_->Post([self = shared_from_this()] { self->CheckStall(); });
  }
  // Who drives, or the loop, writes it when there is room, and declares that it waits for that.
  if (scope == nullptr) {
    KickDriver();
    CallLoop();
  }
  return absl::OkStatus();
}

bool ShmConnection::Withdraw(uint32_t call_id) {
  if (link_->forked() || !queue_waits()) return false;
  {
    BiasedLock lock(&send_mutex_);
    const OutgoingMessage message = TakeCall(first_, last_, nullptr, call_id);
    if (!message) return false;
    const Queued before = queue_count();
    SetQueueCount({before.bytes - message->header.size, before.messages - 1});
  }
  // Nobody is called by the peer's progress for the room that this made, nor, if it was the first,
  // for those that it held up, which may lack nothing.
  const Use use(users_);
  if (closing()) return true;
  if (room_wanted_.load(std::memory_order_seq_cst) || queue_waits()) {
    KickDriver();
    CallLoop();
  }
  return true;
}

void ShmConnection::SlotCameFree() {
  if (link_->forked()) return;
  const Use use(users_);  // the loop is there until Finalize
  if (closing()) return;
  // Empty in the destructor, which waits for the pool's lock.
  auto self = weak_from_this().lock();
  if (self == nullptr) return;
  KickDriver();
  loop_->Post([self = std::move(self)] { self->LoopTurn(); });
}

bool ShmConnection::Enqueue(OutgoingMessage& message, uint64_t bound) {
  // What a GoAway says of calls holds when all returns before it arrive before it. One that waits
  // may be dropped for want of memory (OnUnsent), and another one then comes later.
  if (message->header.type == FrameType::kGoAway && first_ != nullptr && !message->extra().empty())
      [[unlikely]] {
    message->SetExtra({});
    MI7_CHECK(SealMessage(*message, options_->limits).ok(), "a bare header keeps the limits");
  }
  const Queued before = queue_count();
  const Queued after = before.With(message->header.size, 1);
  if (before.messages != 0 && after.weight() > bound) return false;
  holders_queued_ = holders_queued_ || SlotSegments::Of(*message, *pool_) != nullptr;
  MessageBody* const body = message.release();
  body->next = nullptr;
  (first_ == nullptr ? first_ : last_->next) = body;
  last_ = body;
  SetQueueCount(after);
  return true;
}

bool ShmConnection::FlushQueue() {
  bool any = false;
  {
    BiasedLock lock(&send_mutex_);
    while (first_ != nullptr) {
      MessageBody* next = first_->next;
      uint64_t bytes = first_->header.size;
      OutgoingMessage message(first_);
      absl::Status why;
      Put put = PutMessage(message, why);
      // With room in the ring it is slots that are short. Those that later messages hold would come
      // free only after this one; its own may lie where it needs several that are adjacent.
      while (put == Put::kNoRoom) {
        static_cast<void>(message.release());
        if (!writer_.HasRoom(kRecordWordsMax)) break;
        holders_queued_ = holders_queued_ && (Evacuate(&first_->next) || Evacuate(&first_));
        if (!holders_queued_) break;
        next = first_->next;  // Evacuate may have put its copy there
        bytes = first_->header.size;
        message = OutgoingMessage(first_);
        put = PutMessage(message, why);
      }
      if (put == Put::kNoRoom) break;
      if (put == Put::kRefused) [[unlikely]] {
        refused_.push_back({message->header, std::move(why)});
        refused_any_.store(true, std::memory_order_seq_cst);
        message.reset();
      } else {
        any = true;
      }
      first_ = next;
      const Queued before = queue_count();
      SetQueueCount({before.bytes - bytes, before.messages - 1});
    }
  }
  if (any) writes_.fetch_add(1, std::memory_order_relaxed);
  return any;
}

void ShmConnection::TellRefused() {
  std::vector<Refused> refused;
  {
    BiasedLock lock(&send_mutex_);
    refused.swap(refused_);
    refused_any_.store(false, std::memory_order_seq_cst);
  }
  Scope scope(this);
  for (const Refused& message : refused) {
    if (receiver_ != nullptr && message.header.type != FrameType::kClose)
      receiver_->OnUnsent(message.header, message.why);
  }
}

bool ShmConnection::Evacuate(MessageBody** link) {
  for (; *link != nullptr; link = &(*link)->next) {
    MessageBody* const queued = *link;
    SlotSegments* const held = SlotSegments::Of(*queued, *pool_);
    if (held == nullptr) continue;
    OutgoingMessage message(queued);
    MessageBody* const after = queued->next;
    const uint64_t counted = message->header.size;
    copied_payload_bytes.fetch_add(counted, std::memory_order_relaxed);
    OutgoingMessage heap = CopyToHeap(*message);
    if (message->shared()) held->GiveUp(message->Segments());
    message = std::move(heap);
    heap.reset();
    const absl::Status sealed = SealMessage(*message, options_->limits);
    MI7_CHECK(sealed.ok(), "a message keeps the limits when it is copied into one segment");
    // One segment has another size than several.
    const Queued before = queue_count();
    SetQueueCount({before.bytes - counted + message->header.size, before.messages});
    MessageBody* const copy = message.release();
    copy->next = after;
    *link = copy;
    if (last_ == queued) last_ = copy;
    return true;
  }
  return false;
}

}  // namespace shm
}  // namespace mi7::transport
