#pragma once

// Small helpers around sockets: ownership, addresses, error texts.

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// An IPv4 or IPv6 address with its port; 28 bytes.
class SocketAddress {
 public:
  SocketAddress() : v6_{} {}
  // IPv4 or IPv6; anything else gives an address that says so.
  explicit SocketAddress(const sockaddr* address);
  // From numbers such as "127.0.0.1" or "::1" (also with a scope, "fe80::1%eth0"). False when
  // `host` is a name.
  static bool FromNumeric(const std::string& host, uint16_t port, SocketAddress& address);
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

// The status for a failed system call on a socket: UNAVAILABLE for what the network or the peer
// did, RESOURCE_EXHAUSTED, PERMISSION_DENIED, ALREADY_EXISTS, NOT_FOUND, INVALID_ARGUMENT for what
// the machine says. The text is `what`, a colon and the system's words.
absl::Status SocketError(absl::string_view what, int error);

// Ordinary settings of a connected socket: no delay, blocking (callers pass MSG_DONTWAIT where
// they do not want to wait), and for `bounded_reads` a bound on how long a blocking read sleeps.
void ConfigureConnected(int fd, bool bounded_reads);

// Reads and drops what has arrived and was not read, up to 1 MiB. Closing a socket with unread
// bytes resets the connection, which may destroy what the peer has not read yet, the reason for the
// end above all.
void DiscardUnread(int fd);

}  // namespace mi7::transport
