#include "transport/tcp/tcp_listener.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/stream/socket.h"
#include "transport/stream/stream_context.h"
#include "transport/stream/stream_listener.h"
#include "transport/tcp/socket_address.h"
#include "transport/tcp/tcp_kind.h"

namespace mi7::transport {
namespace {

// Attempts to find a port that is free on every address of a name.
constexpr int kPortAttempts = 8;

// The addresses to listen on. For every address of the machine one IPv6 socket serves both.
absl::StatusOr<std::vector<SocketAddress>> Resolve(const Endpoint& endpoint) {
  if (endpoint.host.empty() || endpoint.host == "*") {
    return std::vector<SocketAddress>{SocketAddress::Any(AF_INET6, endpoint.port)};
  }
  if (absl::Status zone = SocketAddress::CheckZone(endpoint.host); !zone.ok()) {
    return absl::NotFoundError(
        absl::StrCat("listening on ", endpoint.ToString(), ": ", zone.message()));
  }
  SocketAddress numeric;
  if (SocketAddress::FromNumeric(endpoint.host, endpoint.port, numeric)) {
    return std::vector<SocketAddress>{numeric};
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_ADDRCONFIG;
  addrinfo* result = nullptr;
  const int error = ::getaddrinfo(endpoint.host.c_str(), nullptr, &hints, &result);
  std::vector<SocketAddress> addresses;
  for (const addrinfo* info = result; info != nullptr; info = info->ai_next) {
    if (info->ai_family != AF_INET && info->ai_family != AF_INET6) continue;
    SocketAddress address(info->ai_addr);
    address.set_port(endpoint.port);
    if (std::find(addresses.begin(), addresses.end(), address) == addresses.end()) {
      addresses.push_back(address);
    }
  }
  if (result != nullptr) ::freeaddrinfo(result);
  if (addresses.empty()) {
    return absl::NotFoundError(
        absl::StrCat("listening on ", endpoint.ToString(), ": host name '", endpoint.host,
                     "' not found: ", error != 0 ? ::gai_strerror(error) : "it has no address"));
  }
  return addresses;
}

// errno, 0 on success.
int Open(SocketAddress& address, bool take_over, UniqueFd& socket) {
  socket =
      UniqueFd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!socket) return errno;
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // The system lets only sockets of one user, which all ask for it, share a port.
  if (take_over) ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
  if (address.family() == AF_INET6) {
    const int only_v6 = address == SocketAddress::Any(AF_INET6, address.port()) ? 0 : 1;
    ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof(only_v6));
  }
  if (::bind(socket.get(), address.get(), address.length()) != 0) return errno;
  if (::listen(socket.get(), kBacklog) != 0) return errno;
  address = SocketAddress::LocalOf(socket.get());
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> TcpListen(const Endpoint& endpoint,
                                                    const std::vector<EventLoop*>& loops,
                                                    const TransportOptions& options,
                                                    AcceptCallback on_accept) {
  MI7_CHECK(!loops.empty(), "a listener needs an event loop");
  absl::StatusOr<std::vector<SocketAddress>> addresses = Resolve(endpoint);
  if (!addresses.ok()) return addresses.status();
  std::vector<UniqueFd> sockets;
  Endpoint bound = endpoint;
  for (int attempt = 1;; ++attempt) {
    sockets.clear();
    bound.port = endpoint.port;
    int error = 0;
    SocketAddress failed;
    for (SocketAddress address : *addresses) {
      address.set_port(bound.port);
      UniqueFd socket;
      error = Open(address, options.take_over, socket);
      if (error == EAFNOSUPPORT && (endpoint.host.empty() || endpoint.host == "*")) {
        address = SocketAddress::Any(AF_INET, bound.port);  // a machine without IPv6
        error = Open(address, options.take_over, socket);
      }
      failed = address;
      // One of a name's addresses may be of a family that this machine does not have.
      if ((error == EADDRNOTAVAIL || error == EAFNOSUPPORT) && addresses->size() > 1) continue;
      if (error != 0) break;
      bound.port = address.port();
      sockets.push_back(std::move(socket));
    }
    if (error == EADDRINUSE && endpoint.port == 0 && attempt < kPortAttempts) continue;
    if (error != 0 && (sockets.empty() || (error != EADDRNOTAVAIL && error != EAFNOSUPPORT))) {
      return SocketError(
          absl::StrCat("listening on ", endpoint.ToString(), " (", failed.ToString(), ")"), error);
    }
    break;
  }
  return ListenOn({.sockets = std::move(sockets),
                   .endpoint = std::move(bound),
                   .context = std::make_shared<StreamContext>(options, TcpKind()),
                   .terms = {.instance_id = options.instance_id}},
                  loops, options, std::move(on_accept));
}

}  // namespace mi7::transport
