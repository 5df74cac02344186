#pragma once

// A receiver without sockets: what a connection does with the bytes of a peer, for tests that feed
// it with anything at all.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/limits.h"
#include "transport/frame.h"
#include "transport/message.h"

namespace mi7::fuzz {

// What became of one thing in a stream.
struct Outcome {
  enum Kind : uint8_t { kOpening, kHello, kMessage, kRejected, kBroken, kClosed };
  Kind kind;
  transport::FrameHeader header;  // zero for kOpening and kBroken
  absl::StatusCode code = absl::StatusCode::kOk;

  friend bool operator==(const Outcome& a, const Outcome& b);
};

// Receives `stream` as a server does: the opening, a Hello, then messages, until the stream ends or
// breaks. `piece` says how many bytes arrive at a time, given how many are left; at least 1.
// Aborts when something is kept that must not be: more memory than the limits allow, or a message
// whose bytes change while it is held.
std::vector<Outcome> ReceiveStream(std::span<const uint8_t> stream, const Limits& limits,
                                   const std::function<size_t(size_t left)>& piece);

// Reads all of a received message as rpc and a handler would, with the limits for readers: every
// pointer of the body followed, copied and printed, and the extra part decoded. Malformed parts are
// skipped as they are found. Returns the bytes of text and data that were seen.
size_t ReadWhole(const transport::IncomingMessage& message, const Limits& limits);

}  // namespace mi7::fuzz
