#pragma once

// Messages as they cross the seam between rpc and transport.
//
// OutgoingMessage: reserved before it is filled, so that Cap'n Proto builds it where the transport
// wants it (a slot in shared memory, a pooled buffer that one gathering write sends).
// IncomingMessage: a view of where the transport received it; it may outlive the callback that
// delivered it and may be released in any order.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/limits.h"
#include "transport/buffer_pool.h"
#include "transport/frame.h"
#include "transport/size_guess.h"

namespace mi7::transport {

class SegmentSource;

// Memory for segments of one heap message after its first: where the peer will read them, in place
// of the heap.
class FurtherSegments {
 public:
  // Who made it.
  virtual const SegmentSource* source() const = 0;
  // At least `minimum_bytes`, zeroed; `for_overwrite`: just so many, of which only the last word
  // is. Empty: none is to be had; the heap will do.
  virtual kj::ArrayPtr<capnp::word> Allocate(size_t minimum_bytes, size_t better_bytes,
                                             bool for_overwrite) = 0;
  // The message ends, whose segments these are, in order. Gives the memory back unless it was sent,
  // and destroys itself. Any thread.
  virtual void Drop(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) = 0;
  // The content was copied, and will not be sent from here: it is only kept, for WhileKept. Before
  // Drop.
  virtual void GiveUp(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) = 0;
  // Of a message that has been shared, and has these segments: calls `read` with where they have
  // their content now, in which time it stays there, and true; false: their memory was needed, and
  // the content is lost. `read` takes no memory from here. Any thread.
  virtual bool WhileKept(
      kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments,
      absl::FunctionRef<void(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>)> read) = 0;

 protected:
  ~FurtherSegments() = default;
};

// Makes them. Thread-safe.
class SegmentSource {
 public:
  virtual FurtherSegments* NewFurtherSegments() = 0;

 protected:
  ~SegmentSource() = default;
};

class OutgoingMessage;

// A message under construction; one implementation a kind of memory. Not thread-safe.
class MessageBody : public capnp::MessageBuilder {
 public:
  FrameHeader header;

  // The optional part, placed between header and body; `bytes` is a Cap'n Proto message in stream
  // form, a multiple of 8 long. Copied. Replaces an earlier one; empty removes it.
  virtual void SetExtra(std::span<const std::byte> bytes) = 0;
  virtual std::span<const std::byte> extra() const = 0;

  // As Cap'n Proto's, but for a root that was not set: takes the struct that may lie ready for it.
  template <typename T>
  typename T::Builder initRoot() {
    constexpr StructSize kSize = {T::_capnpPrivate::dataWordSize, T::_capnpPrivate::pointerCount};
    root_size_ = kSize;
    if (ready_.place == nullptr || ready_.size != kSize) [[unlikely]]
      return capnp::MessageBuilder::initRoot<T>();
    *std::exchange(ready_.place, nullptr) = ready_.pointer;
    return ready_.root.as<T>();
  }

  // Destroys the message and gives its memory back. Any thread.
  virtual void Recycle() = 0;

  // The body's segments; empty when it has none. A body whose root was never set is given one,
  // null.
  kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> Segments();

  // Bytes of memory that the segments take, written to or not.
  size_t HeldBytes() { return std::max(allocated_bytes_, BytesInUse()); }

  // Whether it comes from NewHeapMessage.
  bool is_heap() const { return is_heap_; }

  // Whether it has a second handle (still). Acquire: what that did with it comes before.
  bool shared() const { return shared_.load(std::memory_order_acquire); }

  // Intrusive link for the queue of whoever owns the message (a connection's send queue).
  MessageBody* next = nullptr;
  // Learns the size of the body when the message is sealed, if there is one.
  SizeGuess* size_guess = nullptr;
  // Whether the message carries a body: false for control frames. Set by with_body(false).
  bool has_body = true;
  // Whether it may wait a moment for others, to be written together with them: one of a series of
  // which nobody awaits each one's effect.
  bool may_gather = false;
  // Of a heap message: whom it asks for segments when it outgrows the first, if anybody. Must live
  // as long as the message is built.
  SegmentSource* segment_source = nullptr;
  FurtherSegments* further_segments() const { return further_segments_; }

 protected:
  // Of a struct, as Cap'n Proto counts it.
  struct StructSize {
    uint16_t data_words;
    uint16_t pointers;
    friend bool operator==(const StructSize&, const StructSize&) = default;
  };
  // A root struct that was allocated ahead, and what makes it the root. Nobody sees it before
  // initRoot; one that is never taken travels as a few words of zeros.
  struct ReadyRoot {
    uint64_t* place = nullptr;  // the root pointer, null until then; nullptr: there is no such root
    uint64_t pointer = 0;
    StructSize size{};
    capnp::AnyStruct::Builder root{nullptr};
  };

  explicit MessageBody(bool is_heap = false) : is_heap_(is_heap) {}
  ~MessageBody() = default;

  // Takes note of memory for a segment.
  kj::ArrayPtr<capnp::word> Count(kj::ArrayPtr<capnp::word> segment, bool for_overwrite) {
    const size_t bytes = segment.size() * sizeof(capnp::word);
    allocated_bytes_ += bytes;
    if (for_overwrite) for_overwrite_bytes_ += bytes;
    return segment;
  }

  // For Recycle: whether it is the first of two handles that goes, which leaves the message to the
  // other one. acq_rel: which comes after it, with all its uses.
  bool LeaveToOther() {
    if (shared_.load(std::memory_order_acquire) &&
        shared_.exchange(false, std::memory_order_acq_rel)) {
      return true;
    }
    was_shared_ = false;  // nor will the next message be that is made in this one's place
    return false;
  }

  FurtherSegments* further_segments_ = nullptr;
  size_t allocated_bytes_ = 0;  // of its own memory for segments, used or not
  // Of these, what InitForOverwrite took: says nothing of how much else is to come.
  size_t for_overwrite_bytes_ = 0;
  ReadyRoot ready_;
  std::optional<StructSize> root_size_;  // what initRoot was called for

 private:
  friend OutgoingMessage ShareMessage(MessageBody& message, size_t bytes_max);
  friend bool IsSole(const MessageBody& message);
  size_t BytesInUse();  // of the segments

  const bool is_heap_;
  bool was_shared_ = false;
  std::atomic<bool> shared_{false};
};

// Owning handle of a MessageBody. Move-only; empty after it was moved from.
class OutgoingMessage {
 public:
  OutgoingMessage() = default;
  explicit OutgoingMessage(MessageBody* body) : body_(body) {}
  OutgoingMessage(OutgoingMessage&& other) noexcept : body_(std::exchange(other.body_, nullptr)) {}
  OutgoingMessage& operator=(OutgoingMessage&& other) noexcept {
    std::swap(body_, other.body_);
    return *this;
  }
  ~OutgoingMessage() { reset(); }
  void reset() {
    if (body_ != nullptr) std::exchange(body_, nullptr)->Recycle();
  }
  MessageBody* get() const { return body_; }
  MessageBody* operator->() const { return body_; }
  MessageBody& operator*() const { return *body_; }
  explicit operator bool() const { return body_ != nullptr; }
  MessageBody* release() { return std::exchange(body_, nullptr); }

 private:
  MessageBody* body_ = nullptr;
};

// A message in pooled private memory: what tcp and inproc reserve, and what a channel builds a
// request in before it has a connection. The first segment lies in the same block as the builder
// with room for header and segment table before it, so a one-segment message is one contiguous
// piece of memory. `bytes` is the expected size of the body; the message grows as needed.
// Never fails (out of memory aborts, as everywhere in C++). Allocates nothing once warm as long as
// the body fits its first segment. Thread-safe.
OutgoingMessage NewHeapMessage(size_t bytes);

// A second handle of a message whose segments have at most `bytes_max` bytes (memory that it only
// refers to, Orphanage::referenceExternalData, may count or not), for a connection to
// send while the first handle keeps the message: the memory goes back when both are gone, on
// whichever thread. Empty for larger messages. Nothing is copied. What the first handle's owner may
// do with the message before it is sole again is ReadShared, when the connection has answered or
// dropped it.
inline OutgoingMessage ShareMessage(MessageBody& message, size_t bytes_max) {
  // Most messages have not even the room for so much.
  const bool is_small = message.allocated_bytes_ != 0 && message.allocated_bytes_ <= bytes_max;
  if (!is_small && message.BytesInUse() > bytes_max) return OutgoingMessage();
  message.was_shared_ = true;
  // Relaxed: the second one is not given away yet.
  message.shared_.store(true, std::memory_order_relaxed);
  return OutgoingMessage(&message);
}
// Whether the message may be changed and sent: it has no second handle (any more), and has not been
// sent from where the peer reads it.
bool IsSole(const MessageBody& message);
// Calls `read` with the segments of a message that was shared, `segments` where somebody may be
// about to seal it at this moment, where they have their content now,
// and true. False: they lay where the peer reads them, their memory was needed for other messages
// after they had been sent, and there was no room for their content elsewhere. See WhileKept.
using ReadSegments = absl::FunctionRef<void(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>)>;
inline bool ReadShared(MessageBody& message,
                       kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments,
                       ReadSegments read) {
  if (message.further_segments() != nullptr) {
    return message.further_segments()->WhileKept(segments, read);
  }
  read(segments);
  return true;
}
inline bool ReadShared(MessageBody& message, ReadSegments read) {
  return ReadShared(message, message.Segments(), read);
}

// A piece of memory to be written, in order. Same shape as iovec, without its header.
struct ByteSpan {
  const std::byte* data;
  size_t size;
};

// Pieces of messages to be written, in order. Cleared and reused by its owner, to keep it warm.
using PieceList = std::vector<ByteSpan>;

// A heap message with the same header and content.
OutgoingMessage CopyToHeap(MessageBody& message);
// Makes `message` a heap message, by copying it when it is none: a message that was reserved on
// another connection.
inline void EnsureHeapMessage(OutgoingMessage& message) {
  if (!message->is_heap()) [[unlikely]]
    message = CopyToHeap(*message);
}

// Finishes a heap message for a byte stream: fills header.size and header.extra_size, writes
// header, extra and segment table into the room before the first segment (or a side block when
// they do not fit) and appends the pieces, whose sum is header.size, to `pieces`: one piece for a
// message of one segment. The pieces stay valid until the message is changed or recycled.
// `message` must come from NewHeapMessage, and its header must keep the rules of frame.h.
// RESOURCE_EXHAUSTED when the message exceeds limits.message_bytes_max, extra_bytes_max or
// segments_max, naming it; nothing is appended then.
absl::Status FinishHeapMessage(MessageBody& message, const Limits& limits, PieceList& pieces);

// What FinishHeapMessage does to the header, without the pieces: checks the limits and fills
// header.size and header.extra_size. The message is not changed afterwards. Any kind of memory.
absl::Status SealMessage(MessageBody& message, const Limits& limits);

// The other half: the pieces of a message that was sealed and not changed since.
void AppendPieces(MessageBody& message, PieceList& pieces);

// Size in bytes that `message` would have now (header + extra + segment table + segments in use).
// A body whose root was never set counts (and travels) as one null pointer.
size_t MessageBytes(MessageBody& message);

// A received message. Move-only. Not thread-safe, but may be handed to and released on any thread.
class IncomingMessage {
 public:
  using Segment = kj::ArrayPtr<const capnp::word>;

  // Not defaulted: as a constant it would be cleared as a whole, by a string instruction, instead
  // of by the few stores that it needs.
  IncomingMessage() {}
  IncomingMessage(IncomingMessage&& other) noexcept
      : header_(other.header_),
        extra_(std::exchange(other.extra_, {})),
        few_segments_(other.few_segments_),
        more_segments_(std::move(other.more_segments_)),
        segment_count_(std::exchange(other.segment_count_, 0)),
        memory_is_private_(other.memory_is_private_),
        backing_(std::exchange(other.backing_, nullptr)),
        cookie_(other.cookie_) {}
  IncomingMessage& operator=(IncomingMessage&& other) noexcept {
    if (this == &other) return *this;
    this->~IncomingMessage();
    return *new (this) IncomingMessage(std::move(other));
  }
  ~IncomingMessage() { reset(); }

  // For transports: a message of one segment whose parts were found and checked, with one reference
  // of `backing`.
  IncomingMessage(const FrameHeader& header, std::span<const std::byte> extra,
                  const Segment& segment, Backing* backing, uint64_t cookie)
      : header_(header),
        extra_(extra),
        few_segments_{segment},
        segment_count_(1),
        backing_(backing),
        cookie_(cookie) {}
  // For transports: becomes a message whose parts were found and checked. Takes over one reference
  // of `backing`, which may be nullptr. One allocation when there are more than
  // two segments.
  void Set(const FrameHeader& header, std::span<const std::byte> extra,
           std::span<const Segment> segments, Backing* backing, uint64_t cookie) {
    reset();
    header_ = header;
    extra_ = extra;
    segment_count_ = static_cast<uint32_t>(segments.size());
    memory_is_private_ = false;
    if (segments.size() == 1) [[likely]] {
      few_segments_[0] = segments[0];
    } else {
      std::copy(segments.begin(), segments.end(), PlaceFor(segments.size()));
    }
    backing_ = backing;
    cookie_ = cookie;
  }

  // A private copy, already checked by CheckFrameHeader.
  const FrameHeader& header() const { return header_; }
  // The optional part, empty when absent: a Cap'n Proto message in stream form.
  std::span<const std::byte> extra() const { return extra_; }
  // The body's segments, empty when the message has no body. Their number and sizes are checked;
  // their content is not: Cap'n Proto validates pointers as they are followed.
  std::span<const Segment> segments() const {
    return {more_segments_ ? more_segments_.get() : few_segments_.data(), segment_count_};
  }
  bool has_body() const { return segment_count_ != 0; }
  // Whether nobody can change the segments any more: they are in memory of this process that has
  // one user. What was checked in them once needs no second look.
  bool memory_is_private() const { return memory_is_private_; }
  // For transports; after Set, which makes them those of others.
  void set_memory_is_private() { memory_is_private_ = true; }
  // See Backing::HeldBytes.
  size_t held_bytes() const { return backing_ != nullptr ? backing_->HeldBytes() : 0; }
  // Releases the memory; the message is empty afterwards.
  void reset() {
    extra_ = {};
    segment_count_ = 0;
    memory_is_private_ = false;
    more_segments_.reset();
    if (backing_ != nullptr) std::exchange(backing_, nullptr)->Release(cookie_);
  }

 private:
  friend absl::Status ParseMessage(const FrameHeader&, std::span<const std::byte>, Backing*,
                                   uint64_t, const Limits&, IncomingMessage&);

  // Where `count` segments are to be written.
  Segment* PlaceFor(size_t count) {
    if (count <= few_segments_.size()) return few_segments_.data();
    more_segments_ = std::make_unique<Segment[]>(count);
    return more_segments_.get();
  }

  FrameHeader header_;
  std::span<const std::byte> extra_;
  std::array<Segment, 2> few_segments_;
  std::unique_ptr<Segment[]> more_segments_;  // all of them, when there are more
  uint32_t segment_count_ = 0;
  bool memory_is_private_ = false;
  Backing* backing_ = nullptr;
  uint64_t cookie_ = 0;
};

// Parses what follows a checked `header`: `rest` is extra and body, header.size - 32 bytes,
// 8-aligned, in memory that nobody changes any more. Takes over one reference of `backing`, also on
// failure. INVALID_ARGUMENT: the segment table contradicts the size, or exceeds
// limits.segments_max; the message is unusable but the stream goes on. One allocation when there
// are more than two segments.
absl::StatusOr<IncomingMessage> ParseMessage(const FrameHeader& header,
                                             std::span<const std::byte> rest, Backing* backing,
                                             uint64_t cookie, const Limits& limits);

// The same into `message`, which is emptied first.
absl::Status ParseMessage(const FrameHeader& header, std::span<const std::byte> rest,
                          Backing* backing, uint64_t cookie, const Limits& limits,
                          IncomingMessage& message);

// Turns a heap message around into a received one without copying (inproc). The message must be
// sealed.
IncomingMessage MakeIncoming(OutgoingMessage&& message);

// The same message in memory of its own: in `space`, which must be 8-aligned and outlive it, when
// it fits, else in a buffer of about its size.
IncomingMessage CopyMessage(const IncomingMessage& message, std::span<std::byte> space);

}  // namespace mi7::transport
