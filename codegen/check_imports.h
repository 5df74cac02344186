#pragma once

// Refuses names that collide with those of imported files, imports of imports included: the header
// that capnpc-c++ makes of a file includes those of all its imports.

#include "codegen/reporter.h"
#include "codegen/schema.h"
#include "codegen/source_finder.h"

namespace mi7::codegen {

// What the file and its imports declare at the level of their namespaces, and the classes that
// their interfaces give. Of imports whose text is not found only what the request tells is known.
void CheckImports(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested,
                  const SourceFinder& sources, Reporter& reporter);

}  // namespace mi7::codegen
