#include "transport/tcp/tcp_connector.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/epoll.h>

#include <algorithm>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <uv.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "transport/stream/connect_cancel.h"
#include "transport/stream/stream_context.h"
#include "transport/stream/stream_handshake.h"
#include "transport/tcp/socket_address.h"
#include "transport/tcp/tcp_kind.h"
#include "transport/unique_fd.h"

namespace mi7::transport {
namespace {

// One attempt to connect. Loop thread only; refers to itself until it has ended.
class Connector final : public Watcher, public std::enable_shared_from_this<Connector> {
 public:
  Connector(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
            Deadline deadline, StreamHandshake::Done done)
      : endpoint_(endpoint),
        loop_(loop),
        context_(ShareContext(options, TcpKind())),
        instance_id_(options.instance_id),
        deadline_(deadline),
        cancel_token_(options.cancel),
        done_(std::move(done)),
        timer_(loop, [this] { OnDeadline(); }) {}

  void Begin() {
    self_ = shared_from_this();
    if (deadline_.passed()) {
      OnDeadline();
      return;
    }
    timer_.Schedule(deadline_);
    cancel_.Listen(cancel_token_, loop_, weak_from_this());
    SocketAddress numeric;
    if (SocketAddress::FromNumeric(endpoint_.host, endpoint_.port, numeric)) {
      addresses_.push_back(numeric);
      TryNext();
      return;
    }
    Resolve();
  }

  // ConnectCancel.
  void Cancel() {
    if (self_ == nullptr) return;
    constexpr absl::string_view kWhy = "was given up";
    if (const std::shared_ptr<StreamHandshake> handshake = handshake_.lock()) {
      handshake->Cancel(absl::CancelledError(kWhy));
      return;
    }
    if (lookup_ != nullptr) uv_cancel(reinterpret_cast<uv_req_t*>(&lookup_->request));
    Finish(absl::CancelledError(absl::StrCat("connecting to ", endpoint_.ToString(), ": ", kWhy)));
  }

  // The socket that is being connected.
  void OnReady(uint32_t) override {
    int error = 0;
    socklen_t length = sizeof(error);
    ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    loop_->Unwatch(socket_.get(), this);
    watched_ = false;
    OnConnected(error);
  }

 private:
  // A name being resolved; outlives the connector when that gives up first.
  struct Lookup {
    uv_getaddrinfo_t request;
    std::shared_ptr<Connector> connector;
  };

  void Resolve() {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_ADDRCONFIG;
    auto lookup = std::make_unique<Lookup>();
    lookup->request.data = lookup.get();
    lookup->connector = self_;
    const int error = uv_getaddrinfo(loop_->uv(), &lookup->request, &Connector::OnResolved,
                                     endpoint_.host.c_str(), nullptr, &hints);
    if (error != 0) {
      Finish(absl::ResourceExhaustedError(absl::StrCat("connecting to ", endpoint_.ToString(),
                                                       ": resolver: ", uv_strerror(error))));
      return;
    }
    lookup_ = lookup.release();
  }

  static void OnResolved(uv_getaddrinfo_t* request, int error, addrinfo* result) {
    const std::unique_ptr<Lookup> lookup(static_cast<Lookup*>(request->data));
    Connector& connector = *lookup->connector;
    connector.lookup_ = nullptr;
    if (connector.self_ != nullptr) {
      for (const addrinfo* info = result; info != nullptr; info = info->ai_next) {
        if (info->ai_family != AF_INET && info->ai_family != AF_INET6) continue;
        SocketAddress address(info->ai_addr);
        address.set_port(connector.endpoint_.port);
        connector.addresses_.push_back(address);
      }
      if (error != 0 || connector.addresses_.empty()) {
        connector.Finish(absl::UnavailableError(
            absl::StrCat("connecting to ", connector.endpoint_.ToString(), ": host name '",
                         connector.endpoint_.host,
                         "' not found: ", error != 0 ? uv_strerror(error) : "it has no address")));
      } else {
        connector.TryNext();
      }
    }
    uv_freeaddrinfo(result);
  }

  // An address that does not answer must leave time for those after it: each has an equal share of
  // what is left.
  absl::Duration Share() const {
    return deadline_.remaining() / static_cast<int64_t>(addresses_.size() - next_ + 1);
  }
  bool is_last() const { return next_ == addresses_.size(); }

  void TryNext() {
    while (next_ < addresses_.size()) {
      const SocketAddress& address = addresses_[next_++];
      address_deadline_ = is_last() ? deadline_ : Deadline::After(Share());
      timer_.Schedule(address_deadline_);
      socket_ = UniqueFd(
          ::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
      if (!socket_) {
        AddFailure(address, errno);
        continue;
      }
      if (::connect(socket_.get(), address.get(), address.length()) == 0) {
        OnConnected(0);
        return;
      }
      if (errno != EINPROGRESS) {
        AddFailure(address, errno);
        continue;
      }
      if (absl::Status watched = loop_->Watch(socket_.get(), EPOLLOUT, this); !watched.ok()) {
        Finish(std::move(watched));
        return;
      }
      watched_ = true;
      return;
    }
    Finish(absl::UnavailableError(absl::StrCat("connecting to ", endpoint_.ToString(),
                                               " failed: ", absl::StrJoin(failures_, "; "))));
  }

  void AddFailure(const SocketAddress& address, int error) {
    failures_.push_back(absl::StrCat(address.ToString(), ": ", ::strerror(error)));
  }

  void OnConnected(int error) {
    const SocketAddress& address = addresses_[next_ - 1];
    // Without a listener a loopback connect can meet itself (simultaneous open).
    if (error == 0 && SocketAddress::LocalOf(socket_.get()) == address) error = ECONNREFUSED;
    if (error != 0) {
      AddFailure(address, error);
      socket_.reset();
      TryNext();
      return;
    }
    timer_.Cancel();
    const Deadline handshake = Deadline::After(context_->limits.handshake_timeout);
    const std::shared_ptr<Connector> alive = self_;  // it may end inside Start
    handshake_ = StreamHandshake::Start(
        loop_, std::move(socket_), context_,
        std::make_shared<const StreamTerms>(StreamTerms{.instance_id = instance_id_}),
        /*accepted=*/false, std::min(address_deadline_, handshake),
        [self = self_](absl::StatusOr<StreamMade> made) { self->OnHandshake(std::move(made)); });
  }

  void OnHandshake(absl::StatusOr<StreamMade> made) {
    if (made.ok()) {
      Finish(*std::move(made));
    } else if ((absl::IsUnavailable(made.status()) || absl::IsDeadlineExceeded(made.status())) &&
               !is_last()) {
      failures_.emplace_back(made.status().message());
      TryNext();
    } else {
      Finish(absl::Status(made.status().code(), absl::StrCat("connecting to ", endpoint_.ToString(),
                                                             ": ", made.status().message())));
    }
  }

  void OnDeadline() {
    std::string where = "before it began";
    if (lookup_ != nullptr) {
      where = absl::StrCat("while resolving '", endpoint_.host, "'");
      uv_cancel(reinterpret_cast<uv_req_t*>(&lookup_->request));
    } else if (next_ != 0) {
      const SocketAddress& address = addresses_[next_ - 1];
      if (!is_last()) {
        failures_.push_back(
            absl::StrCat(address.ToString(), ": no answer in its share of the time"));
        loop_->Unwatch(socket_.get(), this);
        watched_ = false;
        TryNext();
        return;
      }
      where = absl::StrCat("while connecting to ", address.ToString());
    }
    if (!failures_.empty()) absl::StrAppend(&where, "; before: ", absl::StrJoin(failures_, "; "));
    Finish(absl::DeadlineExceededError(
        absl::StrCat("connecting to ", endpoint_.ToString(), ": the deadline passed ", where)));
  }

  void Finish(absl::StatusOr<StreamMade> result) {
    if (self_ == nullptr) return;
    const std::shared_ptr<Connector> alive = std::move(self_);
    timer_.Cancel();
    cancel_.StopListening();
    if (watched_) loop_->Unwatch(socket_.get(), this);
    watched_ = false;
    socket_.reset();
    std::exchange(done_, nullptr)(std::move(result));
  }

  const Endpoint endpoint_;
  EventLoop* const loop_;
  const std::shared_ptr<StreamContext> context_;
  const InstanceId instance_id_;
  const Deadline deadline_;
  Deadline address_deadline_;  // of the address that is being tried
  const std::stop_token cancel_token_;
  ConnectCancel cancel_;
  std::weak_ptr<StreamHandshake> handshake_;
  StreamHandshake::Done done_;
  EventLoop::Timer timer_;
  Lookup* lookup_ = nullptr;
  std::vector<SocketAddress> addresses_;
  size_t next_ = 0;
  std::vector<std::string> failures_;
  UniqueFd socket_;
  bool watched_ = false;
  std::shared_ptr<Connector> self_;
};

}  // namespace

void TcpConnect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                Deadline deadline, ConnectCallback done) {
  TcpConnectNamed(endpoint, loop, options, deadline,
                  [done = std::move(done)](absl::StatusOr<StreamMade> made) mutable {
                    if (made.ok()) {
                      done(std::move(made->connection));
                    } else {
                      done(std::move(made).status());
                    }
                  });
}

void TcpConnectNamed(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                     Deadline deadline, absl::AnyInvocable<void(absl::StatusOr<StreamMade>)> done) {
  if (endpoint.port == 0 || endpoint.host.empty() || endpoint.host == "*") {
    loop->Post([text = endpoint.ToString(), done = std::move(done)]() mutable {
      done(absl::InvalidArgumentError(
          absl::StrCat("cannot connect to ", text, ": it names no ", "single host and port")));
    });
    return;
  }
  if (absl::Status zone = SocketAddress::CheckZone(endpoint.host); !zone.ok()) {
    loop->Post([failed = absl::NotFoundError(
                    absl::StrCat("connecting to ", endpoint.ToString(), ": ", zone.message())),
                done = std::move(done)]() mutable { done(std::move(failed)); });
    return;
  }
  auto connector = std::make_shared<Connector>(endpoint, loop, options, deadline, std::move(done));
  loop->Post([connector = std::move(connector)] { connector->Begin(); });
}

}  // namespace mi7::transport
