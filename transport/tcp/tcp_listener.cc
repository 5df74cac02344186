#include "transport/tcp/tcp_listener.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/epoll.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/handshake.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/tcp_connection.h"
#include "transport/tcp/tcp_handshake.h"

namespace mi7::transport {
namespace {

constexpr int kBacklog = 4096;  // the system lowers it to net.core.somaxconn
// Connections accepted before the loop looks at others.
constexpr int kAcceptsPerTurn = 64;
// How long accepting rests when the process or the machine has no descriptor or memory left.
constexpr auto kRest = absl::Milliseconds(100);
// Attempts to find a port that is free on every address of a name.
constexpr int kPortAttempts = 8;

// What outlives the listener: handshakes and accepted connections refer to it.
struct Shared {
  std::vector<EventLoop*> loops;
  std::shared_ptr<TcpContext> context;
  AcceptCallback on_accept;
  std::atomic<bool> closed{false};
  // Handshakes under way; each set is touched on its loop's thread only.
  std::vector<absl::flat_hash_set<std::shared_ptr<TcpHandshake>>> handshakes;

  void Refused(const std::string& peer, const absl::Status& why) const {
    if (context->options.on_refused) context->options.on_refused(peer, why);
  }
};

// On loop `index`.
void ShakeHands(const std::shared_ptr<Shared>& shared, size_t index, UniqueFd socket) {
  if (shared->closed.load(std::memory_order_acquire)) {
    shared->context->connections.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  const std::string peer = absl::StrCat("tcp:", SocketAddress::PeerOf(socket.get()).ToString());
  // The set needs the handshake, which is known only after Start; its end may come inside.
  auto own = std::make_shared<std::weak_ptr<TcpHandshake>>();
  std::shared_ptr<TcpHandshake> handshake = TcpHandshake::Start(
      shared->loops[index], std::move(socket), shared->context, /*accepted=*/true,
      Deadline::After(shared->context->options.limits.handshake_timeout),
      [shared, index, own, peer](absl::StatusOr<std::shared_ptr<Connection>> made) {
        if (auto ended = own->lock()) shared->handshakes[index].erase(ended);
        *own = {};
        // Also while Close waits: this client has our Hello and may have sent calls, which the
        // server refuses in order. Handshakes that Close finds under way end with an error.
        if (made.ok()) {
          shared->on_accept(*std::move(made));
        } else {
          shared->Refused(peer, made.status());
        }
      });
  // `own` is shared with the callback: when that has run already, it is not referred to any more.
  if (own.use_count() > 1) {
    *own = handshake;
    shared->handshakes[index].insert(std::move(handshake));
  }
}

// One listening socket. Loop thread only.
class Acceptor final : public Watcher {
 public:
  Acceptor(std::shared_ptr<Shared> shared, UniqueFd socket)
      : shared_(std::move(shared)),
        loop_(shared_->loops[0]),
        socket_(std::move(socket)),
        rest_(loop_, [this] { loop_->Rewatch(socket_.get(), EPOLLIN, this); }) {}

  absl::Status Begin() { return loop_->Watch(socket_.get(), EPOLLIN, this); }

  void End() {
    rest_.Cancel();
    loop_->Unwatch(socket_.get(), this);
    socket_.reset();
  }

  void OnReady(uint32_t) override {
    for (int i = 0; i < kAcceptsPerTurn; ++i) {
      UniqueFd accepted(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (accepted) {
        Deal(std::move(accepted));
        continue;
      }
      switch (errno) {
        case EAGAIN:
          return;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
          // The peers wait in the backlog. Trying again at once would be a busy loop.
          loop_->Rewatch(socket_.get(), 0, this);
          rest_.Schedule(Deadline::After(kRest));
          return;
        default:
          break;  // that one peer is gone already
      }
    }
  }

 private:
  void Deal(UniqueFd socket) {
    TcpContext& context = *shared_->context;
    const uint32_t max = context.options.limits.connections_max;
    if (context.connections.fetch_add(1, std::memory_order_relaxed) >= max) {
      context.connections.fetch_sub(1, std::memory_order_relaxed);
      TurnAway(socket, absl::ResourceExhaustedError(absl::StrCat(
                           "the server has limits.connections_max, ", max, ", connections")));
      return;
    }
    const size_t index = next_++ % shared_->loops.size();
    if (index == 0) {
      ShakeHands(shared_, index, std::move(socket));
      return;
    }
    shared_->loops[index]->Post([shared = shared_, index, socket = std::move(socket)]() mutable {
      ShakeHands(shared, index, std::move(socket));
    });
  }

  // Says why, as far as that goes at once, and closes.
  void TurnAway(const UniqueFd& socket, const absl::Status& why) {
    OutgoingMessage message = MakeClose(why);
    PieceList pieces;
    std::string bytes(reinterpret_cast<const char*>(kOpening.data()), kOpening.size());
    if (FinishHeapMessage(*message, shared_->context->options.limits, pieces).ok()) {
      for (const ByteSpan& piece : pieces) {
        bytes.append(reinterpret_cast<const char*>(piece.data), piece.size);
      }
      static_cast<void>(
          !::send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
    }
    shared_->Refused(absl::StrCat("tcp:", SocketAddress::PeerOf(socket.get()).ToString()), why);
    ::shutdown(socket.get(), SHUT_WR);
    DiscardUnread(socket.get());
  }

  const std::shared_ptr<Shared> shared_;
  EventLoop* const loop_;
  UniqueFd socket_;
  EventLoop::Timer rest_;
  size_t next_ = 0;
};

class TcpListener final : public Listener {
 public:
  TcpListener(Endpoint endpoint, std::shared_ptr<Shared> shared)
      : endpoint_(std::move(endpoint)), shared_(std::move(shared)) {}
  ~TcpListener() override { Close(); }

  absl::Status Begin(std::vector<UniqueFd> sockets) {
    for (UniqueFd& socket : sockets) {
      auto acceptor = std::make_unique<Acceptor>(shared_, std::move(socket));
      // From here on it runs on its loop.
      if (absl::Status begun = acceptor->Begin(); !begun.ok()) return begun;
      acceptors_.push_back(std::move(acceptor));
    }
    return absl::OkStatus();
  }

  const Endpoint& endpoint() const override { return endpoint_; }

  void Close() override {
    if (shared_->closed.exchange(true, std::memory_order_acq_rel)) return;
    for (EventLoop* loop : shared_->loops) {
      MI7_CHECK(!loop->InLoopThread(), "a listener is not closed on a loop's thread");
    }
    std::latch done(static_cast<std::ptrdiff_t>(shared_->loops.size()));
    for (size_t index = 0; index < shared_->loops.size(); ++index) {
      shared_->loops[index]->Post([this, index, &done] {
        if (index == 0) {
          for (auto& acceptor : acceptors_) acceptor->End();
          acceptors_.clear();
        }
        auto handshakes = std::move(shared_->handshakes[index]);
        shared_->handshakes[index].clear();
        for (const auto& handshake : handshakes) {
          handshake->Cancel(absl::UnavailableError("the server stopped listening"));
        }
        done.count_down();
      });
    }
    done.wait();
  }

 private:
  const Endpoint endpoint_;
  const std::shared_ptr<Shared> shared_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
};

// The addresses to listen on. For every address of the machine one IPv6 socket serves both.
absl::StatusOr<std::vector<SocketAddress>> Resolve(const Endpoint& endpoint) {
  if (endpoint.host.empty() || endpoint.host == "*") {
    return std::vector<SocketAddress>{SocketAddress::Any(AF_INET6, endpoint.port)};
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
int Open(SocketAddress& address, UniqueFd& socket) {
  socket =
      UniqueFd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!socket) return errno;
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
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
      error = Open(address, socket);
      if (error == EAFNOSUPPORT && (endpoint.host.empty() || endpoint.host == "*")) {
        address = SocketAddress::Any(AF_INET, bound.port);  // a machine without IPv6
        error = Open(address, socket);
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
  auto shared = std::make_shared<Shared>();
  shared->loops = loops;
  shared->context = std::make_shared<TcpContext>();
  shared->context->options = options;
  shared->on_accept = std::move(on_accept);
  shared->handshakes.resize(loops.size());
  auto listener = std::make_unique<TcpListener>(std::move(bound), std::move(shared));
  if (absl::Status begun = listener->Begin(std::move(sockets)); !begun.ok()) return begun;
  return listener;
}

}  // namespace mi7::transport
