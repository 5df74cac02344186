#pragma once

// The fixed header of every mi7 message and the rules a received one must keep. The layout is the
// same on every transport; docs/WIRE.md specifies it for other languages.
//
//   byte 0        4     5      6        8         12         16            24         28        32
//        +--------+-----+------+--------+---------+----------+-------------+----------+---------+
//        | size   |type |target| code   | call_id | timeout  | interface_id|target_id |extra_   |
//        |        |     |      |        |         |          |             |          |size     |
//        +--------+-----+------+--------+---------+----------+-------------+----------+---------+
//        | extra: a Cap'n Proto message in stream form, extra_size bytes, usually absent        |
//        +-----------------------------------------------------------------------------------+
//        | body: a Cap'n Proto message in stream form (segment table, segments), may be absent |
//        +-----------------------------------------------------------------------------------+
//
// All integers are little-endian. Sizes are in bytes and multiples of 8, so that in a buffer that
// starts 8-aligned every message, and every segment in it, is 8-aligned and read in place.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "absl/status/status.h"
#include "base/limits.h"

namespace mi7::transport {

static_assert(std::endian::native == std::endian::little,
              "mi7's wire structs are read in place and need a little-endian machine");

// What a message is. Values are part of the wire format.
enum class FrameType : uint8_t {
  kHello = 1,   // handshake; body: protocol.capnp Hello
  kCall = 2,    // a request; body: the method's parameter struct
  kReturn = 3,  // the end of a call; code: canonical status; body: results when code is 0
  kCancel = 4,  // the caller no longer wants the answer of call_id; a kReturn still follows
  kGoAway = 5,  // the sender accepts no further calls on this connection; extra: GoAwayExtra
  kClose = 6,   // last message: why the sender closes; code: status, extra: ErrorInfo
  kPing = 7,    // answered with kPong and the same call_id
  kPong = 8,
  // The frames of a stream, which is a call; only with the feature "streams" in force.
  kStreamMessage = 9,  // one message of it; code: its direction; body: parameters or results
  kStreamEnd = 10,     // the caller sends no further messages; the callee's end is the kReturn
  kCredit = 11,  // code: the direction of the messages that may follow; timeout: bytes of them
};

// Whether it concerns a stream that is open.
constexpr bool IsStreamFrame(FrameType type) {
  return type >= FrameType::kStreamMessage && type <= FrameType::kCredit;
}

// Which way the messages of a stream go. Values are part of the wire format.
enum class StreamDirection : uint16_t {
  kToCallee = 0,
  kToCaller = 1,
};

// What a call is addressed to. Values are part of the wire format.
enum class TargetKind : uint8_t {
  kNone = 0,            // every message but kCall
  kService = 1,         // target_id: service key (see ServiceKey in rpc/interface_info.h)
  kCapability = 2,      // target_id: the receiver's export id (reserved for capabilities)
  kPromisedAnswer = 3,  // target_id: call id of an earlier call (reserved for pipelining)
};

// The 32 bytes before every message. Fields that a type does not use are zero, and are checked.
struct FrameHeader {
  uint32_t size = 0;          // of the whole message, this header included
  FrameType type{};           //
  TargetKind target{};        // kCall
  uint16_t code = 0;          // kCall: method ordinal; kReturn, kClose: canonical status code;
                              // kStreamMessage, kCredit: StreamDirection
  uint32_t call_id = 0;       // all but kHello, kGoAway, kClose
  uint32_t timeout = 0;       // kCall: remaining time, see EncodeTimeout; 0: no deadline;
                              // kCredit: bytes granted
  uint64_t interface_id = 0;  // kCall: the interface that declares the method
  uint32_t target_id = 0;     // kCall: depends on `target`
  uint32_t extra_size = 0;    // bytes of the extra part, 0 when absent
};
static_assert(std::is_trivially_copyable_v<FrameHeader> && std::is_standard_layout_v<FrameHeader>);
static_assert(sizeof(FrameHeader) == 32 && alignof(FrameHeader) == 8);
static_assert(offsetof(FrameHeader, size) == 0);
static_assert(offsetof(FrameHeader, type) == 4);
static_assert(offsetof(FrameHeader, target) == 5);
static_assert(offsetof(FrameHeader, code) == 6);
static_assert(offsetof(FrameHeader, call_id) == 8);
static_assert(offsetof(FrameHeader, timeout) == 12);
static_assert(offsetof(FrameHeader, interface_id) == 16);
static_assert(offsetof(FrameHeader, target_id) == 24);
static_assert(offsetof(FrameHeader, extra_size) == 28);
static_assert(std::has_unique_object_representations_v<FrameHeader>);  // no padding

inline constexpr size_t kFrameHeaderBytes = sizeof(FrameHeader);

// Checks `header` (a private copy of received bytes) against the layout's rules and `limits`:
// size, type, extra, and that every field its type does not use is zero.
// INVALID_ARGUMENT: a broken rule, naming the field and the value; the stream cannot be trusted any
// more. RESOURCE_EXHAUSTED: larger than limits.message_bytes_max or extra_bytes_max; the message
// can be skipped by its size and the stream goes on. Allocates only on failure. Thread-safe.
absl::Status CheckFrameHeader(const FrameHeader& header, const Limits& limits);

// CheckFrameHeader for the common case, inline: true for a sound call or successful return without
// an extra part. False says nothing.
inline bool IsPlainCallOrReturn(const FrameHeader& header, const Limits& limits) {
  if (header.size < kFrameHeaderBytes || header.size % 8 != 0 || header.extra_size != 0 ||
      header.size > limits.message_bytes_max) {
    return false;
  }
  if (header.type == FrameType::kCall) return header.target == TargetKind::kService;
  return header.type == FrameType::kReturn && header.target == TargetKind::kNone &&
         (header.code | header.timeout | header.interface_id | header.target_id) == 0;
}

// A timeout in 32 bits: microseconds (rounded up, so never early) below 2^31, else the low 31 bits
// count milliseconds; 0 is no deadline. Longer than 24 days is sent as 24 days.
// `remaining_ns`: INT64_MAX for none; 0 or less encodes as 1 us.
uint32_t EncodeTimeout(int64_t remaining_ns);
// Inverse of EncodeTimeout, in nanoseconds; INT64_MAX for 0.
int64_t DecodeTimeout(uint32_t timeout);

}  // namespace mi7::transport
