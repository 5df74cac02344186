#include "transport/tcp/tcp_kind.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/limits.h"
#include "transport/tcp/socket_address.h"

namespace mi7::transport {
namespace {

static_assert(std::is_trivially_copyable_v<SocketAddress>);
static_assert(sizeof(SocketAddress) == sizeof(StreamEnds::peer));

class Kind final : public StreamKind {
 public:
  absl::string_view name() const override { return "tcp"; }
  bool passes_descriptors() const override { return false; }

  void Configure(int fd, const Limits& limits) const override {
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
    // Nor is there a probe while bytes of ours wait for their acknowledgement, which the system
    // would send again for a quarter of an hour. A peer that takes nothing has as long as one whose
    // bytes still wait in our queue, and as the probes take, which this time goes before (tcp(7)).
    const absl::Duration patience = std::max(
        limits.write_stall_timeout, absl::Seconds(kIdleSeconds + kIntervalSeconds * kProbes));
    const unsigned user_timeout_ms = patience == absl::InfiniteDuration()
                                         ? 0  // the system's own
                                         : static_cast<unsigned>(std::min<int64_t>(
                                               absl::ToInt64Milliseconds(patience), INT_MAX));
    ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
  }

  StreamEnds EndsOf(int fd, bool) const override {
    const SocketAddress peer = SocketAddress::PeerOf(fd);
    const SocketAddress local = SocketAddress::LocalOf(fd);
    StreamEnds ends;
    std::memcpy(ends.peer.data(), &peer, sizeof(peer));
    std::memcpy(ends.local.data(), &local, sizeof(local));
    return ends;
  }
  std::string PeerText(const StreamEnds& ends, bool) const override { return Text(ends.peer); }
  std::string LocalText(const StreamEnds& ends, bool) const override { return Text(ends.local); }

 private:
  static std::string Text(const std::array<std::byte, sizeof(SocketAddress)>& end) {
    SocketAddress address;
    std::memcpy(&address, end.data(), sizeof(address));
    return absl::StrCat("tcp:", address.ToString());
  }
};

}  // namespace

const StreamKind* TcpKind() {
  static const Kind kind;
  return &kind;
}

}  // namespace mi7::transport
