// Calls within one process.

#include <atomic>

#include "absl/strings/str_cat.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

std::string NewName() {
  static std::atomic<int> count{0};
  return absl::StrCat("inproc:call-test-", ++count);
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Inproc, CallTest,
                         testing::Values(CallTransport{"adaptive", "inproc", NewName},
                                         CallTransport{"blocking", "inproc", NewName,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

}  // namespace mi7::conformance
