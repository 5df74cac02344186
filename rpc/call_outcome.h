#pragma once

// What is known about a call that failed: whether it can have run.
//
// mi7 runs a call at most once, unless its method or its options say that more does no harm
// ($Mi7.idempotent, Repeat::kIdempotent). When a connection is lost the caller learns as much as
// can be known, and only what is certain not to have run may be repeated without thought.

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mi7 {

// From what is certain to what is not.
enum class CallOutcome {
  // The handler, or the server for it, answered with this status.
  kAnswered,
  // No byte of the request left this process.
  kNotSent,
  // The server guarantees that it did not begin to run the call.
  kRefused,
  // The request, or a part of it, left; no answer came. The call may have run.
  kUnknown,
};

// The outcome recorded in a failed call's status; kAnswered for any other status.
CallOutcome OutcomeOf(const absl::Status& status);

// Returns `status` with the outcome recorded: as a payload for programs, and at the end of the
// message for people ("...; the call was not sent").
absl::Status WithOutcome(const absl::Status& status, CallOutcome outcome);

// Inverse of WithOutcome: `status` as it was, for a status that is passed on to somebody whose own
// call it says nothing about.
absl::Status WithoutOutcome(const absl::Status& status);

// The type URL of the payload that carries the outcome. Never sent to a peer.
inline constexpr absl::string_view kOutcomePayload = "mi7/call-outcome";

}  // namespace mi7
