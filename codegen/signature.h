#pragma once

// A method as its schema declares it, for comments and messages.

#include <cstdint>
#include <string>

#include "codegen/schema.h"

namespace mi7::codegen {

// "add @0 (a :Int64, b :Int64) -> (sum :Int64)". Default values are left out, and of annotations
// all but those of mi7 that say how the method may be called.
std::string Signature(const Schema& schema, uint64_t interface, uint32_t method);

}  // namespace mi7::codegen
