#pragma once

// What travels in the extra part of calls and returns besides errors (rpc/error_codec.h): metadata
// and trace context, as CallExtra and ReturnExtra of schema/protocol.capnp.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/limits.h"
#include "rpc/metadata.h"
#include "rpc/trace_context.h"
#include "schema/protocol.capnp.h"
#include "transport/message.h"

namespace mi7 {

// What a call says besides its parameters.
struct CallExtra {
  Metadata metadata;
  std::shared_ptr<const TraceContext> trace;  // nullptr: none
  uint32_t previous_attempts = 0;
  std::string request_id;            // at most kRequestIdBytesMax; empty: none
  uint64_t may_have_run_for_us = 0;  // protocol.capnp
};

inline constexpr size_t kRequestIdBytesMax = 64;

// Makes these the extra part of the call `message`; none when there is nothing to say. On failure
// (CheckMetadata's) the message is as it was.
absl::Status EncodeCallExtra(const Metadata& metadata, const TraceContext* trace,
                             uint32_t previous_attempts, const Limits& limits,
                             transport::MessageBody& message, absl::string_view request_id = {},
                             uint64_t may_have_run_for_us = 0);

// Reads the extra part of a received call; nothing when it is absent. A malformed trace context
// counts as none (TraceContext::Parse). INVALID_ARGUMENT: malformed Cap'n Proto, or
// CheckMetadata's; RESOURCE_EXHAUSTED: CheckMetadata's. Never throws; keeps no more than
// limits.extra_bytes_max bytes, however the parts of the message overlap.
absl::Status DecodeCallExtra(const transport::IncomingMessage& message, const Limits& limits,
                             CallExtra& extra);

// The same for what a server sends back with a successful return, or a stream's first message;
// RESOURCE_EXHAUSTED also when the extra part exceeds limits.extra_bytes_max, which for a call the
// connection tells.
absl::Status EncodeResponseMetadata(const ResponseMetadata& metadata, const Limits& limits,
                                    transport::MessageBody& message);
// Of any return; `metadata` is empty on failure.
absl::Status DecodeResponseMetadata(const transport::IncomingMessage& message, const Limits& limits,
                                    ResponseMetadata& metadata);

// CheckMetadata of both.
absl::Status CheckResponseMetadata(const ResponseMetadata& metadata, const Limits& limits);
// Puts checked metadata into a ReturnExtra that may say other things, too.
void WriteResponseMetadata(const ResponseMetadata& metadata, protocol::ReturnExtra::Builder extra);

}  // namespace mi7
