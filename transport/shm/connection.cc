#include "transport/shm/connection.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "transport/copy_counter.h"
#include "transport/handshake.h"
#include "transport/message_queue.h"
#include "transport/sealed_message.h"
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
// What is copied of a message all the rest of which lies in slots.
constexpr uint64_t kApartBytesMax = 4096;

Descriptor DescriptorOf(const Slot& slot, uint64_t bytes) {
  return {.words = static_cast<uint32_t>(bytes / kWordBytes),
          .slot = slot.index,
          .size_class = slot.size_class,
          .reserved = 0};
}

}  // namespace

ShmConnection::ShmConnection(ShmMade made)
    : options_(std::move(made.options)),
      loop_(made.loop),
      link_(new Link(std::move(made.mine), std::move(made.theirs), std::move(made.socket),
                     made.trusted)),
      pool_(new SlotPool(link_->options(), link_->theirs(), made.trusted, [this] { TrimLater(); })),
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
  // Who drives, or the loop, writes it when there is room, and declares that it waits for that.
  if (scope == nullptr) {
    const Use use(users_);  // the loop is there until Finalize, which sees to the queue itself
    if (closing()) return absl::OkStatus();
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
  // Nobody is called by the peer's progress for the room that this made.
  const Use use(users_);
  if (!closing() && room_wanted_.load(std::memory_order_seq_cst)) CallLoop();
  return true;
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
  MessageBody* const body = message.release();
  body->next = nullptr;
  (first_ == nullptr ? first_ : last_->next) = body;
  last_ = body;
  SetQueueCount(after);
  return true;
}

ShmConnection::Put ShmConnection::PutMessage(OutgoingMessage& message, absl::Status& why) {
  const auto segments = SealedSegments(*message);
  const std::span<const std::byte> extra = message->extra();
  if (segments.size() <= 1) {
    const uint64_t body_words = segments.size() == 0 ? 0 : segments[0].size();
    const uint64_t words = extra.size() / kWordBytes + body_words;
    if (words <= kRecordWordsMax) {
      if (!writer_.HasRoom(static_cast<uint32_t>(words))) return Put::kNoRoom;
      const auto* body =
          body_words == 0 ? nullptr : reinterpret_cast<const uint64_t*>(segments[0].begin());
      const bool gives_up = message->further_segments() != nullptr && message->shared();
      if (extra.empty() && !gives_up) [[likely]] {
        if (bursts_.load(std::memory_order_relaxed) && message->shared()) {
          // The next call is to be sent, and not this one's answer to be waited for. So the handle
          // is given up first: the atomic operation that this takes would wait, after the ring was
          // written, until the ring's line has come from its reader.
          const FrameHeader header = message->header;
          std::array<uint64_t, kRecordWordsMax> copy;
          if (body_words != 0) std::memcpy(copy.data(), body, body_words * kWordBytes);
          message.reset();
          writer_.Write(header, Form::kInline, {copy.data(), body_words});
        } else {
          writer_.Write(message->header, Form::kInline, {body, body_words});
        }
      } else {
        std::array<uint64_t, kRecordWordsMax> both;
        if (!extra.empty()) std::memcpy(both.data(), extra.data(), extra.size());
        if (body_words != 0) {
          std::memcpy(both.data() + extra.size() / kWordBytes, body, body_words * kWordBytes);
        }
        // It was expected to be larger.
        if (gives_up) message->further_segments()->GiveUp(segments);
        writer_.Write(message->header, Form::kInline, {both.data(), words});
      }
      if (bursts_.load(std::memory_order_relaxed)) writer_.ExpectMore();
      message.reset();
      return Put::kDone;
    }
  }
  SlotSegments* const held = SlotSegments::Of(*message, *pool_);
  const size_t extra_count = extra.empty() ? 0 : 1;
  // A message without a body leaves the slots that were begun where they are.
  if (held == nullptr || segments.size() == 0 || segments.size() + extra_count > kRecordWordsMax) {
    return PutStream(message, why);
  }
  // All lie in slots but one, if that is small: what a message that was expected to be small began
  // with.
  const std::span<const Slot> slots = held->slots();
  const IncomingMessage::Segment* apart = nullptr;
  size_t next = 0;
  for (const auto& segment : segments) {
    if (next < slots.size() &&
        reinterpret_cast<const std::byte*>(segment.begin()) == slots[next].data) {
      ++next;
    } else if (apart == nullptr && segment.size() * kWordBytes <= kApartBytesMax) {
      apart = &segment;
    } else {
      return PutStream(message, why);
    }
  }

  const auto count = static_cast<uint32_t>(segments.size() + extra_count);
  if (!writer_.HasRoom(count)) return Put::kNoRoom;
  for (const Slot& slot : slots) {
    const Put announced = AnnounceChunk(slot.size_class, why);
    if (announced != Put::kDone) [[unlikely]]
      return announced;
  }
  Put put{};
  Slot extra_slot;
  if (extra_count != 0) {
    extra_slot = TakeKnownSlot(extra.size(), put, why);
    if (!extra_slot) return put;
  }
  const uint64_t apart_bytes = apart == nullptr ? 0 : apart->size() * kWordBytes;
  Slot apart_slot;
  if (apart != nullptr) {
    apart_slot = TakeKnownSlot(apart_bytes, put, why);
    if (!apart_slot) {
      if (extra_slot) pool_->Return(extra_slot, 0);
      return put;
    }
    std::memcpy(apart_slot.data, apart->begin(), apart_bytes);
    copied_payload_bytes.fetch_add(apart_bytes, std::memory_order_relaxed);
  }
  std::array<uint64_t, kRecordWordsMax> words;
  size_t at = 0;
  if (extra_count != 0) {
    std::memcpy(extra_slot.data, extra.data(), extra.size());
    words[at++] = std::bit_cast<uint64_t>(DescriptorOf(extra_slot, extra.size()));
  }
  next = 0;
  for (const auto& segment : segments) {
    const Slot& slot = &segment == apart ? apart_slot : slots[next++];
    words[at++] = std::bit_cast<uint64_t>(DescriptorOf(slot, segment.size() * kWordBytes));
  }
  // Before the record: once it is there, and its answer with it, whoever keeps the message may read
  // its segments, which changes what Cap'n Proto knows of them.
  held->MarkSent(segments, message->shared());
  writer_.Write(message->header, Form::kSegments, {words.data(), at});
  if (extra_slot) pool_->Sent(extra_slot, extra.size());
  if (apart_slot) pool_->Sent(apart_slot, apart_bytes);
  message.reset();
  return Put::kDone;
}

ShmConnection::Put ShmConnection::PutStream(OutgoingMessage& message, absl::Status& why) {
  const uint64_t bytes = message->header.size - kFrameHeaderBytes;
  if (!writer_.HasRoom(1)) return Put::kNoRoom;
  Put put{};
  const Slot slot = TakeKnownSlot(bytes, put, why);
  if (!slot) return put;
  std::byte* out = slot.data;
  const auto append = [&out](const void* data, size_t size) {
    if (size != 0) std::memcpy(out, data, size);
    out += size;
  };
  const std::span<const std::byte> extra = message->extra();
  const auto segments = SealedSegments(*message);
  append(extra.data(), extra.size());
  if (segments.size() != 0) {
    const auto last = static_cast<uint32_t>(segments.size() - 1);
    append(&last, sizeof(last));
    for (const auto& segment : segments) {
      const auto words = static_cast<uint32_t>(segment.size());
      append(&words, sizeof(words));
    }
    constexpr uint32_t kPadding = 0;
    if (segments.size() % 2 == 0) append(&kPadding, sizeof(kPadding));
    for (const auto& segment : segments) append(segment.begin(), segment.size() * kWordBytes);
  }
  MI7_CHECK(out == slot.data + bytes, "a sealed message is as large as its header says");
  copied_payload_bytes.fetch_add(bytes, std::memory_order_relaxed);
  const uint64_t word = std::bit_cast<uint64_t>(DescriptorOf(slot, bytes));
  // Before the record, as above. Its own slots are not needed any more, but it ends with the call
  // only.
  if (message->further_segments() != nullptr && message->shared()) {
    message->further_segments()->GiveUp(segments);
  }
  writer_.Write(message->header, Form::kStream, {&word, 1});
  pool_->Sent(slot, bytes);
  message.reset();
  return Put::kDone;
}

Slot ShmConnection::TakeKnownSlot(uint64_t bytes, Put& put, absl::Status& why) {
  const Slot slot = pool_->Take(bytes, bytes, true, &why);
  if (!slot) {
    put = why.ok() ? Put::kNoRoom : Put::kRefused;
    return {};
  }
  put = AnnounceChunk(slot.size_class, why);
  if (put == Put::kDone) [[likely]]
    return slot;
  pool_->Return(slot, 0);
  return {};
}

ShmConnection::Put ShmConnection::AnnounceChunk(uint32_t size_class, absl::Status& why) {
  const uint32_t bit = 1u << size_class;
  if ((announced_ & bit) != 0) [[likely]]
    return Put::kDone;
  absl::Status sent = link_->SendChunk(size_class, pool_->chunk_descriptor(size_class));
  if (absl::IsUnavailable(sent)) return Put::kNoRoom;  // the end comes, and tells what was not sent
  if (!sent.ok()) {
    why = std::move(sent);
    return Put::kRefused;
  }
  announced_ |= bit;
  return Put::kDone;
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
        if (!Evacuate(&first_->next) && !Evacuate(&first_)) break;
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
