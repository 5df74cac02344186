#pragma once

// What a GoAway says of calls: GoAwayExtra (schema/protocol.capnp) in its extra part.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/limits.h"
#include "transport/message.h"

namespace mi7 {

// A GoAway that says nothing of calls.
transport::OutgoingMessage NewGoAway();
// One that names the calls that were accepted. More than fit Limits::extra_bytes_max cannot be
// sent.
transport::OutgoingMessage NewGoAway(std::span<const uint32_t> accepted);

// What a received GoAway names, as it stands there: in any order, and with ids that nobody has.
// nullopt: it says nothing of calls, or is malformed, which is the same. Takes no more memory than
// the message has. Never throws.
std::optional<std::vector<uint32_t>> AcceptedIn(const transport::IncomingMessage& message,
                                                const Limits& limits);

}  // namespace mi7
