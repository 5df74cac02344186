#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace files {

using Sha256 = std::array<uint8_t, 32>;

// Of the content of a local file. Errors name the file.
absl::StatusOr<Sha256> Sha256OfFile(const std::string& path);

}  // namespace files
