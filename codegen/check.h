#pragma once

// Refuses what generated code could not do: better a clear message here than code that does not
// compile, or that fails when it runs.

#include <vector>

#include "codegen/problem.h"
#include "codegen/schema.h"
#include "codegen/source_finder.h"

namespace mi7::codegen {

// Everything in a requested file that stands in the way of code for it, in the order of the file.
std::vector<Problem> CheckFile(const Schema& schema,
                               CodeGeneratorRequest::RequestedFile::Reader requested,
                               const SourceFinder& sources);

}  // namespace mi7::codegen
