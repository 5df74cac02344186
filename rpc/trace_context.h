#pragma once

// W3C Trace Context (https://www.w3.org/TR/trace-context/): which trace a call belongs to, and
// which span of it made the call. mi7 carries it with each call and keeps it in a handler's
// context; what is measured and where it is reported is an interceptor's affair.

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace mi7 {

// A value type.
struct TraceContext {
  // Bits of `flags`; others are dropped.
  static constexpr uint8_t kSampled = 1;  // the caller may have recorded it
  static constexpr uint8_t kRandom = 2;   // level 2: the trace id's lower 7 bytes are random

  // Names the trace, all over the world; not all zero.
  std::array<uint8_t, 16> trace_id{};
  // Names the span that made the call ("parent-id"); not all zero.
  std::array<uint8_t, 8> span_id{};
  uint8_t flags = 0;
  // "tracestate", as it came: for the tracing systems that know it.
  std::string state;

  // A new trace with its first span; the ids are the system's random numbers.
  static TraceContext NewRoot(bool sampled);
  // A new span of the same trace.
  TraceContext NewChild() const;

  // As the standard demands of a receiver: nothing when `traceparent` is malformed, which begins a
  // new trace; a malformed or overlong `tracestate` alone is dropped.
  static std::optional<TraceContext> Parse(absl::string_view traceparent,
                                           absl::string_view tracestate);
  // "00-<trace id>-<span id>-<flags>", 55 characters.
  std::string traceparent() const;
  std::string trace_id_hex() const;
  std::string span_id_hex() const;
  bool sampled() const { return (flags & kSampled) != 0; }

  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

// Bytes of a tracestate at most, and its members: the least that the standard asks to pass on.
inline constexpr size_t kTraceStateBytesMax = 512;
inline constexpr size_t kTraceStateMembersMax = 32;

}  // namespace mi7
