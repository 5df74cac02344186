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
// One that names the calls that were accepted, with a bit for each id up to the highest: 8 KiB for
// those that mi7's clients choose, below Limits::calls_in_flight_max and kControlCallsReserved.
// Empty: there are others, or it would be larger than Limits::extra_bytes_max.
transport::OutgoingMessage NewGoAway(std::span<const uint32_t> accepted, const Limits& limits = {});

// The ids that a received GoAway names, in their order, also those that nobody has; none from
// Limits::calls_in_flight_max and kControlCallsReserved on, which no call has. nullopt: it says
// nothing of calls, or is malformed, which is the same. Never throws.
std::optional<std::vector<uint32_t>> AcceptedIn(const transport::IncomingMessage& message,
                                                const Limits& limits);

}  // namespace mi7
