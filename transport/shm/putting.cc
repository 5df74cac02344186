// ShmConnection: how a message becomes a record in the ring.

#include <array>
#include <bit>
#include <cstring>
#include <span>

#include "base/check.h"
#include "transport/copy_counter.h"
#include "transport/sealed_message.h"
#include "transport/shm/connection.h"
#include "transport/shm/slot_segments.h"

namespace mi7::transport::shm {
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

  auto count = static_cast<uint32_t>(segments.size() + extra_count);
  // It is in the record itself, if it is the first and there is room, and the extra part with it.
  bool first_inline = false;
  if (apart == segments.begin()) {
    const size_t words = extra.size() / kWordBytes + apart->size() + segments.size();
    first_inline = words <= kRecordWordsMax;
    if (first_inline) count = static_cast<uint32_t>(words);
  }
  if (!writer_.HasRoom(count)) return Put::kNoRoom;
  for (const Slot& slot : slots) {
    const Put announced = AnnounceChunk(slot.size_class, why);
    if (announced != Put::kDone) [[unlikely]]
      return announced;
  }
  Put put{};
  Slot extra_slot;
  if (extra_count != 0 && !first_inline) {
    extra_slot = TakeKnownSlot(extra.size(), put, why);
    if (!extra_slot) return put;
  }
  const uint64_t apart_bytes = apart == nullptr ? 0 : apart->size() * kWordBytes;
  Slot apart_slot;
  if (apart != nullptr && !first_inline) {
    apart_slot = TakeKnownSlot(apart_bytes, put, why);
    if (!apart_slot) {
      if (extra_slot) pool_->PutBack(extra_slot);
      return put;
    }
    std::memcpy(apart_slot.data, apart->begin(), apart_bytes);
    copied_payload_bytes.fetch_add(apart_bytes, std::memory_order_relaxed);
  }
  std::array<uint64_t, kRecordWordsMax> words;
  size_t at = 0;
  if (first_inline) {
    words[at++] = extra.size() / kWordBytes + apart->size();
    if (extra_count != 0) std::memcpy(&words[at], extra.data(), extra.size());
    at += extra.size() / kWordBytes;
    std::memcpy(&words[at], apart->begin(), apart_bytes);
    at += apart->size();
  } else if (extra_count != 0) {
    std::memcpy(extra_slot.data, extra.data(), extra.size());
    words[at++] = std::bit_cast<uint64_t>(DescriptorOf(extra_slot, extra.size()));
  }
  next = 0;
  for (const auto& segment : segments) {
    if (first_inline && &segment == apart) continue;
    const Slot& slot = &segment == apart ? apart_slot : slots[next++];
    words[at++] = std::bit_cast<uint64_t>(DescriptorOf(slot, segment.size() * kWordBytes));
  }
  // Before the record: once it is there, and its answer with it, whoever keeps the message may read
  // its segments, which changes what Cap'n Proto knows of them.
  held->MarkSent(segments, message->shared());
  writer_.Write(message->header, first_inline ? Form::kFirstInline : Form::kSegments,
                {words.data(), at});
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
  pool_->PutBack(slot);
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

}  // namespace mi7::transport::shm
