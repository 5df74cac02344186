#pragma once

// Refuses names with which the header that capnpc-c++ makes of a schema does not compile: it takes
// schemas as they are and warns of nothing, and then no generated code of ours compiles either.

#include <cstdint>

#include "codegen/reporter.h"
#include "codegen/schema.h"

namespace mi7::codegen {

// All types, fields, enumerants and constants that the file declares, in its order.
void CheckCppNames(const Schema& schema, uint64_t file, Reporter& reporter);

}  // namespace mi7::codegen
