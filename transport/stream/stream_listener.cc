#include "transport/stream/stream_listener.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <atomic>
#include <latch>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/handshake.h"
#include "transport/stream/socket.h"
#include "transport/stream/stream_handshake.h"

namespace mi7::transport {
namespace {

// Connections accepted before the loop looks at others.
constexpr int kAcceptsPerTurn = 64;
// How long accepting rests when the process or the machine has no descriptor or memory left.
constexpr auto kRest = absl::Milliseconds(100);

// What outlives the listener: handshakes and accepted connections refer to it.
struct Shared {
  std::vector<EventLoop*> loops;
  std::shared_ptr<StreamContext> context;
  std::shared_ptr<const StreamTerms> terms;
  AcceptCallback on_accept;
  decltype(TransportOptions::on_refused) on_refused;
  std::atomic<bool> closed{false};
  // Handshakes under way; each set is touched on its loop's thread only.
  std::vector<absl::flat_hash_set<std::shared_ptr<StreamHandshake>>> handshakes;

  void Refused(const std::string& peer, const absl::Status& why) const {
    if (on_refused) on_refused(peer, why);
  }
};

// On loop `index`.
void ShakeHands(const std::shared_ptr<Shared>& shared, size_t index, UniqueFd socket) {
  if (shared->closed.load(std::memory_order_acquire)) {
    shared->context->connections.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  const std::string peer = shared->context->kind->PeerText(socket.get(), /*accepted=*/true);
  // The set needs the handshake, which is known only after Start; its end may come inside.
  auto own = std::make_shared<std::weak_ptr<StreamHandshake>>();
  std::shared_ptr<StreamHandshake> handshake = StreamHandshake::Start(
      shared->loops[index], std::move(socket), shared->context, shared->terms, /*accepted=*/true,
      Deadline::After(shared->context->limits.handshake_timeout),
      [shared, index, own, peer](absl::StatusOr<StreamMade> made) {
        if (auto ended = own->lock()) shared->handshakes[index].erase(ended);
        *own = {};
        // Also while Close waits: this client has our Hello and may have sent calls, which the
        // server refuses in order. Handshakes that Close finds under way end with an error.
        if (made.ok()) {
          shared->on_accept(std::move(made->connection));
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
    StreamContext& context = *shared_->context;
    const uint32_t max = context.limits.connections_max;
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
    if (FinishHeapMessage(*message, shared_->context->limits, pieces).ok()) {
      for (const ByteSpan& piece : pieces) {
        bytes.append(reinterpret_cast<const char*>(piece.data), piece.size);
      }
      static_cast<void>(
          !::send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
    }
    shared_->Refused(shared_->context->kind->PeerText(socket.get(), /*accepted=*/true), why);
    ::shutdown(socket.get(), SHUT_WR);
    DiscardUnread(socket.get());
  }

  const std::shared_ptr<Shared> shared_;
  EventLoop* const loop_;
  UniqueFd socket_;
  EventLoop::Timer rest_;
  size_t next_ = 0;
};

class StreamListener final : public Listener {
 public:
  StreamListener(Endpoint endpoint, std::shared_ptr<Shared> shared,
                 absl::AnyInvocable<void()> before_close)
      : endpoint_(std::move(endpoint)),
        shared_(std::move(shared)),
        before_close_(std::move(before_close)) {}
  ~StreamListener() override { Close(); }

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
    // A listener that is closed may outlive its loops.
    if (shared_->closed.load(std::memory_order_acquire)) return;
    if (shared_->loops[0]->forked()) return;
    if (shared_->closed.exchange(true, std::memory_order_acq_rel)) return;
    for (EventLoop* loop : shared_->loops) {
      MI7_CHECK(!loop->InLoopThread(), "a listener is not closed on a loop's thread");
    }
    if (before_close_) before_close_();
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
  absl::AnyInvocable<void()> before_close_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> ListenOn(Listening listening,
                                                   const std::vector<EventLoop*>& loops,
                                                   const TransportOptions& options,
                                                   AcceptCallback on_accept) {
  MI7_CHECK(!loops.empty(), "a listener needs an event loop");
  auto shared = std::make_shared<Shared>();
  shared->loops = loops;
  shared->context = std::move(listening.context);
  shared->terms = std::make_shared<const StreamTerms>(std::move(listening.terms));
  shared->on_accept = std::move(on_accept);
  shared->on_refused = options.on_refused;
  shared->handshakes.resize(loops.size());
  auto listener = std::make_unique<StreamListener>(std::move(listening.endpoint), std::move(shared),
                                                   std::move(listening.before_close));
  if (absl::Status begun = listener->Begin(std::move(listening.sockets)); !begun.ok()) return begun;
  return listener;
}

}  // namespace mi7::transport
