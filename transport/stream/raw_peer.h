#pragma once

// For tests: peers that are none of ours, on plain sockets.

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/limits.h"
#include "transport/endpoint.h"
#include "transport/frame_assembler.h"
#include "transport/handshake.h"
#include "transport/local/socket_file.h"
#include "transport/message.h"
#include "transport/stream/testing.h"
#include "transport/tcp/socket_address.h"
#include "transport/unique_fd.h"
#include "transport/unix/unix_address.h"

namespace mi7::transport::testing {

// A plain socket to or from us.
class RawPeer {
 public:
  explicit RawPeer(UniqueFd fd) : fd_(std::move(fd)) {}
  static RawPeer ConnectTo(const Endpoint& endpoint) {
    if (!endpoint.path.empty()) {
      const auto unix_address = UnixAddress(endpoint.path);
      UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      MI7_CHECK(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*unix_address),
                          sizeof(*unix_address)) == 0,
                "connects");
      return RawPeer(std::move(fd));
    }
    SocketAddress address;
    MI7_CHECK(SocketAddress::FromNumeric(endpoint.host, endpoint.port, address), "numeric");
    UniqueFd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    MI7_CHECK(::connect(fd.get(), address.get(), address.length()) == 0, "connects");
    return RawPeer(std::move(fd));
  }
  void Send(const std::string& bytes) {
    size_t at = 0;
    while (at < bytes.size()) {
      const ssize_t sent = ::send(fd_.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return;  // closed by the other side, which the test will see
      at += static_cast<size_t>(sent);
    }
  }
  // Sends `bytes` at once, and `descriptors` with them.
  void SendWith(const std::string& bytes, const std::vector<int>& descriptors) {
    iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))] = {};
    MI7_CHECK(!descriptors.empty() && descriptors.size() <= 64, "1 to 64 descriptors");
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size() * sizeof(int));
    MI7_CHECK(::sendmsg(fd_.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()),
              "a small message is sent at once");
  }
  // Sends until nothing more is taken for `patience_ms`; returns how much was.
  size_t SendUntilBlocked(const std::string& bytes, int patience_ms) {
    size_t at = 0;
    pollfd descriptor{fd_.get(), POLLOUT, 0};
    while (at < bytes.size() && ::poll(&descriptor, 1, patience_ms) == 1) {
      const ssize_t sent =
          ::send(fd_.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) at += static_cast<size_t>(sent);
    }
    return at;
  }
  // Everything until the end, or as much as `most`.
  std::string Read(size_t most = SIZE_MAX) {
    std::string all;
    char part[4096];
    pollfd descriptor{fd_.get(), POLLIN, 0};
    while (all.size() < most && ::poll(&descriptor, 1, 20'000) == 1) {
      const ssize_t got = ::recv(fd_.get(), part, std::min(sizeof(part), most - all.size()), 0);
      if (got <= 0) break;
      all.append(part, static_cast<size_t>(got));
    }
    return all;
  }
  // Bytes that have come and were not read.
  size_t Waiting() const {
    int bytes = 0;
    MI7_CHECK(::ioctl(fd_.get(), FIONREAD, &bytes) == 0, "a socket says so");
    return static_cast<size_t>(bytes);
  }
  void CloseSending() { ::shutdown(fd_.get(), SHUT_WR); }
  // On a Unix socket the other side's writes fail from now on.
  void CloseReading() { ::shutdown(fd_.get(), SHUT_RD); }
  void Reset() {
    const linger now{1, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    fd_.reset();
  }
  void Close() { fd_.reset(); }

 private:
  UniqueFd fd_;
};

// A server that is no server of ours.
class RawServer {
 public:
  explicit RawServer(Endpoint::Scheme scheme) : endpoint_(NewEndpoint(scheme)) {
    if (scheme == Endpoint::Scheme::kUnix) {
      const SocketPath path = SplitSocketPath(endpoint_.path);
      auto file = SocketFile::Listen(*Directory::Open(path.directory), path.name, {});
      MI7_CHECK(file.ok(), "listens");
      ::fcntl(file->fd(), F_SETFL, 0);
      file_.emplace(*std::move(file));
      return;
    }
    fd_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SocketAddress any;
    SocketAddress::FromNumeric("127.0.0.1", 0, any);
    MI7_CHECK(::bind(fd_.get(), any.get(), any.length()) == 0, "binds");
    MI7_CHECK(::listen(fd_.get(), 1) == 0, "listens");
    endpoint_.port = SocketAddress::LocalOf(fd_.get()).port();
  }
  const Endpoint& endpoint() const { return endpoint_; }
  RawPeer Accept() {
    return RawPeer(UniqueFd(::accept(file_ ? file_->fd() : fd_.get(), nullptr, nullptr)));
  }

 private:
  Endpoint endpoint_;
  std::optional<SocketFile> file_;
  UniqueFd fd_;
};

// As it goes over a stream.
inline std::string BytesOf(OutgoingMessage message) {
  PieceList pieces;
  MI7_CHECK(FinishHeapMessage(*message, Limits{}, pieces).ok(), "a sound message");
  std::string bytes;
  for (const ByteSpan& piece : pieces) {
    bytes.append(reinterpret_cast<const char*>(piece.data), piece.size);
  }
  return bytes;
}
inline std::string Opening() {
  return {reinterpret_cast<const char*>(kOpening.data()), kOpening.size()};
}
// Bytes of what the library sends: its Hello has an instance id.
inline size_t GreetingBytes() {
  const std::array<std::byte, 16> id{};
  return kOpeningBytes + BytesOf(MakeHello(Limits{}, id)).size();
}
inline std::string Greeting() { return Opening() + BytesOf(MakeHello(Limits{}, {})); }

// The status in the kClose message that ends `bytes`.
inline absl::Status CloseIn(const std::string& bytes) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  FrameAssembler::Received received;
  absl::Status last = absl::NotFoundError("no close message in " + std::to_string(bytes.size()));
  for (size_t at = kOpeningBytes; at < bytes.size();) {
    const auto space = assembler.Space();
    const size_t part = std::min(space.size(), bytes.size() - at);
    std::memcpy(space.data(), bytes.data() + at, part);
    assembler.Filled(part);
    at += part;
    while (assembler.Next(received) == FrameAssembler::Result::kMessage) {
      if (received.message.header().type == FrameType::kClose) last = ReadClose(received.message);
      received.message.reset();
    }
  }
  return last;
}

// Collects what a server turns away.
class Refusals {
 public:
  void Attach(TransportOptions& options) {
    options.on_refused = [this](const std::string& peer, const absl::Status& why) {
      absl::MutexLock lock(&mutex_);
      peers_.push_back(peer);
      refused_.push_back(why);
    };
  }
  absl::Status Wait(size_t n = 0) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, n]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return refused_.size() > n; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience)) {
      return absl::DeadlineExceededError("nobody was refused");
    }
    return refused_[n];
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> peers_;
  std::vector<absl::Status> refused_;
};

}  // namespace mi7::transport::testing
