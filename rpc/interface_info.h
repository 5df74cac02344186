#pragma once

// What generated code tells the runtime about interfaces and methods: constant tables, one an
// interface, that live as long as the program.

#include <cstddef>
#include <cstdint>

namespace mi7 {

// Which of a method's messages are streams.
enum class MethodKind : uint8_t {
  kUnary,
  kServerStreaming,  // many results
  kClientStreaming,  // many parameters
  kBidirectional,    // both
};
constexpr bool StreamsParams(MethodKind kind) {
  return kind == MethodKind::kClientStreaming || kind == MethodKind::kBidirectional;
}
constexpr bool StreamsResults(MethodKind kind) {
  return kind == MethodKind::kServerStreaming || kind == MethodKind::kBidirectional;
}

// Which calls that failed may be made once more; each includes those before it.
enum class Repeat : uint8_t {
  kNever,
  // What was not sent, and what the server refused. The request is kept for that until the answer
  // is there, without a copy, unless the channel keeps RetryOptions::kept_bytes_max already. Right
  // for every method.
  kUnlessItRan,
  // Also a call whose handler answered that it is worth trying again ($Mi7.retryable). From here on
  // each call keeps a copy of its request, whatever its size.
  kRetryable,
  // Also one that may have run ($Mi7.idempotent).
  kIdempotent,
};

// How a call fares when the server is full.
enum class Priority : uint8_t {
  kNormal,
  // It has room of its own ($Mi7.priority(control)): for the few calls by which a server is watched
  // and steered.
  kControl,
};

// One method. What comes after the kind is what the schema's annotations say.
struct MethodInfo {
  uint64_t interface_id;  // of the interface that declares the method
  uint16_t method_id;     // its ordinal there
  const char* name;       // "Calculator.add"
  MethodKind kind = MethodKind::kUnary;
  uint32_t timeout_ms = 0;  // of calls that bring no deadline; 0: none
  Repeat repeat = Repeat::kUnlessItRan;
  bool deduplicate = false;  // the server recognizes repeated calls, which may therefore have run
  Priority priority = Priority::kNormal;
};

// One interface. The same interface may have several of these in a program: compare ids.
struct InterfaceInfo {
  uint64_t id;
  const char* name;           // "Calculator"; with its scope when nested: "Outer.Inner"
  const MethodInfo* methods;  // own methods in ordinal order
  size_t method_count;
  const InterfaceInfo* const* bases;  // direct superclasses
  size_t base_count;
};

// The number by which a call names the service it wants (FrameHeader::target_id): the two halves
// of the service's 64-bit interface id, xor-ed. A server refuses to register two services whose
// keys collide.
constexpr uint32_t ServiceKey(uint64_t interface_id) {
  return static_cast<uint32_t>(interface_id) ^ static_cast<uint32_t>(interface_id >> 32);
}

}  // namespace mi7
