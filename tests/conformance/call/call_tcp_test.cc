// Calls over TCP.

#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

std::string LoopbackPort() { return "tcp:127.0.0.1:0"; }
std::string LoopbackPort6() { return "tcp:[::1]:0"; }
std::string NamedPort() { return "tcp:localhost:0"; }

}  // namespace

INSTANTIATE_TEST_SUITE_P(Tcp, CallTest,
                         testing::Values(CallTransport{"adaptive", "tcp", LoopbackPort},
                                         CallTransport{"blocking", "tcp", LoopbackPort,
                                                       transport::WaitPolicy::kBlock},
                                         CallTransport{"ipv6", "tcp", LoopbackPort6},
                                         CallTransport{"named", "tcp", NamedPort}),
                         CallTransportName);

}  // namespace mi7::conformance
