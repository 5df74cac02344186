// What is done with dead letters. None of it is a step of its own: each is taken, and then
// returned, released or redriven, so whoever dies in the middle of it leaves a dead letter, or a
// message.

#include <utility>

#include "transport/slot_pipe/slot_pipe_impl.h"

namespace mi7 {

using slot_pipe_internal::AboutPipe;
using slot_pipe_internal::Claim;
using slot_pipe_internal::Outcome;

absl::StatusOr<ReadSlot> SlotPipe::TryFetchDeadLetterFrom(uint32_t from) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  Claim claim;
  if (impl_->protocol.FetchDeadLetter(from, claim) != Outcome::kDone) {
    return AboutPipe(name(), SlotPipeError::kNoDeadLetter,
                     absl::UnavailableError(from == 0 ? "it has no dead letters"
                                                      : "it has no more dead letters"));
  }
  // Of somebody who had it before, and whose word it may have again.
  impl_->EndInProgress(claim.slot);
  return AsDeadLetter(impl_->MakeReadSlot(this, claim));
}

ReadSlot SlotPipe::AsDeadLetter(ReadSlot slot) const {
  slot.overwritten_ = !impl_->Sound(slot);
  // A damaged one can be looked at as far as there is something.
  if (slot.size_ > slot_bytes()) slot.size_ = slot_bytes();
  return slot;
}

absl::StatusOr<ReadSlot> SlotPipe::TryFetchDeadLetter() { return TryFetchDeadLetterFrom(0); }

SlotPipe::MessageRange SlotPipe::DeadLetters() {
  return MessageRange(this, Deadline::Infinite(), MessageRange::Of::kDeadLetters);
}

absl::StatusOr<uint32_t> SlotPipe::RedriveDeadLetters() {
  uint32_t redriven = 0;
  MessageRange letters = DeadLetters();
  for (ReadSlot& letter : letters) {
    // Nobody could fetch it: it would only be a dead letter again.
    if (letter.overwritten()) continue;
    if (absl::Status status = letter.Redrive(); !status.ok()) return status;
    ++redriven;
  }
  if (!absl::IsUnavailable(letters.status())) return letters.status();
  return redriven;
}

}  // namespace mi7
