#pragma once

// Handles of slots that are ours: WriteSlot, ReadSlot, and SlotRef, their index form.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "transport/slot_pipe/protocol.h"

namespace mi7 {

class SlotPipe;
namespace slot_pipe_internal {
class PipeFile;
}  // namespace slot_pipe_internal

// The states of a slot.
enum class SlotState {
  kEmpty,
  kWriting,     // held
  kReady,       // sent, not fetched
  kReading,     // fetched
  kInProgress,  // held or fetched, and handed to a worker (MarkInProgress)
  kDeadLetter,  // fetched too often, or overwritten
};
// "empty", "writing", "ready", "reading", "in progress", "dead letter".
absl::string_view SlotStateName(SlotState state);

// What a message is: bytes, or a Cap'n Proto message (capnp_slot.h).
using slot_pipe_internal::PayloadKind;

// A slot that this participant has, as a value that can be copied, queued and passed to threads; it
// means something to the SlotPipe object that detached it, and until a handle was made of it or of
// a copy: so a slot is in one pair of hands. Whoever drops it without making a handle of it keeps
// the slot until the participant leaves.
struct SlotRef {
  uint32_t index = 0;
  uint64_t word = 0;    // opaque
  uint64_t serial = 0;  // which Detach it is of; 0: of none, the slot is in its handle
  friend bool operator==(const SlotRef&, const SlotRef&) = default;
};

namespace slot_pipe_internal {

// What the two handles share: which slot of which pipe. Empty after a move.
class Handle {
 public:
  // Whether there is a slot in it.
  explicit operator bool() const { return pipe_ != nullptr; }
  uint32_t index() const { return claim_.slot; }

 protected:
  Handle() = default;
  Handle(SlotPipe* pipe, const Claim& claim, std::byte* payload)
      : pipe_(pipe), claim_(claim), payload_(payload) {}
  Handle(Handle&& other) noexcept
      : pipe_(std::exchange(other.pipe_, nullptr)),
        claim_(other.claim_),
        payload_(other.payload_) {}
  // Names the slot and leaves it in the handle.
  SlotRef ref() const { return {claim_.slot, claim_.word.bits()}; }
  // {} when there is no slot in it.
  SlotRef Detach();

  SlotPipe* pipe_ = nullptr;
  Claim claim_;
  std::byte* payload_ = nullptr;
};

}  // namespace slot_pipe_internal

// An empty slot being written. Given back when it is destroyed without Send. Used by one thread at
// a time; its pipe outlives it.
class WriteSlot : public slot_pipe_internal::Handle {
 public:
  WriteSlot() = default;
  WriteSlot(WriteSlot&& other) noexcept = default;
  WriteSlot& operator=(WriteSlot&& other) noexcept {
    if (this != &other) {
      this->~WriteSlot();
      new (this) WriteSlot(std::move(other));
    }
    return *this;
  }
  ~WriteSlot() {
    if (pipe_ != nullptr) GiveBack().IgnoreError();
  }

  // slot_bytes() bytes, aligned to 64, with whatever the last message left there.
  std::byte* data() const { return payload_; }
  absl::Span<std::byte> span() const;

  // Publishes the first `size` bytes. After OK the handle is empty. On failure the slot stays ours:
  // INVALID_ARGUMENT when `size` is more than a slot has, RESOURCE_EXHAUSTED when duplicates of
  // many crashes fill the ring until somebody fetches, DATA_LOSS, FAILED_PRECONDITION.
  absl::Status Send(size_t size, PayloadKind kind = PayloadKind::kBytes);
  // Copies, then sends.
  absl::Status SendBytes(absl::string_view bytes);
  // Empties it. The handle is empty afterwards.
  absl::Status GiveBack();

  // For MarkInProgress and StateOf, while the slot stays in this handle.
  using Handle::ref;
  // Takes the slot out of the handle, which is empty afterwards.
  using Handle::Detach;

 private:
  friend class SlotPipe;
  friend class AsyncSlotPipe;
  using Handle::Handle;
};

// A message being read in place. Returned, to be fetched again, when it is destroyed without
// Release: what was not said to be done is not done. (Where duplicates of many crashes fill the
// ring then, as soon as there is room.) Used by one thread at a time; its pipe outlives it.
class ReadSlot : public slot_pipe_internal::Handle {
 public:
  ReadSlot() = default;
  ReadSlot(ReadSlot&& other) noexcept = default;
  ReadSlot& operator=(ReadSlot&& other) noexcept {
    if (this != &other) {
      this->~ReadSlot();
      new (this) ReadSlot(std::move(other));
    }
    return *this;
  }
  ~ReadSlot() {
    if (pipe_ != nullptr) Drop();
  }

  const std::byte* data() const { return payload_; }
  size_t size() const { return size_; }
  absl::Span<const std::byte> span() const { return {payload_, size_}; }
  absl::string_view text() const { return {reinterpret_cast<const char*>(payload_), size_}; }
  PayloadKind kind() const { return kind_; }
  // 1 for the first delivery; more for a redelivery: somebody has seen this message before, and may
  // have acted on it. Of a dead letter: how often it was fetched before it was one.
  uint32_t attempt() const { return claim_.word.attempts(); }
  bool redelivered() const { return attempt() > 1; }
  // Of a dead letter: whether it is not what was sent, as far as a checksum (PipeOptions::checksum)
  // or an impossible size tells. What is fetched never is: see SlotPipe::Fetch.
  bool overwritten() const { return overwritten_; }

  // Empties the slot: the message is done. The handle is empty afterwards.
  absl::Status Release();
  // Puts the message back, to be fetched again, by anybody; to the dead letters when it was fetched
  // too often, or was one of them. The handle is empty afterwards, but when RESOURCE_EXHAUSTED (see
  // WriteSlot::Send) or DATA_LOSS.
  absl::Status Return();
  // Return of a message that nobody has looked at: its attempt is not counted. (That of a dead
  // letter never is.)
  absl::Status ReturnUnseen();
  // Of a dead letter: makes it a message again, the last one, with its attempts forgotten. The
  // handle is empty afterwards, with the exceptions of Return.
  absl::Status Redrive();

  // For MarkInProgress and StateOf, while the slot stays in this handle.
  using Handle::ref;
  // Takes the slot out of the handle, which is empty afterwards.
  using Handle::Detach;

 private:
  friend class SlotPipe;
  friend class AsyncSlotPipe;
  ReadSlot(SlotPipe* pipe, const slot_pipe_internal::Claim& claim, std::byte* payload, size_t size,
           PayloadKind kind)
      : Handle(pipe, claim, payload), size_(size), kind_(kind) {}
  template <typename Step>
  absl::Status PutBack(Step step);
  void Drop();

  size_t size_ = 0;
  PayloadKind kind_ = PayloadKind::kBytes;
  bool overwritten_ = false;
};

}  // namespace mi7
