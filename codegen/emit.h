#pragma once

// Prints generated files.

#include <string>

#include "codegen/model.h"

namespace mi7::codegen {

// "calc/calculator.capnp" and ".mi7.h" to "calc/calculator.mi7.h".
std::string OutputName(const std::string& schema_file, const std::string& extension);

// x.mi7.h: the skeletons and clients; for generic interfaces their bodies too.
std::string EmitHeader(const File& file);
// x.mi7.cc: the tables that describe the interfaces, and the bodies.
std::string EmitSource(const File& file);
// x.mi7.mock.h: a gMock class for each service.
std::string EmitMock(const File& file);

}  // namespace mi7::codegen
