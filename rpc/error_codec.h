#pragma once

// absl::Status as it travels: the canonical code in the header, message and details in ErrorInfo
// (schema/protocol.capnp) in the extra part, present only when there is something to say.

#include "absl/status/status.h"
#include "base/limits.h"
#include "rpc/metadata.h"
#include "transport/message.h"

namespace mi7 {

// Makes `message` the return of a failed call: code, extra, no body. `status` must not be OK.
// What does not fit limits.extra_bytes_max is left out, details and metadata first, and the message
// says so; so are details beyond limits.error_details_max, and metadata against the rules.
// `metadata` travels with it; nullptr: none.
void EncodeError(const absl::Status& status, bool refused, const Limits& limits,
                 transport::MessageBody& message, const ResponseMetadata* metadata = nullptr);

// The status of a received return whose code is not 0. Codes outside the canonical range become
// UNKNOWN. A malformed extra part, and more details than limits.error_details_max, give the code
// with a message that says so. Never throws.
// A call that the server refused has CallOutcome::kRefused.
absl::Status DecodeError(const transport::IncomingMessage& message, const Limits& limits);

}  // namespace mi7
