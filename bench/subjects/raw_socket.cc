#include "bench/subjects/raw_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mi7::bench {
namespace {

absl::Status SystemError(const char* call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", std::strerror(errno)));
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

bool SetNoDelay(int fd) {
  const int one = 1;
  return ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0;
}

}  // namespace

int RawSocket::FlagsFor(Waiting waiting) {
  return waiting == Waiting::kSpinning ? MSG_DONTWAIT : 0;
}

RawSocket::RawSocket(RawSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), flags_(other.flags_) {}

RawSocket& RawSocket::operator=(RawSocket&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(flags_, other.flags_);
  return *this;
}

RawSocket::~RawSocket() {
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<RawSocket> RawSocket::Connect(const std::string& address, Waiting waiting) {
  constexpr char kPrefix[] = "tcp:127.0.0.1:";
  int port = 0;
  if (address.rfind(kPrefix, 0) != 0 ||
      !absl::SimpleAtoi(address.substr(sizeof(kPrefix) - 1), &port)) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is not ", kPrefix, "PORT"));
  }
  RawSocket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), waiting);
  if (socket.fd_ < 0) return SystemError("socket");
  const sockaddr_in peer = Loopback(static_cast<uint16_t>(port));
  if (!SetNoDelay(socket.fd_)) return SystemError("TCP_NODELAY");
  if (::connect(socket.fd_, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0) {
    return SystemError("connect");
  }
  return socket;
}

absl::StatusOr<size_t> RawSocket::Read(void* buffer, size_t size) {
  for (;;) {
    const ssize_t got = ::recv(fd_, buffer, size, flags_);
    if (got > 0) [[likely]]
      return static_cast<size_t>(got);
    if (got == 0) return absl::UnavailableError("the peer closed the connection");
    if (errno != EAGAIN && errno != EINTR) return SystemError("recv");
  }
}

absl::Status RawSocket::Write(const void* data, size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(fd_, next, size, flags_ | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) continue;
      return SystemError("send");
    }
    next += sent;
    size -= static_cast<size_t>(sent);
  }
  return absl::OkStatus();
}

absl::StatusOr<RawListener> RawListener::Listen() {
  RawListener listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "");
  if (listener.fd_ < 0) return SystemError("socket");
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  if (::bind(listener.fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError("bind");
  }
  if (::listen(listener.fd_, SOMAXCONN) != 0) return SystemError("listen");
  if (::getsockname(listener.fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return SystemError("getsockname");
  }
  listener.address_ = absl::StrCat("tcp:127.0.0.1:", ntohs(address.sin_port));
  return listener;
}

RawListener::RawListener(RawListener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), address_(std::move(other.address_)) {}

RawListener::~RawListener() {
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<RawSocket> RawListener::Accept(Waiting waiting) {
  for (;;) {
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0 && errno == EINTR) continue;
    if (fd < 0) return SystemError("accept");
    RawSocket socket(fd, waiting);
    if (!SetNoDelay(fd)) return SystemError("TCP_NODELAY");
    return socket;
  }
}

}  // namespace mi7::bench
