#pragma once

// Where a subject's server has its Unix socket: in the directory that the bench makes for a run and
// removes afterwards.

#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace mi7::bench {

// Another one for each process; also for one that has the number of another that was killed and so
// has left its socket behind.
inline const std::string& SocketPath() {
  static const std::string path = [] {
    const char* const directory = std::getenv("XDG_RUNTIME_DIR");
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::StrCat(directory != nullptr ? directory : "/tmp", "/bench-", ::getpid(), "-",
                        now.tv_sec, ".", now.tv_nsec);
  }();
  return path;
}

}  // namespace mi7::bench
