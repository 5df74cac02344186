#pragma once

// What generated code tells the runtime about interfaces and methods: constant tables, one an
// interface, that live as long as the program.

#include <cstddef>
#include <cstdint>

namespace mi7 {

// One method.
struct MethodInfo {
  uint64_t interface_id;  // of the interface that declares the method
  uint16_t method_id;     // its ordinal there
  const char* name;       // "Calculator.add"
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
