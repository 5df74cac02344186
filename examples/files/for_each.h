#pragma once

#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace files {

// Calls work(0) ... work(count - 1) on `threads` threads, and returns when all of them are done.
// After a failure it begins with no further one, and returns the first.
absl::Status ForEach(size_t count, int threads, absl::FunctionRef<absl::Status(size_t)> work);

}  // namespace files
