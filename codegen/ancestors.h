#pragma once

// What an interface inherits.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codegen/schema.h"

namespace mi7::codegen {

// One interface whose methods another offers, and one way from the latter to it.
struct Ancestor {
  uint64_t id = 0;
  std::vector<size_t> path;  // Indices of the superclass lists on the way; empty for itself.
  std::vector<Brand::Reader> brands;  // The brands applied on the way.
};

// The interface itself and all that it extends, directly or not, each id once: depth first, in the
// order of the superclass lists.
std::vector<Ancestor> AncestorsOf(const Schema& schema, uint64_t interface);

}  // namespace mi7::codegen
