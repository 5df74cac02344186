#pragma once

// Whether a message can hold an interface: which struct it sits in, however deep, generics and
// recursive types included.

#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "codegen/brand.h"
#include "codegen/schema.h"

namespace mi7::codegen {

// The interface that a type leads to. Default: it leads to none.
struct CapabilityField {
  uint64_t interface = 0;  // kAnyCapability for the built-in type Capability.
  uint64_t owner = 0;      // The struct or group whose field it is; 0 for the type itself.
  uint32_t field = 0;      // The field's index there.

  explicit operator bool() const { return interface != 0; }
  auto operator<=>(const CapabilityField&) const = default;
};

constexpr uint64_t kAnyCapability = 1;  // no id: those have their top bit set

// Searches types. For each struct there are only as many different searches as there are
// CapabilityFields for its type parameters, so it ends even for types that nest themselves in ever
// larger brands. Remembers what it found; not thread-safe.
class CapabilitySearch {
 public:
  explicit CapabilitySearch(const Schema& schema) : schema_(schema) {}

  // What a struct leads to where `brands` (outermost first, the struct's own last) apply. If
  // anything, `through` becomes the index of the field of the struct that leads there.
  CapabilityField Find(uint64_t id, const std::vector<Brand::Reader>& brands, uint32_t* through);

 private:
  using Values = Bindings<CapabilityField>;
  using State = std::pair<uint64_t, Values>;

  Values Inside(Brand::Reader brand, const Values& outer);
  CapabilityField OfType(Type::Reader type, const Values& outer);
  CapabilityField OfField(uint64_t owner, uint32_t field, const Values& outer);
  CapabilityField OfFields(uint64_t owner, const Values& outer, uint32_t* through);
  CapabilityField OfStruct(const State& state);

  const Schema& schema_;
  std::map<State, CapabilityField> found_;  // what leads to an interface, for good
  std::set<State> clean_;                   // what leads to none, for good
  std::set<State> visited_;                 // in the present pass
  bool changed_ = false;                    // the present pass found something
};

}  // namespace mi7::codegen
