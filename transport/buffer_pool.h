#pragma once

// Pooled, word-aligned, reference-counted memory for messages on transports whose memory is
// private to the process (tcp, inproc).
//
// Why a pool: the first touch of a fresh page costs as much as copying it, so hot buffers are
// handed out again, most recently used first. Each thread keeps a few buffers per size class
// without locking; the rest is shared under a mutex and bounded (kPooledBytesMax). What exceeds the
// bound goes back at once: mapped blocks (kLargeBytes) to the system, smaller ones to the
// allocator, which may keep them for what the process allocates next.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace mi7::transport {

// What keeps the bytes of a received message valid. One implementation a transport.
class Backing {
 public:
  // Gives back one reference; `cookie` is what the transport stored in the IncomingMessage.
  // Called exactly once a message, on any thread.
  virtual void Release(uint64_t cookie) = 0;
  // Bytes that one message keeps from being used again, where that can be much more than the
  // message; 0: it cannot.
  virtual size_t HeldBytes() const { return 0; }

 protected:
  ~Backing() = default;
};

// A block of `capacity()` bytes that starts 64-aligned. Memory is not zeroed.
//
// Thread-safety: references may be taken and dropped on any thread; the bytes are the business of
// their users.
// Memory ordering: dropping a reference releases, the last drop acquires, so that every use of the
// bytes happens before their reuse. Taking one is relaxed: the taker already has one.
class Buffer final : public Backing {
 public:
  std::byte* data() { return reinterpret_cast<std::byte*>(this) + kHeaderBytes; }
  size_t capacity() const { return capacity_; }
  void Ref(uint32_t count = 1) { refs_.fetch_add(count, std::memory_order_relaxed); }
  void Unref();
  // Drops `count` references, none of them the last one.
  void UnrefSome(uint32_t count) { refs_.fetch_sub(count, std::memory_order_release); }
  // True when the caller holds the only reference.
  bool unique() const { return refs_.load(std::memory_order_acquire) == 1; }
  // True when all references are the caller's, which has `count`.
  bool unique(uint32_t count) const { return refs_.load(std::memory_order_acquire) == count; }
  void Release(uint64_t) override { Unref(); }
  size_t HeldBytes() const override { return capacity_; }
  // In a buffer from AllocateKept: whether its last user left something for the next one.
  bool kept() const { return kept_; }
  void set_kept(bool kept) { kept_ = kept; }

 private:
  friend class BufferPoolParts;
  enum class Kind : uint8_t { kPlain, kZeroed, kKept };
  static constexpr size_t kHeaderBytes = 64;
  Buffer(size_t capacity, uint8_t size_class, Kind kind)
      : size_class_(size_class), kind_(kind), capacity_(capacity) {}

  std::atomic<uint32_t> refs_{1};
  const uint8_t size_class_;
  const Kind kind_;
  bool kept_ = false;
  const size_t capacity_;
  Buffer* next_ = nullptr;  // free list
};

// Owning reference to a Buffer; empty when default-constructed or moved from.
class BufferRef {
 public:
  BufferRef() = default;
  // Takes over one reference.
  explicit BufferRef(Buffer* buffer) : buffer_(buffer) {}
  BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef& operator=(BufferRef&& other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef() { reset(); }
  void reset() {
    if (buffer_ != nullptr) std::exchange(buffer_, nullptr)->Unref();
  }
  // A further reference.
  BufferRef Share() const {
    buffer_->Ref();
    return BufferRef(buffer_);
  }
  Buffer* get() const { return buffer_; }
  Buffer* operator->() const { return buffer_; }
  explicit operator bool() const { return buffer_ != nullptr; }
  Buffer* release() { return std::exchange(buffer_, nullptr); }

 private:
  Buffer* buffer_ = nullptr;
};

// The pool. Process-wide and never destroyed, because messages may outlive every connection,
// channel and server. Thread-safe.
class BufferPool {
 public:
  // Bytes kept warm for reuse in the shared part, over all size classes.
  static constexpr size_t kPooledBytesMax = 256u << 20;

  // Blocks larger than this are mapped one by one.
  static constexpr size_t kLargeBytes = 128u << 10;
  // In a buffer from AllocateZeroed, the bytes from this offset of data() on are zero.
  static constexpr size_t kZeroedFrom = 832;

  // A buffer of at least `bytes` bytes. Sizes up to kLargeBytes come in powers of two from 4 KiB,
  // header included; larger ones are rounded up to 1/8 of their power of two and mapped, so that
  // memory a peer announces but never sends is never committed. Up to 1 TiB; out of memory aborts.
  static BufferRef Allocate(size_t bytes);

  // The same for memory in which Cap'n Proto builds, which it wants zeroed: the bytes from
  // kZeroedFrom on are zero. The user must clear what it wrote there before it drops the last
  // reference, so that only dirty words are ever cleared and a small message in a large buffer
  // costs little.
  static BufferRef AllocateZeroed(size_t bytes);

  // A buffer of kKeptBytes whose content stays as it was while it is in the pool, so that what is
  // expensive to make can be made when nobody waits and found again: an object whose destructor
  // need not run, because the pool gives memory back to the system without asking. Buffer::kept()
  // says whether there is anything; a new buffer is zeroed.
  static BufferRef AllocateKept();
  static constexpr size_t kKeptBytes = 4096 - 64;

  // Clears bytes of a buffer from AllocateZeroed for its next user. Very large ranges are given
  // back to the system, which hands out zeroed pages when they are used again.
  static void Clear(std::byte* data, size_t bytes);

  // Gives back everything that is pooled (this thread's part and the shared part) to the system.
  static void Trim();
};

}  // namespace mi7::transport
