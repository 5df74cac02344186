#pragma once

// absl::Status as it travels: the canonical code in the header, message and details in ErrorInfo
// (schema/protocol.capnp) in the extra part, present only when there is something to say.

#include "absl/status/status.h"
#include "base/limits.h"
#include "transport/message.h"

namespace mi7 {

// Makes `message` the return of a failed call: code, extra, no body. `status` must not be OK.
// What does not fit limits.extra_bytes_max is left out, details first, and the message says so.
void EncodeError(const absl::Status& status, bool refused, const Limits& limits,
                 transport::MessageBody& message);

// The status of a received return whose code is not 0. Codes outside the canonical range become
// UNKNOWN. A malformed extra part gives the code with a message that says so. Never throws.
// A call that the server refused has CallOutcome::kRefused.
absl::Status DecodeError(const transport::IncomingMessage& message, const Limits& limits);

}  // namespace mi7
