#include "transport/handshake.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "schema/protocol.capnp.h"

namespace mi7::transport {
namespace {

constexpr size_t kMagicBytes = 4;
constexpr absl::string_view kImplementation = "mi7/0.1";
// What is read of a peer's close text.
constexpr size_t kCloseTextMax = 1024;

// What a peer that sent `first` seems to speak.
std::string Guess(absl::string_view first) {
  const auto is = [first](absl::string_view start) {
    const size_t common = std::min(first.size(), start.size());
    return common >= 2 && first.substr(0, common) == start.substr(0, common);
  };
  for (absl::string_view verb : {"GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "OPTIONS ",
                                 "CONNECT ", "PATCH ", "TRACE ", "HTTP/", "PRI * HT"}) {
    if (is(verb)) return "HTTP";
  }
  if (is("SSH-")) return "SSH";
  // A handshake, or the alert with which a TLS server answers what is none.
  if (is(absl::string_view("\x16\x03", 2)) || is(absl::string_view("\x15\x03", 2))) return "TLS";
  if (is(absl::string_view("\0\0\0\0", 4))) return "plain Cap'n Proto RPC";
  return "no mi7";
}

capnp::ReaderOptions SmallReader(size_t bytes) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = bytes / sizeof(capnp::word) * 8 + 64;
  options.nestingLimit = 16;
  return options;
}

}  // namespace

bool IsMi7(std::span<const std::byte> received) {
  return received.size() >= kMagicBytes &&
         std::memcmp(received.data(), kOpening.data(), kMagicBytes) == 0;
}

absl::Status CheckOpening(std::span<const std::byte> received) {
  const size_t magic = std::min(received.size(), kMagicBytes);
  if (std::memcmp(received.data(), kOpening.data(), magic) != 0) {
    const absl::string_view seen(reinterpret_cast<const char*>(received.data()), received.size());
    return absl::FailedPreconditionError(absl::StrCat(
        "peer speaks ", Guess(seen), ": its first bytes are ", absl::BytesToHexString(seen), " (\"",
        absl::CHexEscape(seen), "\"), a mi7 connection begins with d76d6937"));
  }
  if (received.size() <= kMagicBytes) return absl::OkStatus();
  const uint8_t major = static_cast<uint8_t>(received[kMagicBytes]);
  if (major != kWireMajor) {
    return absl::FailedPreconditionError(absl::StrCat(
        "peer speaks version ", major, " of the wire format, this end only version ", kWireMajor));
  }
  for (size_t i = kMagicBytes + 1; i < received.size(); ++i) {
    if (received[i] != std::byte{0}) {
      return absl::FailedPreconditionError(absl::StrCat(
          "byte ", i, " of the peer's opening is ", static_cast<int>(received[i]), ", must be 0"));
    }
  }
  return absl::OkStatus();
}

OutgoingMessage MakeHello(const Limits& limits, std::span<const std::byte> instance_id,
                          uint64_t features, absl::string_view local_refusal) {
  // Larger than it needs: small messages leave their root ready for the next one, which will not be
  // a Hello.
  OutgoingMessage message = NewHeapMessage(kHelloBytesMax);
  message->header.type = FrameType::kHello;
  auto hello = message->initRoot<protocol::Hello>();
  hello.setVersionMin(kVersionMin);
  hello.setVersionMax(kVersionMax);
  hello.setFeatures(features | kFeaturesOfAll);
  hello.setMessageBytesMax(limits.message_bytes_max);
  hello.setCallsInFlightMax(limits.calls_in_flight_max);
  hello.setStreamWindowBytes(limits.stream_window_bytes);
  hello.setImplementation(capnp::Text::Reader(kImplementation.data(), kImplementation.size()));
  if (!instance_id.empty()) {
    hello.setInstanceId(kj::ArrayPtr<const kj::byte>(
        reinterpret_cast<const kj::byte*>(instance_id.data()), instance_id.size()));
  }
  if (!local_refusal.empty()) {
    const std::string text(local_refusal.substr(0, kLocalRefusalBytesMax));
    hello.setLocalRefusal(capnp::Text::Reader(text.c_str(), text.size()));
  }
  return message;
}

absl::StatusOr<PeerHello> ReadHello(const IncomingMessage& message) {
  if (message.header().type == FrameType::kClose) return ReadClose(message);
  if (message.header().type != FrameType::kHello) {
    return absl::InvalidArgumentError(absl::StrCat("peer's first message is of type ",
                                                   static_cast<int>(message.header().type),
                                                   ", must be a hello (1)"));
  }
  if (!message.has_body()) return absl::InvalidArgumentError("peer's hello has no body");
  PeerHello negotiated;
  uint16_t peer_min;
  uint16_t peer_max;
  try {
    const auto segments = message.segments();
    capnp::SegmentArrayMessageReader reader({segments.data(), segments.size()},
                                            SmallReader(message.header().size));
    const auto hello = reader.getRoot<protocol::Hello>();
    peer_min = hello.getVersionMin();
    peer_max = hello.getVersionMax();
    negotiated.features = hello.getFeatures();
    negotiated.message_bytes_max = hello.getMessageBytesMax();
    negotiated.calls_in_flight_max = hello.getCallsInFlightMax();
    negotiated.stream_window_bytes = hello.getStreamWindowBytes();
    if (hello.hasLocalRefusal()) {
      const auto refusal = hello.getLocalRefusal();
      const size_t size = std::min(refusal.size(), kLocalRefusalBytesMax);
      negotiated.local_refusal = absl::CHexEscape(absl::string_view(refusal.begin(), size));
    }
    const auto id = hello.getInstanceId();
    negotiated.instance_id =
        InstanceId::From({reinterpret_cast<const std::byte*>(id.begin()), id.size()});
    negotiated.peer_instance = negotiated.instance_id.Prefix();
  } catch (const kj::Exception& exception) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer's hello is malformed: ", exception.getDescription().cStr()));
  }
  if (peer_min > kVersionMax || peer_max < kVersionMin) {
    return absl::FailedPreconditionError(
        absl::StrFormat("peer speaks protocol versions %d to %d, this end %d to %d", peer_min,
                        peer_max, kVersionMin, kVersionMax));
  }
  negotiated.version = std::min(peer_max, kVersionMax);
  // What every call needs at least; below it the peer is no peer.
  if (negotiated.message_bytes_max < kHelloBytesMax || negotiated.calls_in_flight_max == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "peer's hello accepts messages of ", negotiated.message_bytes_max, " bytes and ",
        negotiated.calls_in_flight_max, " calls, must be at least ", kHelloBytesMax, " and 1"));
  }
  if ((negotiated.features & kFeatureStreams) != 0 && negotiated.stream_window_bytes == 0) {
    return absl::InvalidArgumentError(
        "peer's hello offers streams and accepts 0 bytes of them, must be at least 1");
  }
  return negotiated;
}

OutgoingMessage MakeClose(const absl::Status& why) {
  MI7_CHECK(!why.ok(), "an orderly end needs no close message");
  OutgoingMessage message = NewHeapMessage(0);
  message->header.type = FrameType::kClose;
  message->header.code = static_cast<uint16_t>(why.code());
  message->has_body = false;
  capnp::MallocMessageBuilder builder(64);
  auto info = builder.initRoot<protocol::ErrorInfo>();
  const absl::string_view text = why.message().substr(0, kCloseTextMax);
  info.setMessage(capnp::Text::Reader(std::string(text).c_str(), text.size()));
  const kj::Array<capnp::word> flat = capnp::messageToFlatArray(builder);
  const auto bytes = flat.asBytes();
  message->SetExtra({reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()});
  return message;
}

absl::Status ReadClose(const IncomingMessage& message) {
  // The header was checked: a canonical code.
  absl::StatusCode code = static_cast<absl::StatusCode>(message.header().code);
  if (code == absl::StatusCode::kOk) code = absl::StatusCode::kUnavailable;
  std::string text = "(no reason given)";
  const std::span<const std::byte> extra = message.extra();
  // One segment is all that a close message needs; anything else is not worth reading.
  if (extra.size() >= 8 && extra[0] == std::byte{0} && extra[1] == std::byte{0} &&
      extra[2] == std::byte{0} && extra[3] == std::byte{0}) {
    try {
      capnp::FlatArrayMessageReader reader(
          {reinterpret_cast<const capnp::word*>(extra.data()), extra.size() / sizeof(capnp::word)},
          SmallReader(extra.size()));
      const auto stated = reader.getRoot<protocol::ErrorInfo>().getMessage();
      text.assign(stated.begin(), std::min(stated.size(), kCloseTextMax));
    } catch (const kj::Exception&) {
      text = "(reason unreadable)";
    }
  }
  return absl::Status(code, absl::StrCat("peer closed: ", text));
}

}  // namespace mi7::transport
