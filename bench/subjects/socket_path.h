#pragma once

// Where a subject's server has its Unix socket: in the directory that the bench makes for a run and
// removes afterwards.

#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace mi7::bench {

// Another one for each process.
inline std::string SocketPath() {
  const char* const directory = std::getenv("XDG_RUNTIME_DIR");
  return absl::StrCat(directory != nullptr ? directory : "/tmp", "/bench-", ::getpid());
}

}  // namespace mi7::bench
