#include "transport/tcp/socket_address.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mi7::transport {
namespace {

// Of a network interface, by its name or number; 0 when there is none.
uint32_t ZoneIndex(const std::string& zone) {
  uint32_t index = ::if_nametoindex(zone.c_str());
  if (index != 0) return index;
  char name[IF_NAMESIZE];
  return absl::SimpleAtoi(zone, &index) && ::if_indextoname(index, name) != nullptr ? index : 0;
}

}  // namespace

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
    address.v6_.sin6_scope_id = ZoneIndex(host.substr(percent + 1));
  }
  address.set_port(port);
  return true;
}

absl::Status SocketAddress::CheckZone(const std::string& host) {
  const size_t percent = host.find('%');
  if (percent == std::string::npos || ZoneIndex(host.substr(percent + 1)) != 0) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("zone '", host.substr(percent + 1), "' of ", host,
                                          " is no network interface of this machine"));
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

}  // namespace mi7::transport
