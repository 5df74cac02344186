// Calls to a server on the same machine: over Unix sockets, in shared memory, and over what a
// mi7:// endpoint chooses.

#include <stdlib.h>

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/conformance/call/call_conformance.h"
#include "transport/local/testing.h"

namespace mi7::conformance {
namespace {

// All sockets of this process, the runtime directory's too.
const std::string& Sockets() {
  static const transport::testing::TemporaryDirectory directory;
  static const int set = ::setenv("MI7_RUNTIME_DIR", directory.path().c_str(), 1);
  static_cast<void>(set);
  return directory.path();
}

std::string NewPath() {
  static std::atomic<int> count{0};
  return absl::StrCat(Sockets(), "/", ++count);
}

std::string UnixPath() { return absl::StrCat("unix:", NewPath()); }
std::string ShmPath() { return absl::StrCat("shm:", NewPath()); }
std::string ShmName() {
  Sockets();
  static std::atomic<int> count{0};
  return absl::StrCat("shm:name-", ++count);
}
std::string Port() {
  Sockets();
  return "mi7://127.0.0.1:0";
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Unix, CallTest,
                         testing::Values(CallTransport{"adaptive", "unix", UnixPath},
                                         CallTransport{"blocking", "unix", UnixPath,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

INSTANTIATE_TEST_SUITE_P(Shm, CallTest,
                         testing::Values(CallTransport{"adaptive", "shm", ShmPath},
                                         CallTransport{"blocking", "shm", ShmPath,
                                                       transport::WaitPolicy::kBlock},
                                         CallTransport{"named", "shm", ShmName}),
                         CallTransportName);

INSTANTIATE_TEST_SUITE_P(Mi7, CallTest, testing::Values(CallTransport{"chosen", "shm", Port}),
                         CallTransportName);

}  // namespace mi7::conformance
