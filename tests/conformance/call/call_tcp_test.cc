// Calls over TCP.

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tests/conformance/call/call_conformance.h"
#include "transport/unique_fd.h"

namespace mi7::conformance {
namespace {

std::string LoopbackPort() { return "tcp:127.0.0.1:0"; }
std::string LoopbackPort6() { return "tcp:[::1]:0"; }
std::string NamedPort() { return "tcp:localhost:0"; }

// Containers often have no IPv6, not even within themselves.
bool HasIpv6() {
  const transport::UniqueFd fd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  return fd && ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

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
