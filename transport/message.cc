#include "transport/message.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string>

#include <capnp/any.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/for_overwrite.h"
#include "transport/private_segments.h"
#include "transport/sealed_message.h"

namespace mi7::transport {
namespace {

using Segment = IncomingMessage::Segment;
using SegmentsView = kj::ArrayPtr<const Segment>;

constexpr size_t kWordBytes = sizeof(capnp::word);
static_assert(kWordBytes == 8);

// Room before the first segment: header, a small extra part and a table for one segment.
constexpr size_t kRoomBytes = 256;
constexpr size_t kOneSegmentTableBytes = 8;
constexpr size_t kInlineExtraMax = kRoomBytes - kFrameHeaderBytes - kOneSegmentTableBytes;

// A larger root is not made ahead.
constexpr int kReadyWordsMax = 64;

// A larger hint is only a hint: the rest comes in further segments.
constexpr size_t kFirstSegmentBytesMax = 1u << 30;

constexpr size_t TableBytes(size_t segment_count) { return (segment_count / 2 + 1) * kWordBytes; }

constexpr char kBrokenRules[] = "a message header breaks the rules of transport/frame.h";

bool KeepsRules(const FrameHeader& header) {
  static constexpr Limits kUnlimited = {.message_bytes_max = UINT32_MAX,
                                        .extra_bytes_max = UINT32_MAX};
  return IsPlainCallOrReturn(header, kUnlimited) || CheckFrameHeader(header, kUnlimited).ok();
}

size_t TotalBytes(SegmentsView segments, size_t extra_bytes) {
  size_t bytes = kFrameHeaderBytes + extra_bytes;
  if (segments.size() != 0) bytes += TableBytes(segments.size());
  for (const Segment& segment : segments) bytes += segment.size() * kWordBytes;
  return bytes;
}

// Large segments after the first are built elsewhere whatever is guessed, so they count as the word
// that refers to them.
void LearnSize(const MessageBody& message, SegmentsView segments) {
  if (message.size_guess == nullptr) return;
  const size_t further = segments.size() == 1 ? 0 : segments.size();
  message.size_guess->Learn((segments[0].size() + further) * kWordBytes);
}

// Checks the limits and completes the header.
absl::Status SealHeader(MessageBody& message, SegmentsView segments, size_t extra_bytes,
                        const Limits& limits) {
  FrameHeader& header = message.header;
  const size_t bytes = TotalBytes(segments, extra_bytes);
  if (bytes > limits.message_bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("message of ", bytes,
                                                     " bytes exceeds limits.message_bytes_max, ",
                                                     limits.message_bytes_max, " bytes"));
  }
  if (extra_bytes > limits.extra_bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("extra part (metadata, error details) of ", extra_bytes,
                     " bytes exceeds limits.extra_bytes_max, ", limits.extra_bytes_max, " bytes"));
  }
  if (segments.size() > limits.segments_max) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "message of ", segments.size(), " segments exceeds limits.segments_max, ",
        limits.segments_max, "; reserve it with its expected size, or copy it into a new message"));
  }
  header.size = static_cast<uint32_t>(bytes);
  header.extra_size = static_cast<uint32_t>(extra_bytes);
  MI7_CHECK(KeepsRules(header), kBrokenRules);
  if (segments.size() != 0) LearnSize(message, segments);
  return absl::OkStatus();
}

// One block of pooled, zeroed memory:
//
//   Buffer | HeapMessage | ... | room (256): ... header extra table | first segment
//                                                                   ^ data() + kZeroedFrom
//
// The first segment is zero when the block comes from the pool, and is cleared as far as it was
// used before it goes back: a message pays for the words it used, not for those it might have.
//
// The usual, small message lies in a block that keeps its content in the pool: whoever recycles a
// message, when it was sent, makes the next one in its place, with Cap'n Proto's arena and the root
// pointer, so that NewHeapMessage finds it ready. It owns nothing outside the block then.
class HeapMessage final : public MessageBody, public Backing {
 public:
  explicit HeapMessage(Buffer* block) : MessageBody(/*is_heap=*/true), block_(block) {
    allocated_bytes_ = block->capacity();
  }
  ~HeapMessage() = default;

  // A block of the pool's that keeps its content, with a message in it.
  static HeapMessage* NewSmall() {
    Buffer* const block = BufferPool::AllocateKept().release();
    if (block->kept()) [[likely]] {
      return std::launder(reinterpret_cast<HeapMessage*>(block->data()));
    }
    return MakeReady(block, std::nullopt, std::nullopt);
  }

  void SetExtra(std::span<const std::byte> bytes) override {
    MI7_CHECK(bytes.size() % kWordBytes == 0, "an extra part is whole words");
    BufferRef side;
    std::byte* place = first_segment() - kOneSegmentTableBytes - bytes.size();
    if (bytes.size() > kInlineExtraMax) {
      side = BufferPool::Allocate(kFrameHeaderBytes + bytes.size() + kOneSegmentTableBytes);
      place = side->data() + kFrameHeaderBytes;
    }
    // memmove and late replacement: `bytes` may be the earlier extra part.
    if (!bytes.empty()) std::memmove(place, bytes.data(), bytes.size());
    extra_block_ = std::move(side);
    extra_ = {place, bytes.size()};
  }

  std::span<const std::byte> extra() const override { return extra_; }

  void Recycle() override {
    if (LeaveToOther()) return;
    Buffer* const block = block_;
    if (!ReuseReadyRoot()) Remake();
    block->Unref();
  }

  void Release(uint64_t) override { Recycle(); }

  kj::ArrayPtr<capnp::word> allocateSegment(capnp::uint minimum_words) override {
    if (!first_taken_) {
      first_taken_ = true;
      const size_t words = (block_->capacity() - BufferPool::kZeroedFrom) / kWordBytes;
      if (words >= minimum_words) {
        first_in_block_ = true;
        return {reinterpret_cast<capnp::word*>(first_segment()), words};
      }
    }
    // As large as everything so far, so that their number grows with the logarithm of the size.
    const size_t better = std::min(allocated_bytes_ - for_overwrite_bytes_, kFirstSegmentBytesMax);
    const bool for_overwrite = ForOverwrite::wanted();
    if (segment_source != nullptr) {
      if (further_segments_ == nullptr) further_segments_ = segment_source->NewFurtherSegments();
      const auto taken =
          further_segments_->Allocate(size_t{minimum_words} * kWordBytes, better, for_overwrite);
      if (taken.size() != 0) return Count(taken, for_overwrite);
    }
    return Count(further_.Allocate(minimum_words, better, for_overwrite), for_overwrite);
  }

  // Checks the limits and completes the header.
  absl::Status Seal(const Limits& limits) {
    sealed_ = Segments();
    if (sealed_.size() == 1 && extra_.empty()) [[likely]] {
      const size_t bytes =
          kFrameHeaderBytes + kOneSegmentTableBytes + sealed_[0].size() * kWordBytes;
      if (bytes <= limits.message_bytes_max) [[likely]] {
        LearnSize(*this, sealed_);
        header.size = static_cast<uint32_t>(bytes);
        header.extra_size = 0;
        MI7_CHECK(KeepsRules(header), kBrokenRules);
        return absl::OkStatus();
      }
    }
    return SealUnusual(limits);
  }

  // The segments when the message was sealed.
  SegmentsView sealed() const { return sealed_; }

  void AppendPieces(SegmentsView segments, PieceList& pieces) {
    // Header and extra are contiguous: in the room, or in the extra part's own block.
    std::byte* const start =
        (extra_.empty() ? first_segment() - kOneSegmentTableBytes : extra_.data()) -
        kFrameHeaderBytes;
    std::memcpy(start, &header, kFrameHeaderBytes);
    size_t start_bytes = kFrameHeaderBytes + extra_.size();
    if (segments.size() == 0) {
      pieces.push_back({start, start_bytes});
      return;
    }
    if (segments.size() == 1) {
      const uint32_t table[2] = {0, static_cast<uint32_t>(segments[0].size())};
      std::memcpy(start + start_bytes, table, sizeof(table));
      start_bytes += sizeof(table);
      const std::byte* const body = reinterpret_cast<const std::byte*>(segments[0].begin());
      const size_t body_bytes = segments[0].size() * kWordBytes;
      if (start + start_bytes == body) {
        pieces.push_back({start, start_bytes + body_bytes});
      } else {
        pieces.push_back({start, start_bytes});
        pieces.push_back({body, body_bytes});
      }
      return;
    }
    pieces.push_back({start, start_bytes});
    const size_t table_bytes = TableBytes(segments.size());
    std::byte* table = reinterpret_cast<std::byte*>(small_table_.data());
    if (table_bytes > sizeof(small_table_)) {
      table_block_ = BufferPool::Allocate(table_bytes);
      table = table_block_->data();
    }
    std::memset(table + table_bytes - kWordBytes, 0, kWordBytes);  // the padding
    const uint32_t last = static_cast<uint32_t>(segments.size() - 1);
    std::memcpy(table, &last, sizeof(last));
    for (size_t i = 0; i < segments.size(); ++i) {
      const uint32_t words = static_cast<uint32_t>(segments[i].size());
      std::memcpy(table + (i + 1) * sizeof(words), &words, sizeof(words));
    }
    pieces.push_back({table, table_bytes});
    for (const Segment& segment : segments) {
      if (segment.size() == 0) continue;
      pieces.push_back(
          {reinterpret_cast<const std::byte*>(segment.begin()), segment.size() * kWordBytes});
    }
  }

 private:
  [[gnu::noinline]] absl::Status SealUnusual(const Limits& limits) {
    return SealHeader(*this, sealed_, extra_.size(), limits);
  }

  // `last_root`: what the message that was in the block had as its root, if that was set by
  // initRoot; `before`: the one before that. When both are of one size the next will be, too.
  static HeapMessage* MakeReady(Buffer* block, std::optional<StructSize> last_root,
                                std::optional<StructSize> before) {
    auto* const message = new (block->data()) HeapMessage(block);
    auto root = message->getRoot<capnp::AnyPointer>();
    message->last_root_size_ = last_root;
    if (last_root && last_root == before &&
        last_root->data_words + last_root->pointers <= kReadyWordsMax) {
      ReadyRoot& ready = message->ready_;
      ready.root = root.initAsAnyStruct(last_root->data_words, last_root->pointers);
      ready.size = *last_root;
      ready.place = reinterpret_cast<uint64_t*>(message->first_segment());
      ready.pointer = std::exchange(*ready.place, 0);
    }
    block->set_kept(true);
    return message;
  }

  // Makes the next message of this one, arena and root struct included, when it has nothing but the
  // root struct that lay ready, without anything that its pointers could refer to.
  [[gnu::always_inline]] bool ReuseReadyRoot() {
    const StructSize size = ready_.size;
    auto* const words = reinterpret_cast<uint64_t*>(first_segment());
    if (ready_.pointer == 0 || (root_size_ && root_size_ != size)) return false;
    // What was sealed is not changed any more, and is known.
    const SegmentsView segments = sealed_.size() != 0 ? sealed_ : getSegmentsForOutput();
    if (segments.size() != 1 || segments[0].size() != 1u + size.data_words + size.pointers) {
      return false;
    }
    for (size_t i = 0; i < size.pointers; ++i) {
      if (words[1 + size.data_words + i] != 0) return false;
    }
    for (size_t i = 0; i <= size.data_words; ++i) words[i] = 0;
    ready_.place = words;
    last_root_size_ = std::exchange(root_size_, std::nullopt);
    header = {};
    has_body = true;
    may_gather = false;
    next = nullptr;
    size_guess = nullptr;
    segment_source = nullptr;
    extra_ = {};
    extra_block_.reset();
    table_block_.reset();
    sealed_ = nullptr;
    return true;
  }

  // Destroys this message, and makes a new one in its place when the block keeps its content.
  [[gnu::noinline]] void Remake() {
    ClearUsedWords();
    if (further_segments_ != nullptr) further_segments_->Drop(getSegmentsForOutput());
    Buffer* const block = block_;
    const bool keeps = block->kept();
    const auto last_root = root_size_;
    const auto before = last_root_size_;
    this->~HeapMessage();
    if (keeps) MakeReady(block, last_root, before);
  }

  std::byte* first_segment() const { return block_->data() + BufferPool::kZeroedFrom; }

  void ClearUsedWords() {
    // Memory that is not ours may stand between them (Orphanage::referenceExternalData).
    const SegmentsView segments = getSegmentsForOutput();
    if (first_in_block_ && segments.size() != 0) {
      BufferPool::Clear(first_segment(), segments[0].size() * kWordBytes);
    }
    further_.Clear(segments);
  }

  Buffer* const block_;                       // of which this object is a part
  std::optional<StructSize> last_root_size_;  // of the message that was here before
  bool first_taken_ = false;
  bool first_in_block_ = false;
  std::span<std::byte> extra_;
  BufferRef extra_block_;
  BufferRef table_block_;
  PrivateSegments further_;  // after the first
  SegmentsView sealed_;
  std::array<uint32_t, 16> small_table_;
};
static_assert(sizeof(HeapMessage) + kRoomBytes <= BufferPool::kZeroedFrom);
// What a small message holds: the words of the first segment in the smallest block.
constexpr size_t kSmallBytesMax = BufferPool::kKeptBytes - BufferPool::kZeroedFrom - kWordBytes;
static_assert(alignof(HeapMessage) <= 64);

HeapMessage& Downcast(MessageBody& message) {
  MI7_CHECK(message.is_heap(), "a message of another kind of memory is copied first");
  return static_cast<HeapMessage&>(message);
}

}  // namespace

SegmentsView MessageBody::Segments() {
  if (!has_body) return nullptr;
  SegmentsView segments = getSegmentsForOutput();
  if (segments.size() == 0) [[unlikely]] {
    getRoot<capnp::AnyPointer>();  // allocates the root pointer, which stays null
    segments = getSegmentsForOutput();
  }
  return segments;
}

OutgoingMessage CopyToHeap(MessageBody& message) {
  OutgoingMessage copy = NewHeapMessage(MessageBytes(message));
  copy->header = message.header;
  copy->SetExtra(message.extra());
  copy->has_body = message.has_body;
  copy->may_gather = message.may_gather;
  if (message.has_body) copy->setRoot(message.getRoot<capnp::AnyPointer>().asReader());
  return copy;
}

size_t MessageBody::BytesInUse() {
  size_t bytes = 0;
  for (const Segment& segment : Segments()) bytes += segment.size() * kWordBytes;
  return bytes;
}

bool IsSole(const MessageBody& message) {
  return !message.shared() && (message.further_segments() == nullptr || !message.was_shared_);
}

OutgoingMessage NewHeapMessage(size_t bytes) {
  if (bytes <= kSmallBytesMax) [[likely]]
    return OutgoingMessage(HeapMessage::NewSmall());
  BufferRef block = BufferPool::AllocateZeroed(BufferPool::kZeroedFrom + kWordBytes +
                                               std::min(bytes, kFirstSegmentBytesMax));
  auto* const message = new (block->data()) HeapMessage(block.get());
  static_cast<void>(block.release());
  return OutgoingMessage(message);
}

absl::Status FinishHeapMessage(MessageBody& message, const Limits& limits, PieceList& pieces) {
  HeapMessage& heap = Downcast(message);
  absl::Status sealed = heap.Seal(limits);
  if (sealed.ok()) heap.AppendPieces(heap.sealed(), pieces);
  return sealed;
}

void AppendPieces(MessageBody& message, PieceList& pieces) {
  HeapMessage& heap = Downcast(message);
  MI7_CHECK(heap.header.size >= kFrameHeaderBytes, "AppendPieces is called after SealMessage");
  heap.AppendPieces(heap.sealed(), pieces);
}

kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> SealedSegments(MessageBody& message) {
  return message.is_heap() ? static_cast<HeapMessage&>(message).sealed() : message.Segments();
}

absl::Status SealMessage(MessageBody& message, const Limits& limits) {
  if (message.is_heap()) [[likely]]
    return Downcast(message).Seal(limits);
  return SealHeader(message, message.Segments(), message.extra().size(), limits);
}

size_t MessageBytes(MessageBody& message) {
  return TotalBytes(message.Segments(), message.extra().size());
}

absl::Status ParseMessage(const FrameHeader& header, std::span<const std::byte> rest,
                          Backing* backing, uint64_t cookie, const Limits& limits,
                          IncomingMessage& message) {
  message.reset();
  message.backing_ = backing;  // from here on released on every way out
  message.cookie_ = cookie;
  message.header_ = header;
  MI7_CHECK(header.size >= kFrameHeaderBytes && rest.size() == header.size - kFrameHeaderBytes &&
                header.extra_size <= rest.size() && header.extra_size % kWordBytes == 0 &&
                rest.size() % kWordBytes == 0,
            "ParseMessage is called with a checked header and its bytes");
  MI7_CHECK(reinterpret_cast<uintptr_t>(rest.data()) % kWordBytes == 0, "messages are 8-aligned");
  message.extra_ = rest.first(header.extra_size);
  const std::span<const std::byte> body = rest.subspan(header.extra_size);
  if (body.empty()) return absl::OkStatus();

  const auto table_entry = [body](size_t index) {
    uint32_t value;
    std::memcpy(&value, body.data() + index * sizeof(value), sizeof(value));
    return value;
  };
  const uint64_t count = uint64_t{table_entry(0)} + 1;
  // The usual case: one segment, as long as the body.
  if (count == 1 && body.size() - kOneSegmentTableBytes == uint64_t{table_entry(1)} * kWordBytes)
      [[likely]] {
    message.memory_is_private_ = true;
    message.segment_count_ = 1;
    message.few_segments_[0] = {
        reinterpret_cast<const capnp::word*>(body.data() + kOneSegmentTableBytes), table_entry(1)};
    return absl::OkStatus();
  }
  const auto unusable = [&message](const std::string& why) {
    message.reset();
    return absl::InvalidArgumentError(why);
  };
  if (count > limits.segments_max) {
    return unusable(absl::StrCat("message body has ", count,
                                 " segments, more than limits.segments_max, ",
                                 limits.segments_max));
  }
  const uint64_t table_bytes = TableBytes(count);
  if (table_bytes > body.size()) {
    return unusable(absl::StrCat("message body of ", body.size(),
                                 " bytes cannot hold the table of its ", count, " segments"));
  }
  if (count % 2 == 0 && table_entry(count + 1) != 0) {
    return unusable(
        absl::StrCat("padding of the segment table is ", table_entry(count + 1), ", must be 0"));
  }
  uint64_t total = table_bytes;  // at most 2^32 segments of 2^35 bytes: no overflow
  for (uint64_t i = 0; i < count; ++i) total += uint64_t{table_entry(i + 1)} * kWordBytes;
  if (total != body.size()) {
    return unusable(
        absl::StrCat("segment table adds up to ", total, " bytes, message body has ", body.size()));
  }
  const auto* words = reinterpret_cast<const capnp::word*>(body.data() + table_bytes);
  message.segment_count_ = static_cast<uint32_t>(count);
  Segment* const segments = message.PlaceFor(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t size = table_entry(i + 1);
    segments[i] = {words, size};
    words += size;
  }
  return absl::OkStatus();
}

absl::StatusOr<IncomingMessage> ParseMessage(const FrameHeader& header,
                                             std::span<const std::byte> rest, Backing* backing,
                                             uint64_t cookie, const Limits& limits) {
  IncomingMessage message;
  absl::Status parsed = ParseMessage(header, rest, backing, cookie, limits, message);
  if (!parsed.ok()) return parsed;
  return message;
}

IncomingMessage MakeIncoming(OutgoingMessage&& message) {
  HeapMessage& heap = Downcast(*message);
  const SegmentsView segments = heap.sealed();
  MI7_CHECK(heap.header.size >= kFrameHeaderBytes, "MakeIncoming is called after SealMessage");
  static_cast<void>(message.release());
  if (segments.size() == 1) [[likely]] {
    IncomingMessage incoming(heap.header, heap.extra(), segments[0], &heap, 0);
    if (heap.further_segments() == nullptr) incoming.set_memory_is_private();
    return incoming;
  }
  IncomingMessage incoming;
  incoming.Set(heap.header, heap.extra(), {segments.begin(), segments.size()}, &heap, 0);
  return incoming;
}

}  // namespace mi7::transport
