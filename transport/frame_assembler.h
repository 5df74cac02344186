#pragma once

// FrameAssembler: turns received bytes into messages, in the memory they were received into.
//
//   for (;;) {
//     std::span<std::byte> space = assembler.Space();
//     assembler.Filled(read(fd, space.data(), space.size()));
//     while ((what = assembler.Next(received)) != kNeedMore) ...
//     assembler.ReleaseIdle();                          // before a wait that may be long
//   }
//
// Buffers hold many messages, each a view with a reference. They are kChunkBytes while much
// arrives, and kSmallChunkBytes while messages come alone, so that a message that is kept for long
// pins little. The part of a message at a buffer's end moves to the next buffer; a message larger
// than a buffer gets one of its own size, after its header was checked against the limits, and is
// received straight into it. Such memory is mapped lazily: bytes that a peer announces and never
// sends cost nothing.
//
// Knows nothing of sockets, so that tests and fuzzers feed it.

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "base/limits.h"
#include "transport/buffer_pool.h"
#include "transport/message.h"

namespace mi7::transport {

// Not thread-safe. 56 bytes; no buffer when idle.
class FrameAssembler {
 public:
  // Usable bytes of an ordinary buffer: with its header one of the pool's 64 KiB blocks.
  static constexpr size_t kChunkBytes = (64u << 10) - 64;
  static constexpr size_t kSmallChunkBytes = (4u << 10) - 64;

  // `limits` must outlive the assembler, or be replaced.
  explicit FrameAssembler(const Limits* limits) : limits_(limits) {}
  FrameAssembler(FrameAssembler&& other) noexcept
      : buffer_(std::move(other.buffer_)),
        begin_(other.begin_),
        end_(other.end_),
        frame_bytes_(other.frame_bytes_),
        skip_(other.skip_),
        prepaid_(std::exchange(other.prepaid_, 0)),
        small_reads_(other.small_reads_),
        limits_(other.limits_) {}
  FrameAssembler& operator=(FrameAssembler&& other) noexcept {
    if (this == &other) return *this;
    this->~FrameAssembler();
    return *new (this) FrameAssembler(std::move(other));
  }
  ~FrameAssembler() { DropBuffer(); }

  void set_limits(const Limits* limits) { limits_ = limits; }

  // Where the next bytes are to be received; never empty. Valid until the next call of anything.
  std::span<std::byte> Space();
  // `bytes` were received at the start of the last Space().
  void Filled(size_t bytes);

  enum class Result {
    kNeedMore,  // no whole message is at hand
    kMessage,   // `message`
    kRejected,  // `rejected` cannot be used because of `status`; the stream goes on
    kBroken,    // `status` says what is wrong with the stream; nothing after it can be trusted
  };
  struct Received {
    IncomingMessage message;
    FrameHeader rejected;
    absl::Status status;
  };
  // The next thing in the stream. Call until kNeedMore or kBroken.
  Result Next(Received& received);

  // Gives the buffer back unless a part of a message is in it. Messages that are still kept hold it
  // until they are released.
  void ReleaseIdle();

  // Whether the rest of a rejected message is still to come, to be dropped.
  bool skips() const { return skip_ != 0; }
  // Whether the stream is between two messages, where it may end in order.
  bool AtBoundary() const { return begin_ == end_ && skip_ == 0; }
  // Whether it holds memory.
  bool holds_buffer() const { return static_cast<bool>(buffer_); }
  // Bytes that were received and not yet taken by Next.
  size_t buffered_bytes() const { return end_ - begin_; }
  // Bytes of the message at hand, or of what is left to drop of a rejected one; 0 when unknown.
  size_t message_bytes() const { return skip_ != 0 ? skip_ : frame_bytes_; }
  // Bytes that the message at hand still needs, 0 when unknown.
  size_t missing_bytes() const {
    return frame_bytes_ > end_ - begin_ ? frame_bytes_ - (end_ - begin_) : 0;
  }

 private:
  // A read into less room than this costs more than moving on to the next buffer.
  static constexpr size_t RoomMin(size_t capacity) {
    return capacity < kChunkBytes / 2 ? 1024 : 4096;
  }
  // So many small reads in a row make the next buffer a small one.
  static constexpr uint8_t kSmallReads = 16;
  static constexpr size_t kSmallReadBytes = 2048;
  size_t chunk_bytes() const { return small_reads_ < kSmallReads ? kChunkBytes : kSmallChunkBytes; }

  std::span<std::byte> SpaceToSkip();
  void MoveTo(BufferRef buffer);
  // Ends our use of the buffer; messages may still hold it.
  void DropBuffer() {
    if (prepaid_ != 0) buffer_->UnrefSome(std::exchange(prepaid_, 0));
    buffer_.reset();
  }
  // Whether no message holds the buffer.
  bool unique() const { return buffer_->unique(1u + prepaid_); }
  // A reference of the buffer for a message of `message_bytes`, whose end is at begin_; at once
  // those for more of its kind that are there already.
  void TakeReference(size_t message_bytes);

  BufferRef buffer_;
  size_t begin_ = 0;          // of what is not taken yet
  size_t end_ = 0;            // of what was received
  uint32_t frame_bytes_ = 0;  // size of the message at begin_ once its header is checked, else 0
  uint32_t skip_ = 0;         // bytes of a rejected message still to be dropped
  // References of the buffer that were taken together, for messages that were not parsed yet.
  uint16_t prepaid_ = 0;
  uint8_t small_reads_ = kSmallReads;
  const Limits* limits_;
};

}  // namespace mi7::transport
