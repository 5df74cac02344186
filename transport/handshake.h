#pragma once

// The first bytes of a byte-stream connection, and its last message (docs/WIRE.md).
//
//   client                                    server
//     opening, Hello              ->
//                                 <-          opening, Hello        (or opening, kClose)
//     calls ...                   ->
//
// The opening is 8 bytes: D7 6D 69 37 ("\xD7mi7"), the major version of the wire format, three zero
// bytes. It can be no Cap'n Proto segment table (that would announce 929,656,280 segments), no HTTP
// and no TLS, so a port can serve these too. It is followed by a kHello message, whose body is
// protocol.capnp's Hello.
//
// Knows nothing of sockets, so that tests and fuzzers feed it. Thread-safe: functions only.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/limits.h"
#include "transport/connection.h"
#include "transport/instance_id.h"
#include "transport/message.h"

namespace mi7::transport {

inline constexpr size_t kOpeningBytes = 8;
inline constexpr uint8_t kWireMajor = 1;
inline constexpr std::array<uint8_t, kOpeningBytes> kOpening = {0xD7,       'm', 'i', '7',
                                                                kWireMajor, 0,   0,   0};
// The protocol versions that this code speaks.
inline constexpr uint16_t kVersionMin = 1;
inline constexpr uint16_t kVersionMax = 1;

// Largest message that is read before the handshake is done.
inline constexpr uint32_t kHelloBytesMax = 4096;

// Checks the first 0 to 8 bytes that the peer sent, as far as they go: a peer that speaks something
// else is recognized by its first wrong byte.
// FAILED_PRECONDITION, naming what the peer seems to speak and its bytes: not mi7.
// FAILED_PRECONDITION, naming both versions: mi7, but another major version of the wire format.
absl::Status CheckOpening(std::span<const std::byte> received);

// Whether these are the first bytes of a mi7 connection of any version, to which an answer in mi7
// makes sense.
bool IsMi7(std::span<const std::byte> received);

// Bit of Negotiated::features: the connection goes on over shared memory (protocol.capnp).
inline constexpr uint64_t kFeatureSharedMemory = 1;
// What a server tells of why it takes no shared memory is cut to so many bytes.
inline constexpr size_t kLocalRefusalBytesMax = 256;

// Our Hello. `instance_id`, `local_refusal`: see protocol.capnp; may be empty.
OutgoingMessage MakeHello(const Limits& limits, std::span<const std::byte> instance_id,
                          uint64_t features = 0, absl::string_view local_refusal = {});

// What a Hello says. The connection keeps the first part only; its `features` are all that the peer
// sent.
struct PeerHello : Negotiated {
  InstanceId instance_id;     // zero when the peer gave none
  std::string local_refusal;  // printable; empty when the peer gave none
};

// Reads the peer's first message. INVALID_ARGUMENT: it is no sound Hello. FAILED_PRECONDITION,
// naming both ranges: no common version. When it is a kClose: what ReadClose says.
absl::StatusOr<PeerHello> ReadHello(const IncomingMessage& message);

// A message that tells the peer why the connection ends; `why` is not OK.
OutgoingMessage MakeClose(const absl::Status& why);

// The status in a kClose message, never OK, its text prefixed with "peer closed: ". A kClose whose
// ErrorInfo cannot be read still has its code.
absl::Status ReadClose(const IncomingMessage& message);

}  // namespace mi7::transport
