#pragma once

// What the suites of this folder are instantiated for: a transport, by the endpoints that force it.

#include <functional>
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "transport/wait_policy.h"

namespace mi7::conformance {

struct CallTransport {
  const char* name;  // letters, digits, _
  // What Channel::transport() and ServerContext::transport() say.
  const char* transport;
  // A new endpoint to listen on, each time another one.
  std::function<std::string()> new_endpoint;
  transport::WaitPolicy wait = transport::WaitPolicy::kAdaptive;
};

inline std::ostream& operator<<(std::ostream& out, const CallTransport& transport) {
  return out << transport.name;
}
inline std::string CallTransportName(const testing::TestParamInfo<CallTransport>& info) {
  return info.param.name;
}

// New endpoints. Sockets, the runtime directory's too, are in a directory of this process.
std::string InprocName();
std::string LoopbackPort();
std::string LoopbackPort6();
std::string UnixPath();
std::string ShmPath();
std::string ShmName();
std::string Mi7Port();

// Containers often have no IPv6, not even within themselves.
bool HasIpv6();

}  // namespace mi7::conformance
