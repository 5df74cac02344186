#pragma once

// What using a library costs before anything runs: bytes of programs, time of compilers.

#include <string>

#include "absl/status/statusor.h"

namespace mi7::bench {

// Bytes of `program` that are loaded to run it (its PT_LOAD segments in the file): code and data
// without symbols and debugging information. Shared libraries are not in it.
absl::StatusOr<double> LoadedBytes(const std::string& program);

// CPU time, in nanoseconds, of one optimizing run of the C++ compiler over the generated source
// `name` in bench/subjects. `roots`: "SOURCE_ROOT:GENERATED_ROOT", as tools/bench passes them.
absl::StatusOr<double> CompileNanos(const std::string& roots, const std::string& name);

}  // namespace mi7::bench
