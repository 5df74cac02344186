#pragma once

// How the bench talks with the programs of subjects: the lines of subject_main.cc.

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/harness/child_process.h"
#include "bench/harness/memory_use.h"

namespace mi7::bench {

inline constexpr absl::Duration kStartTimeout = absl::Seconds(10);
inline constexpr absl::Duration kIdleTimeout = absl::Seconds(60);

// The next line `process` says; what it says to be an error is one.
absl::StatusOr<std::string> Listen(ChildProcess& process, absl::Duration timeout);

// The same; any other line than `expected` is an error.
absl::Status Expect(ChildProcess& process, const std::string& expected, absl::Duration timeout);

// The address that a server says once it is ready.
absl::StatusOr<std::string> ListenForAddress(ChildProcess& server);

// Says `command` and hears of the memory of `process`.
absl::StatusOr<MemoryUse> AskMemory(ChildProcess& process, const std::string& command);

}  // namespace mi7::bench
