#include "rpc/go_away.h"

#include <algorithm>
#include <cstddef>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include "rpc/message_reader.h"
#include "schema/protocol.capnp.h"

namespace mi7 {
namespace {

// How many ids mi7's clients choose from, where that is the limit of calls in flight.
size_t IdsMax(const Limits& limits) {
  return size_t{limits.calls_in_flight_max} + kControlCallsReserved;
}

}  // namespace

transport::OutgoingMessage NewGoAway() {
  transport::OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = transport::FrameType::kGoAway;
  message->has_body = false;
  return message;
}

transport::OutgoingMessage NewGoAway(std::span<const uint32_t> accepted, const Limits& limits) {
  const auto last = std::max_element(accepted.begin(), accepted.end());
  const uint64_t ids = last == accepted.end() ? 0 : uint64_t{*last} + 1;
  // Whoever chooses the highest id says how long the list is.
  if (ids > IdsMax(limits)) return {};
  // Root pointer, struct and bits, and the table of segments.
  const uint64_t words = 3 + (ids + 63) / 64;
  if ((words + 1) * sizeof(capnp::word) > limits.extra_bytes_max) return {};
  capnp::MallocMessageBuilder builder(static_cast<unsigned>(words));
  auto extra = builder.initRoot<protocol::GoAwayExtra>();
  extra.setNamesAccepted(true);
  auto bits = extra.initAccepted(static_cast<unsigned>((ids + 7) / 8));
  for (const uint32_t id : accepted) bits[id / 8] |= static_cast<uint8_t>(1u << id % 8);
  const auto flat = capnp::messageToFlatArray(builder);
  transport::OutgoingMessage message = NewGoAway();
  message->SetExtra(
      {reinterpret_cast<const std::byte*>(flat.asBytes().begin()), flat.asBytes().size()});
  return message;
}

std::optional<std::vector<uint32_t>> AcceptedIn(const transport::IncomingMessage& message,
                                                const Limits& limits) {
  if (message.extra().empty()) return std::nullopt;
  try {
    const auto words = kj::arrayPtr(reinterpret_cast<const capnp::word*>(message.extra().data()),
                                    message.extra().size() / sizeof(capnp::word));
    if (!CheckSegmentCount(words, limits).ok()) return std::nullopt;
    capnp::FlatArrayMessageReader reader(words, ReaderOptionsFor(words.size(), limits));
    const auto extra = reader.getRoot<protocol::GoAwayExtra>();
    if (!extra.getNamesAccepted()) return std::nullopt;
    const auto bits = extra.getAccepted();
    const size_t ids = std::min(bits.size() * 8, IdsMax(limits));
    std::vector<uint32_t> accepted;
    for (uint32_t id = 0; id < ids; ++id) {
      if ((bits[id / 8] >> id % 8 & 1) != 0) accepted.push_back(id);
    }
    return accepted;
  } catch (const kj::Exception&) {
    return std::nullopt;
  }
}

}  // namespace mi7
