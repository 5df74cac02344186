#include "transport/frame_assembler.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "transport/frame.h"

namespace mi7::transport {

std::span<std::byte> FrameAssembler::Space() {
  if (skip_ != 0) [[unlikely]]
    return SpaceToSkip();
  if (buffer_ && begin_ == end_ && buffer_->capacity() < chunk_bytes()) {
    DropBuffer();  // more comes than it is good for
  }
  if (!buffer_) {
    buffer_ = BufferPool::Allocate(std::max<size_t>(chunk_bytes(), frame_bytes_));
    begin_ = end_ = 0;
  }
  if (begin_ == end_ && end_ != 0 && unique()) begin_ = end_ = 0;
  // Room that the message at begin_ needs; for an unknown one enough for many small messages.
  const size_t whole = std::max<size_t>(frame_bytes_, kFrameHeaderBytes);
  const size_t capacity = buffer_->capacity();
  const bool fits = capacity - begin_ >= whole;
  const bool roomy = frame_bytes_ != 0 || capacity - end_ >= RoomMin(capacity);
  if (!fits || !roomy) {
    if (begin_ != 0 && capacity >= whole + RoomMin(capacity) && unique()) {
      std::memmove(buffer_->data(), buffer_->data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    } else {
      MoveTo(BufferPool::Allocate(std::max(chunk_bytes(), whole)));
    }
  }
  // A large message's buffer is for that message alone, which may be kept for long.
  const size_t limit = frame_bytes_ > kChunkBytes ? begin_ + frame_bytes_ : buffer_->capacity();
  MI7_CHECK(limit > end_, "there is always room to receive into");
  return {buffer_->data() + end_, limit - end_};
}

void FrameAssembler::Filled(size_t bytes) {
  end_ += bytes;
  if (end_ == buffer_->capacity()) {
    small_reads_ = 0;  // there may well be more
  } else if (bytes > kSmallReadBytes) {
    small_reads_ = std::min<uint8_t>(small_reads_, kSmallReads / 2);
  } else if (small_reads_ < kSmallReads) {
    ++small_reads_;
  }
}

std::span<std::byte> FrameAssembler::SpaceToSkip() {
  // What is skipped is overwritten by the next bytes, unless messages before it are still kept.
  if (!buffer_ || !unique()) {
    DropBuffer();
    buffer_ = BufferPool::Allocate(kChunkBytes);
  }
  // So that the message after it is 8-aligned.
  begin_ = end_ = (8 - skip_ % 8) % 8;
  return {buffer_->data() + end_, buffer_->capacity() - end_};
}

void FrameAssembler::MoveTo(BufferRef buffer) {
  const size_t held = end_ - begin_;
  std::memcpy(buffer->data(), buffer_->data() + begin_, held);
  DropBuffer();
  buffer_ = std::move(buffer);
  begin_ = 0;
  end_ = held;
}

void FrameAssembler::TakeReference(size_t message_bytes) {
  if (prepaid_ == 0) {
    constexpr size_t kMax = 64;
    const size_t count = 1 + std::min(kMax, (end_ - begin_) / message_bytes);
    buffer_->Ref(static_cast<uint32_t>(count));
    prepaid_ = static_cast<uint16_t>(count);
  }
  --prepaid_;
}

FrameAssembler::Result FrameAssembler::Next(Received& received) {
  if (skip_ != 0) [[unlikely]] {
    const size_t dropped = std::min<size_t>(skip_, end_ - begin_);
    begin_ += dropped;
    skip_ -= static_cast<uint32_t>(dropped);
    if (skip_ != 0) return Result::kNeedMore;
  }
  if (end_ - begin_ < kFrameHeaderBytes) return Result::kNeedMore;
  const std::byte* const start = buffer_->data() + begin_;
  FrameHeader header;
  std::memcpy(&header, start, sizeof(header));
  if (frame_bytes_ == 0) {
    if (!IsPlainCallOrReturn(header, *limits_)) {
      received.status = CheckFrameHeader(header, *limits_);
      if (!received.status.ok()) [[unlikely]] {
        if (!absl::IsResourceExhausted(received.status)) return Result::kBroken;
        received.rejected = header;
        const size_t dropped = std::min<size_t>(header.size, end_ - begin_);
        begin_ += dropped;
        skip_ = header.size - static_cast<uint32_t>(dropped);
        return Result::kRejected;
      }
    }
    frame_bytes_ = header.size;
  }
  if (end_ - begin_ < frame_bytes_) return Result::kNeedMore;
  begin_ += frame_bytes_;
  frame_bytes_ = 0;
  Buffer* const backing = buffer_.get();
  if (header.size > kChunkBytes) {
    if (prepaid_ != 0) buffer_->UnrefSome(std::exchange(prepaid_, 0));
    static_cast<void>(buffer_.release());  // was for this message alone
    begin_ = end_ = 0;
  } else {
    TakeReference(header.size);
  }
  absl::Status parsed =
      ParseMessage(header, {start + kFrameHeaderBytes, header.size - kFrameHeaderBytes}, backing, 0,
                   *limits_, received.message);
  if (!parsed.ok()) [[unlikely]] {
    received.rejected = header;
    received.status = std::move(parsed);
    return Result::kRejected;
  }
  return Result::kMessage;
}

void FrameAssembler::ReleaseIdle() {
  if (!buffer_ || begin_ != end_) return;
  DropBuffer();
  begin_ = end_ = 0;
}

}  // namespace mi7::transport
