// Calls over TCP.

#include <cstdio>
#include <string>
#include <vector>

#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

std::string NamedPort() { return "tcp:localhost:0"; }

std::vector<CallTransport> Transports() {
  std::vector<CallTransport> transports = {
      {"adaptive", "tcp", LoopbackPort},
      {"blocking", "tcp", LoopbackPort, transport::WaitPolicy::kBlock},
      {"named", "tcp", NamedPort}};
  if (HasIpv6()) transports.push_back({"ipv6", "tcp", LoopbackPort6});
  return transports;
}

TEST(CallTcpTest, Ipv6IsAmongTheTransports) {
  if (!HasIpv6()) {
    std::fprintf(stderr, "NOTICE: no call was made over IPv6, this machine has no address ::1\n");
    GTEST_SKIP() << "no address ::1";
  }
  EXPECT_EQ(Transports().size(), 4u);
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Tcp, CallTest, testing::ValuesIn(Transports()), CallTransportName);

}  // namespace mi7::conformance
