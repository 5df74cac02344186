#pragma once

// SocketAddress: where a TCP socket is bound or connected.

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace mi7::transport {

// An IPv4 or IPv6 address with its port; 28 bytes.
class SocketAddress {
 public:
  SocketAddress() : v6_{} {}
  // IPv4 or IPv6; anything else gives an address that says so.
  explicit SocketAddress(const sockaddr* address);
  // From numbers such as "127.0.0.1" or "::1" (also with a zone, "fe80::1%eth0"). False when
  // `host` is a name.
  static bool FromNumeric(const std::string& host, uint16_t port, SocketAddress& address);
  // OK when `host` has no zone, or one that is a network interface of this machine, by its name or
  // number; else NOT_FOUND.
  static absl::Status CheckZone(const std::string& host);
  // Every address of the machine.
  static SocketAddress Any(int family, uint16_t port);
  static SocketAddress LocalOf(int fd);
  static SocketAddress PeerOf(int fd);

  int family() const { return base_.sa_family; }
  const sockaddr* get() const { return &base_; }
  socklen_t length() const {
    return family() == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  }
  uint16_t port() const;
  void set_port(uint16_t port);
  // "127.0.0.1:4711", "[::1]:4711"; an IPv4 peer of an IPv6 socket is shown as IPv4.
  std::string ToString() const;

  friend bool operator==(const SocketAddress& a, const SocketAddress& b);

 private:
  union {
    sockaddr base_;
    sockaddr_in v4_;
    sockaddr_in6 v6_;
  };
};
static_assert(sizeof(SocketAddress) == 28);

}  // namespace mi7::transport
