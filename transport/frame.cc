#include "transport/frame.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace mi7::transport {
namespace {

constexpr uint16_t kStatusCodeMax = 16;  // absl::StatusCode::kUnauthenticated
constexpr uint32_t kMillisecondsFlag = uint32_t{1} << 31;

const char* TypeName(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return "hello";
    case FrameType::kCall:
      return "call";
    case FrameType::kReturn:
      return "return";
    case FrameType::kCancel:
      return "cancel";
    case FrameType::kGoAway:
      return "go-away";
    case FrameType::kClose:
      return "close";
    case FrameType::kPing:
      return "ping";
    case FrameType::kPong:
      return "pong";
    case FrameType::kStreamMessage:
      return "stream-message";
    case FrameType::kStreamEnd:
      return "stream-end";
    case FrameType::kCredit:
      return "credit";
  }
  return nullptr;
}

// What a message of some type may use. Everything else is zero or absent.
struct Uses {
  bool code = false;       // a status code, or the method of a call
  bool direction = false;  // in `code`
  bool credit = false;     // in `timeout`
  bool call_id = false;
  bool call_fields = false;  // target, timeout, interface_id, target_id
  bool extra = false;
  bool body = false;
};

constexpr Uses UsesOf(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return {.body = true};
    case FrameType::kCall:
      return {.code = true, .call_id = true, .call_fields = true, .extra = true, .body = true};
    case FrameType::kReturn:
      return {.code = true, .call_id = true, .extra = true, .body = true};
    case FrameType::kCancel:
      return {.call_id = true};
    case FrameType::kGoAway:
      return {.extra = true};
    case FrameType::kClose:
      return {.code = true, .extra = true};
    case FrameType::kPing:
    case FrameType::kPong:
    case FrameType::kStreamEnd:
      return {.call_id = true};
    case FrameType::kStreamMessage:
      return {.direction = true, .call_id = true, .extra = true, .body = true};
    case FrameType::kCredit:
      return {.direction = true, .credit = true, .call_id = true};
  }
  return {};
}

absl::Status Broken(const FrameHeader& header, absl::string_view field, uint64_t value,
                    absl::string_view rule) {
  const char* type = TypeName(header.type);
  return absl::InvalidArgumentError(absl::StrCat("message header", type != nullptr ? " of a " : "",
                                                 type != nullptr ? type : "", ": ", field, " is ",
                                                 value, ", ", rule));
}

}  // namespace

absl::Status CheckFrameHeader(const FrameHeader& header, const Limits& limits) {
  if (header.size < kFrameHeaderBytes || header.size % 8 != 0) {
    return Broken(header, "size", header.size, "must be a multiple of 8 of at least 32");
  }
  if (TypeName(header.type) == nullptr) {
    return Broken(header, "type", static_cast<uint64_t>(header.type), "must be 1 to 11");
  }
  const Uses uses = UsesOf(header.type);
  if (uses.call_fields) {
    if (header.target < TargetKind::kService || header.target > TargetKind::kPromisedAnswer) {
      return Broken(header, "target", static_cast<uint64_t>(header.target), "must be 1 to 3");
    }
  } else {
    if (header.target != TargetKind::kNone) {
      return Broken(header, "target", static_cast<uint64_t>(header.target), "must be 0");
    }
    if (uses.credit) {
      if (header.timeout == 0) return Broken(header, "timeout", 0, "must be the bytes granted");
    } else if (header.timeout != 0) {
      return Broken(header, "timeout", header.timeout, "must be 0");
    }
    if (header.interface_id != 0) {
      return Broken(header, "interface_id", header.interface_id, "must be 0");
    }
    if (header.target_id != 0) return Broken(header, "target_id", header.target_id, "must be 0");
    if (uses.direction) {
      if (header.code > static_cast<uint16_t>(StreamDirection::kToCaller)) {
        return Broken(header, "code", header.code, "must be 0 or 1, a direction");
      }
    } else if (!uses.code) {
      if (header.code != 0) return Broken(header, "code", header.code, "must be 0");
    } else if (header.code > kStatusCodeMax) {
      return Broken(header, "code", header.code, "must be a canonical status code, 0 to 16");
    }
  }
  if (!uses.call_id && header.call_id != 0) {
    return Broken(header, "call_id", header.call_id, "must be 0");
  }
  const uint32_t room = header.size - static_cast<uint32_t>(kFrameHeaderBytes);
  if (header.extra_size % 8 != 0 || header.extra_size > room) {
    return Broken(header, "extra_size", header.extra_size,
                  absl::StrCat("must be a multiple of 8 of at most the ", room,
                               " bytes that follow the header"));
  }
  if (!uses.extra && header.extra_size != 0) {
    return Broken(header, "extra_size", header.extra_size, "must be 0");
  }
  if ((!uses.body || (header.type == FrameType::kReturn && header.code != 0)) &&
      header.extra_size != room) {
    return Broken(header, "size", header.size,
                  absl::StrCat("must be ", kFrameHeaderBytes + header.extra_size,
                               " because the message has no body"));
  }
  if (header.type == FrameType::kStreamMessage) {
    if (room == 0) return Broken(header, "size", header.size, "must be more than the header's");
    if (header.code == static_cast<uint16_t>(StreamDirection::kToCallee) &&
        header.extra_size != 0) {
      return Broken(header, "extra_size", header.extra_size, "must be 0 from the caller");
    }
  }
  if (header.size > limits.message_bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("message of ", header.size,
                                                     " bytes exceeds limits.message_bytes_max, ",
                                                     limits.message_bytes_max, " bytes"));
  }
  if (header.extra_size > limits.extra_bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("extra part (metadata, error details) of ", header.extra_size,
                     " bytes exceeds limits.extra_bytes_max, ", limits.extra_bytes_max, " bytes"));
  }
  return absl::OkStatus();
}

uint32_t EncodeTimeout(int64_t remaining_ns) {
  if (remaining_ns == std::numeric_limits<int64_t>::max()) return 0;
  if (remaining_ns <= 1000) return 1;
  const int64_t us = (remaining_ns - 1) / 1000 + 1;
  if (us < int64_t{kMillisecondsFlag}) return static_cast<uint32_t>(us);
  const int64_t ms = (remaining_ns - 1) / 1'000'000 + 1;
  constexpr int64_t kMillisecondsMax = kMillisecondsFlag - 1;
  return kMillisecondsFlag | static_cast<uint32_t>(ms < kMillisecondsMax ? ms : kMillisecondsMax);
}

int64_t DecodeTimeout(uint32_t timeout) {
  if (timeout == 0) return std::numeric_limits<int64_t>::max();
  if ((timeout & kMillisecondsFlag) == 0) return int64_t{timeout} * 1000;
  return int64_t{timeout & ~kMillisecondsFlag} * 1'000'000;
}

}  // namespace mi7::transport
