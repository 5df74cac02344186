#pragma once

// RouDi, the daemon that makes the shared memory of iceoryx: a child of the server, so that
// nobody has to start one. Its names (the memory, its socket, a lock) are the same for all of a
// machine: there is one at a time.

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mi7::bench {

struct IceoryxDaemonOptions {
  // Of the messages; there is room for a few.
  size_t payload_bytes = 0;
  // Programs that will join, by the names that they take: what those leave in the file system is
  // removed at the end.
  std::vector<std::string> programs = {};
};

// Returns when programs can join. It runs until this process dies, however that happens, then
// removes what it and the programs made, and ends. Calls fork: while there are no other threads.
// UNAVAILABLE when another one runs.
absl::Status StartIceoryxDaemon(const IceoryxDaemonOptions& options);

// iceoryx writes what it does to the terminal otherwise.
void SilenceIceoryx();

}  // namespace mi7::bench
