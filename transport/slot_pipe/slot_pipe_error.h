#pragma once

// SlotPipeError: what exactly went wrong, for programs. A status of a slot pipe has a code, which
// says how to react, a text for people, and this, which tells apart what has the same code:
//
//   auto pipe = mi7::SlotPipe::Connect("orders");
//   if (mi7::SlotPipeErrorOf(pipe.status()) == mi7::SlotPipeError::kVersionMismatch) ...

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mi7 {

// The errors of all functions of a slot pipe, each with the code that its status has.
enum class SlotPipeError : uint8_t {
  kNone,  // OK, or a status that is not of a slot pipe

  // --- To make, find and remove a pipe.
  kNoSuchPipe,            // NOT_FOUND
  kExists,                // ALREADY_EXISTS
  kNameInvalid,           // INVALID_ARGUMENT
  kOptionsInvalid,        // INVALID_ARGUMENT: a number of PipeOptions is not within its bounds
  kGeometryMismatch,      // FAILED_PRECONDITION: the existing pipe has other options
  kVersionMismatch,       // FAILED_PRECONDITION: it was made by another version of mi7
  kPermissionDenied,      // PERMISSION_DENIED
  kUnsafeFile,            // FAILED_PRECONDITION: the file or its directory is open to others
  kParticipantTableFull,  // RESOURCE_EXHAUSTED
  kTmpfsFull,             // RESOURCE_EXHAUSTED: no room for a new pipe
  kSystemLimit,           // RESOURCE_EXHAUSTED: descriptors, memory or RLIMIT_FSIZE of this process
  kInUse,                 // FAILED_PRECONDITION: somebody takes part in what is to be removed
  kBeingRemoved,          // ABORTED: by somebody who has stopped in the middle of that
  kSystem,                // any: the system refuses something that it should permit, see the text

  // --- To use it.
  kPipeFull,         // RESOURCE_EXHAUSTED, or DEADLINE_EXCEEDED after a wait: no empty slot
  kPipeEmpty,        // UNAVAILABLE, or DEADLINE_EXCEEDED after a wait: no message
  kNoDeadLetter,     // UNAVAILABLE
  kMessageTooLarge,  // INVALID_ARGUMENT: for a slot
  kNotCapnp,         // INVALID_ARGUMENT: a message is no sound Cap'n Proto message
  kNoSuchSlot,       // INVALID_ARGUMENT
  kWrongSlotState,   // FAILED_PRECONDITION: the slot is not ours to do that (any more)
  kRingFull,         // RESOURCE_EXHAUSTED: duplicates of many crashes fill the ring; fetch first
  kCancelled,        // CANCELLED: SlotPipe::Cancel was called
  kForked,           // FAILED_PRECONDITION: this process is a fork of the one that connected
  kDamaged,          // DATA_LOSS: the file or the shared memory contradicts itself
  kOverwritten,      // DATA_LOSS: one message was overwritten, which is a dead letter now
};

// kNone when `status` is not of a slot pipe. Whoever gives it another text has to take its payloads
// along (absl::Status::ForEachPayload).
SlotPipeError SlotPipeErrorOf(const absl::Status& status);

// "no such pipe", "version mismatch"; "" for kNone.
absl::string_view SlotPipeErrorName(SlotPipeError error);

namespace slot_pipe_internal {

// `status`, which is not OK, as this error; it keeps one that it has.
absl::Status WithError(SlotPipeError error, absl::Status status);

// "slot pipe 'NAME': " and what went wrong, with the code and the error of `status`.
absl::Status AboutPipe(absl::string_view name, const absl::Status& status);
inline absl::Status AboutPipe(absl::string_view name, SlotPipeError error,
                              const absl::Status& status) {
  return WithError(error, AboutPipe(name, status));
}

}  // namespace slot_pipe_internal
}  // namespace mi7
