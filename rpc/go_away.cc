#include "rpc/go_away.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include "rpc/message_reader.h"
#include "schema/protocol.capnp.h"

namespace mi7 {

transport::OutgoingMessage NewGoAway() {
  transport::OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = transport::FrameType::kGoAway;
  message->has_body = false;
  return message;
}

transport::OutgoingMessage NewGoAway(std::span<const uint32_t> accepted) {
  // With room for root pointer, struct and list.
  capnp::MallocMessageBuilder builder(static_cast<unsigned>(3 + (accepted.size() + 1) / 2));
  auto extra = builder.initRoot<protocol::GoAwayExtra>();
  extra.setNamesAccepted(true);
  auto list = extra.initAccepted(static_cast<unsigned>(accepted.size()));
  for (size_t i = 0; i < accepted.size(); ++i) list.set(static_cast<unsigned>(i), accepted[i]);
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
    const auto list = extra.getAccepted();
    // Each of its elements lies in the message: said again, since memory is taken by their number.
    if (list.size() > message.extra().size() / sizeof(uint32_t)) return std::nullopt;
    std::vector<uint32_t> accepted;
    accepted.reserve(list.size());
    for (const uint32_t id : list) accepted.push_back(id);
    return accepted;
  } catch (const kj::Exception&) {
    return std::nullopt;
  }
}

}  // namespace mi7
