#pragma once

// Names that schemas cannot have where capnpc-c++ writes them in capitals.

#include <string_view>

namespace mi7::codegen {

// True if a header that generated code includes, Cap'n Proto's and the system's among them, defines
// a macro of that name.
bool IsMacro(std::string_view name);

}  // namespace mi7::codegen
