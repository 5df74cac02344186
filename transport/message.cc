#include "transport/message.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include <capnp/any.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"

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

// A larger hint is only a hint: the rest comes in further segments.
constexpr size_t kFirstSegmentBytesMax = 1u << 30;

constexpr size_t TableBytes(size_t segment_count) { return (segment_count / 2 + 1) * kWordBytes; }

// One block of pooled, zeroed memory:
//
//   Buffer | HeapMessage | ... | room (256): ... header extra table | first segment
//                                                                   ^ data() + kZeroedFrom
//
// The first segment is zero when the block comes from the pool, and is cleared as far as it was
// used before it goes back: a message pays for the words it used, not for those it might have.
class HeapMessage final : public MessageBody, public Backing {
 public:
  explicit HeapMessage(Buffer* block) : block_(block) {}
  ~HeapMessage() = default;

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
    ClearUsedWords();
    Buffer* const block = block_;
    this->~HeapMessage();
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
    const size_t bytes = std::max(size_t{minimum_words} * kWordBytes,
                                  std::min(allocated_bytes_, kFirstSegmentBytesMax));
    further_.push_back(BufferPool::AllocateZeroed(BufferPool::kZeroedFrom + bytes));
    Buffer* const buffer = further_.back().get();
    const size_t words = (buffer->capacity() - BufferPool::kZeroedFrom) / kWordBytes;
    allocated_bytes_ += words * kWordBytes;
    return {reinterpret_cast<capnp::word*>(buffer->data() + BufferPool::kZeroedFrom), words};
  }

  // The body's segments; empty when it has none.
  SegmentsView Segments() {
    if (!has_body) return nullptr;
    SegmentsView segments = getSegmentsForOutput();
    if (segments.size() == 0) [[unlikely]] {
      getRoot<capnp::AnyPointer>();  // allocates the root pointer, which stays null
      segments = getSegmentsForOutput();
    }
    return segments;
  }

  void SealHeader(size_t total_bytes) {
    header.size = static_cast<uint32_t>(total_bytes);
    header.extra_size = static_cast<uint32_t>(extra_.size());
    MI7_CHECK(KeepsRules(header), "a message header breaks the rules of transport/frame.h");
  }

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
  static bool KeepsRules(const FrameHeader& header) {
    static constexpr Limits kUnlimited = {.message_bytes_max = UINT32_MAX,
                                          .extra_bytes_max = UINT32_MAX};
    return IsPlainCallOrReturn(header, kUnlimited) || CheckFrameHeader(header, kUnlimited).ok();
  }

  std::byte* first_segment() const { return block_->data() + BufferPool::kZeroedFrom; }

  void ClearUsedWords() {
    // The segments come in the order of allocateSegment, but memory that is not ours may stand
    // between them (Orphanage::referenceExternalData).
    size_t further_index = 0;
    bool first = first_in_block_;
    for (const Segment& segment : getSegmentsForOutput()) {
      std::byte* const start =
          reinterpret_cast<std::byte*>(const_cast<capnp::word*>(segment.begin()));
      if (first && start == first_segment()) {
        first = false;
      } else if (further_index < further_.size() &&
                 start == further_[further_index]->data() + BufferPool::kZeroedFrom) {
        ++further_index;
      } else {
        continue;
      }
      BufferPool::Clear(start, segment.size() * kWordBytes);
    }
  }

  Buffer* const block_;  // of which this object is a part
  bool first_taken_ = false;
  bool first_in_block_ = false;
  size_t allocated_bytes_ = block_->capacity();
  std::span<std::byte> extra_;
  BufferRef extra_block_;
  BufferRef table_block_;
  std::vector<BufferRef> further_;  // segments after the first
  std::array<uint32_t, 16> small_table_;
};
static_assert(sizeof(HeapMessage) + kRoomBytes <= BufferPool::kZeroedFrom);
static_assert(alignof(HeapMessage) <= 64);

struct Measured {
  SegmentsView segments;
  size_t total_bytes;
};

Measured Measure(HeapMessage& message) {
  Measured measured{message.Segments(), kFrameHeaderBytes + message.extra().size()};
  if (measured.segments.size() != 0) {
    measured.total_bytes += TableBytes(measured.segments.size());
    for (const Segment& segment : measured.segments) {
      measured.total_bytes += segment.size() * kWordBytes;
    }
  }
  return measured;
}

absl::Status CheckMeasured(const HeapMessage& message, const Measured& measured,
                           const Limits& limits) {
  if (measured.total_bytes > limits.message_bytes_max) [[unlikely]] {
    return absl::ResourceExhaustedError(absl::StrCat("message of ", measured.total_bytes,
                                                     " bytes exceeds limits.message_bytes_max, ",
                                                     limits.message_bytes_max, " bytes"));
  }
  if (message.extra().size() > limits.extra_bytes_max) [[unlikely]] {
    return absl::ResourceExhaustedError(
        absl::StrCat("extra part (metadata, error details) of ", message.extra().size(),
                     " bytes exceeds limits.extra_bytes_max, ", limits.extra_bytes_max, " bytes"));
  }
  if (measured.segments.size() > limits.segments_max) [[unlikely]] {
    return absl::ResourceExhaustedError(absl::StrCat(
        "message of ", measured.segments.size(), " segments exceeds limits.segments_max, ",
        limits.segments_max, "; reserve it with its expected size, or copy it into a new message"));
  }
  return absl::OkStatus();
}

HeapMessage& Downcast(MessageBody& message) { return static_cast<HeapMessage&>(message); }

}  // namespace

OutgoingMessage NewHeapMessage(size_t bytes) {
  BufferRef block = BufferPool::AllocateZeroed(BufferPool::kZeroedFrom + kWordBytes +
                                               std::min(bytes, kFirstSegmentBytesMax));
  auto* const message = new (block->data()) HeapMessage(block.get());
  static_cast<void>(block.release());
  return OutgoingMessage(message);
}

absl::Status FinishHeapMessage(MessageBody& message, const Limits& limits, PieceList& pieces) {
  HeapMessage& heap = Downcast(message);
  const Measured measured = Measure(heap);
  absl::Status checked = CheckMeasured(heap, measured, limits);
  if (!checked.ok()) return checked;
  heap.SealHeader(measured.total_bytes);
  heap.AppendPieces(measured.segments, pieces);
  return checked;
}

void AppendPieces(MessageBody& message, PieceList& pieces) {
  HeapMessage& heap = Downcast(message);
  MI7_CHECK(heap.header.size >= kFrameHeaderBytes, "AppendPieces is called after SealMessage");
  heap.AppendPieces(heap.Segments(), pieces);
}

absl::Status SealMessage(MessageBody& message, const Limits& limits) {
  HeapMessage& heap = Downcast(message);
  const Measured measured = Measure(heap);
  absl::Status checked = CheckMeasured(heap, measured, limits);
  if (checked.ok()) heap.SealHeader(measured.total_bytes);
  return checked;
}

size_t MessageBytes(MessageBody& message) { return Measure(Downcast(message)).total_bytes; }

absl::StatusOr<IncomingMessage> ParseMessage(const FrameHeader& header,
                                             std::span<const std::byte> rest, Backing* backing,
                                             uint64_t cookie, const Limits& limits) {
  IncomingMessage message;
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
  if (body.empty()) return message;

  const auto table_entry = [body](size_t index) {
    uint32_t value;
    std::memcpy(&value, body.data() + index * sizeof(value), sizeof(value));
    return value;
  };
  const uint64_t count = uint64_t{table_entry(0)} + 1;
  if (count > limits.segments_max) {
    return absl::InvalidArgumentError(absl::StrCat("message body has ", count,
                                                   " segments, more than limits.segments_max, ",
                                                   limits.segments_max));
  }
  const uint64_t table_bytes = TableBytes(count);
  if (table_bytes > body.size()) {
    return absl::InvalidArgumentError(absl::StrCat("message body of ", body.size(),
                                                   " bytes cannot hold the table of its ", count,
                                                   " segments"));
  }
  if (count % 2 == 0 && table_entry(count + 1) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("padding of the segment table is ", table_entry(count + 1), ", must be 0"));
  }
  uint64_t total = table_bytes;  // at most 2^32 segments of 2^35 bytes: no overflow
  for (uint64_t i = 0; i < count; ++i) total += uint64_t{table_entry(i + 1)} * kWordBytes;
  if (total != body.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment table adds up to ", total, " bytes, message body has ", body.size()));
  }
  const auto* words = reinterpret_cast<const capnp::word*>(body.data() + table_bytes);
  message.segment_count_ = static_cast<uint32_t>(count);
  if (count == 1) {
    message.first_segment_ = {words, table_entry(1)};
    return message;
  }
  message.more_segments_ = std::make_unique<Segment[]>(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t size = table_entry(i + 1);
    message.more_segments_[i] = {words, size};
    words += size;
  }
  return message;
}

IncomingMessage MakeIncoming(OutgoingMessage&& message) {
  HeapMessage& heap = Downcast(*message);
  const SegmentsView segments = heap.Segments();
  MI7_CHECK(heap.header.size >= kFrameHeaderBytes, "MakeIncoming is called after SealMessage");
  IncomingMessage incoming;
  incoming.header_ = heap.header;
  incoming.extra_ = heap.extra();
  incoming.segment_count_ = static_cast<uint32_t>(segments.size());
  if (segments.size() == 1) {
    incoming.first_segment_ = segments[0];
  } else if (segments.size() > 1) {
    incoming.more_segments_ = std::make_unique<Segment[]>(segments.size());
    std::copy(segments.begin(), segments.end(), incoming.more_segments_.get());
  }
  incoming.backing_ = &heap;
  static_cast<void>(message.release());
  return incoming;
}

}  // namespace mi7::transport
