#pragma once

// Paths as addresses of Unix sockets.

#include <sys/un.h>

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace mi7::transport {

// Longest path of a socket file in bytes: sun_path without its final zero.
inline constexpr size_t kSocketPathBytesMax = sizeof(sockaddr_un::sun_path) - 1;
static_assert(kSocketPathBytesMax == 107);

// INVALID_ARGUMENT: `path` is no absolute path of a file, or longer than kSocketPathBytesMax.
absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path);

}  // namespace mi7::transport
