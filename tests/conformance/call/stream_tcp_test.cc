// Streams over TCP.

#include <vector>

#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

std::vector<CallTransport> Transports() {
  std::vector<CallTransport> transports = {
      {"adaptive", "tcp", LoopbackPort},
      {"blocking", "tcp", LoopbackPort, transport::WaitPolicy::kBlock}};
  if (HasIpv6()) transports.push_back({"ipv6", "tcp", LoopbackPort6});
  return transports;
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Tcp, StreamTest, testing::ValuesIn(Transports()), CallTransportName);

}  // namespace mi7::conformance
