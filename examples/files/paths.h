#pragma once

// Paths as files.capnp describes them, and the words for what goes wrong with them.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace files {

// INVALID_ARGUMENT unless `path` has the form that files.capnp describes.
absl::Status CheckPath(absl::string_view path);

// "'docs/WIRE.md'", with what cannot be printed escaped, and the middle of an endless one left out.
std::string Quoted(absl::string_view path);

// The status for a failed system call: `error` is its errno, `action` what was tried ("read").
absl::Status ErrnoStatus(int error, absl::string_view action, absl::string_view path);

}  // namespace files
