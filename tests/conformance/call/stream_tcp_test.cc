// Streams over TCP.

#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

std::string LoopbackPort() { return "tcp:127.0.0.1:0"; }

}  // namespace

INSTANTIATE_TEST_SUITE_P(Tcp, StreamTest,
                         testing::Values(CallTransport{"adaptive", "tcp", LoopbackPort},
                                         CallTransport{"blocking", "tcp", LoopbackPort,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

}  // namespace mi7::conformance
