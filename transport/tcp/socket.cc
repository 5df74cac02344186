#include "transport/tcp/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/time.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace mi7::transport {

SocketAddress::SocketAddress(const sockaddr* address) : SocketAddress() {
  if (address->sa_family == AF_INET6) {
    std::memcpy(&v6_, address, sizeof(v6_));
  } else if (address->sa_family == AF_INET) {
    std::memcpy(&v4_, address, sizeof(v4_));
  }
}

bool SocketAddress::FromNumeric(const std::string& host, uint16_t port, SocketAddress& address) {
  address = SocketAddress();
  if (::inet_pton(AF_INET, host.c_str(), &address.v4_.sin_addr) == 1) {
    address.v4_.sin_family = AF_INET;
    address.set_port(port);
    return true;
  }
  const size_t percent = host.find('%');
  if (::inet_pton(AF_INET6, host.substr(0, percent).c_str(), &address.v6_.sin6_addr) != 1) {
    address = SocketAddress();
    return false;
  }
  address.v6_.sin6_family = AF_INET6;
  if (percent != std::string::npos) {
    const std::string scope = host.substr(percent + 1);
    uint32_t index = ::if_nametoindex(scope.c_str());
    if (index == 0 && !absl::SimpleAtoi(scope, &index)) index = 0;
    address.v6_.sin6_scope_id = index;
  }
  address.set_port(port);
  return true;
}

SocketAddress SocketAddress::Any(int family, uint16_t port) {
  SocketAddress address;
  address.base_.sa_family = static_cast<sa_family_t>(family);
  address.set_port(port);
  return address;
}

SocketAddress SocketAddress::LocalOf(int fd) {
  SocketAddress address;
  socklen_t length = sizeof(address);
  ::getsockname(fd, &address.base_, &length);
  return address;
}

SocketAddress SocketAddress::PeerOf(int fd) {
  SocketAddress address;
  socklen_t length = sizeof(address);
  ::getpeername(fd, &address.base_, &length);  // fails when the peer is gone already
  return address;
}

uint16_t SocketAddress::port() const {
  return ntohs(family() == AF_INET6 ? v6_.sin6_port : v4_.sin_port);
}

void SocketAddress::set_port(uint16_t port) {
  (family() == AF_INET6 ? v6_.sin6_port : v4_.sin_port) = htons(port);
}

std::string SocketAddress::ToString() const {
  char text[INET6_ADDRSTRLEN];
  if (family() == AF_INET) {
    ::inet_ntop(AF_INET, &v4_.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", port());
  }
  if (family() != AF_INET6) return "unknown:0";
  if (IN6_IS_ADDR_V4MAPPED(&v6_.sin6_addr)) {
    ::inet_ntop(AF_INET, v6_.sin6_addr.s6_addr + 12, text, sizeof(text));
    return absl::StrCat(text, ":", port());
  }
  ::inet_ntop(AF_INET6, &v6_.sin6_addr, text, sizeof(text));
  if (v6_.sin6_scope_id != 0) return absl::StrCat("[", text, "%", v6_.sin6_scope_id, "]:", port());
  return absl::StrCat("[", text, "]:", port());
}

bool operator==(const SocketAddress& a, const SocketAddress& b) {
  if (a.family() != b.family() || a.port() != b.port()) return false;
  if (a.family() == AF_INET) return a.v4_.sin_addr.s_addr == b.v4_.sin_addr.s_addr;
  return std::memcmp(&a.v6_.sin6_addr, &b.v6_.sin6_addr, sizeof(in6_addr)) == 0 &&
         a.v6_.sin6_scope_id == b.v6_.sin6_scope_id;
}

absl::Status SocketError(absl::string_view what, int error) {
  const std::string text = absl::StrCat(what, ": ", ::strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(
          absl::StrCat(text, "; raise the limit of open files (ulimit -n)"));
    case ENOBUFS:
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    case EADDRNOTAVAIL:
    case ENODEV:
      return absl::NotFoundError(text);
    case EAFNOSUPPORT:
    case EINVAL:
    case EPROTONOSUPPORT:
      return absl::InvalidArgumentError(text);
    default:
      return absl::UnavailableError(text);
  }
}

void ConfigureConnected(int fd, bool bounded_reads) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  // A peer whose host is gone is noticed although nothing is sent, after about a minute.
  constexpr int kIdleSeconds = 30;
  constexpr int kIntervalSeconds = 10;
  constexpr int kProbes = 3;
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &kIdleSeconds, sizeof(kIdleSeconds));
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &kIntervalSeconds, sizeof(kIntervalSeconds));
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &kProbes, sizeof(kProbes));
  const int flags = ::fcntl(fd, F_GETFL);
  if ((flags & O_NONBLOCK) != 0) ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  if (bounded_reads) {
    const timeval bound{0, 50'000};
    MI7_CHECK(::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound)) == 0,
              "a TCP socket takes a read timeout");
  }
}

void DiscardUnread(int fd) {
  char scratch[16 << 10];
  for (int i = 0; i < 64 && ::recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) > 0; ++i) {
  }
}

}  // namespace mi7::transport
