#include "tests/conformance/call/call_transport.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "transport/local/testing.h"
#include "transport/unique_fd.h"

namespace mi7::conformance {
namespace {

// All sockets of this process, the runtime directory's too.
const std::string& Sockets() {
  static const transport::testing::TemporaryDirectory directory;
  static const int set = ::setenv("MI7_RUNTIME_DIR", directory.path().c_str(), 1);
  static_cast<void>(set);
  return directory.path();
}

int NewNumber() {
  static std::atomic<int> count{0};
  return ++count;
}

}  // namespace

std::string InprocName() { return absl::StrCat("inproc:conformance-", NewNumber()); }
std::string LoopbackPort() { return "tcp:127.0.0.1:0"; }
std::string LoopbackPort6() { return "tcp:[::1]:0"; }
std::string UnixPath() { return absl::StrCat("unix:", Sockets(), "/", NewNumber()); }
std::string ShmPath() { return absl::StrCat("shm:", Sockets(), "/", NewNumber()); }
std::string ShmName() {
  Sockets();
  return absl::StrCat("shm:name-", NewNumber());
}
std::string Mi7Port() {
  Sockets();
  return "mi7://127.0.0.1:0";
}

bool HasIpv6() {
  const transport::UniqueFd fd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  return fd && ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

}  // namespace mi7::conformance
