#include "bench/subjects/raw_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mi7::bench {
namespace {

absl::Status SystemError(const char* call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", std::strerror(errno)));
}

// Of any family. As text it is the hexadecimal form of its bytes.
struct Address {
  sockaddr_storage storage = {};
  socklen_t size = sizeof(storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

// Where to let the system pick a name.
Address AnyAddress(bool is_unix) {
  Address address;
  if (is_unix) {
    address.storage.ss_family = AF_UNIX;
    address.size = sizeof(sa_family_t);
    return address;
  }
  sockaddr_in loopback = {};
  loopback.sin_family = AF_INET;
  loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::memcpy(&address.storage, &loopback, sizeof(loopback));
  address.size = sizeof(loopback);
  return address;
}

bool SetNoDelay(int fd, sa_family_t family) {
  if (family != AF_INET) return true;
  const int one = 1;
  return ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0;
}

}  // namespace

int RawSocket::FlagsFor(Waiting waiting) {
  return waiting == Waiting::kSpinning ? MSG_DONTWAIT : 0;
}

RawSocket::RawSocket(RawSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      flags_(other.flags_),
      epoll_fd_(std::exchange(other.epoll_fd_, -1)) {}

RawSocket& RawSocket::operator=(RawSocket&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(flags_, other.flags_);
  std::swap(epoll_fd_, other.epoll_fd_);
  return *this;
}

RawSocket::~RawSocket() {
  if (epoll_fd_ >= 0) ::close(epoll_fd_);
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<RawSocket> RawSocket::Connect(const std::string& address, Waiting waiting) {
  const std::string bytes = absl::HexStringToBytes(address);
  Address peer;
  if (bytes.size() < sizeof(sa_family_t) || bytes.size() > sizeof(peer.storage)) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no server's address"));
  }
  std::memcpy(&peer.storage, bytes.data(), bytes.size());
  peer.size = static_cast<socklen_t>(bytes.size());
  const sa_family_t family = peer.storage.ss_family;
  RawSocket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), waiting);
  if (socket.fd_ < 0) return SystemError("socket");
  if (!SetNoDelay(socket.fd_, family)) return SystemError("TCP_NODELAY");
  if (::connect(socket.fd_, peer.get(), peer.size) != 0) return SystemError("connect");
  return socket;
}

absl::Status RawSocket::WaitInEpoll() {
  epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) return SystemError("epoll_create1");
  epoll_event readable = {};
  readable.events = EPOLLIN;
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd_, &readable) != 0) return SystemError("epoll_ctl");
  return absl::OkStatus();
}

absl::StatusOr<size_t> RawSocket::Read(void* buffer, size_t size) {
  for (;;) {
    if (epoll_fd_ >= 0) {
      epoll_event event;
      if (::epoll_wait(epoll_fd_, &event, 1, /*timeout=*/-1) < 0 && errno != EINTR) {
        return SystemError("epoll_wait");
      }
    }
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

absl::StatusOr<RawListener> RawListener::Listen(const Workload& workload) {
  const bool is_unix = workload.transport == "unix";
  Address address = AnyAddress(is_unix);
  RawListener listener(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "");
  if (listener.fd_ < 0) return SystemError("socket");
  if (::bind(listener.fd_, address.get(), address.size) != 0) return SystemError("bind");
  if (::listen(listener.fd_, SOMAXCONN) != 0) return SystemError("listen");
  Address picked;
  if (::getsockname(listener.fd_, picked.get(), &picked.size) != 0) {
    return SystemError("getsockname");
  }
  listener.address_ = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(&picked.storage), picked.size));
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
    Address own;
    if (::getsockname(fd, own.get(), &own.size) != 0) return SystemError("getsockname");
    if (!SetNoDelay(fd, own.storage.ss_family)) return SystemError("TCP_NODELAY");
    return socket;
  }
}

}  // namespace mi7::bench
