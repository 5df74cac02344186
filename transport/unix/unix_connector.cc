#include "transport/unix/unix_connector.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <stop_token>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "transport/stream/connect_cancel.h"
#include "transport/stream/socket.h"
#include "transport/unix/unix_address.h"
#include "transport/unix/unix_kind.h"

namespace mi7::transport {
namespace {

// Between attempts while the server's backlog is full: connect does not wait for room.
constexpr auto kRetryFirst = absl::Milliseconds(1);
constexpr auto kRetryMax = absl::Milliseconds(50);

// One attempt to connect. Loop thread only; refers to itself until it has ended.
class Connector final : public std::enable_shared_from_this<Connector> {
 public:
  Connector(UnixTarget target, StreamTerms terms, EventLoop* loop, const TransportOptions& options,
            Deadline deadline, StreamHandshake::Done done)
      : target_(std::move(target)),
        loop_(loop),
        context_(ShareUnixContext(options, target_.path)),
        terms_(std::make_shared<const StreamTerms>(std::move(terms))),
        deadline_(deadline),
        cancel_token_(options.cancel),
        done_(std::move(done)),
        timer_(loop, [this] { Try(); }) {}

  void Begin() {
    self_ = shared_from_this();
    deadline_ = std::min(deadline_, Deadline::After(context_->limits.handshake_timeout));
    cancel_.Listen(cancel_token_, loop_, weak_from_this());
    if (target_.socket && !deadline_.passed()) {
      ShakeHands(std::move(target_.socket));
    } else {
      Try();
    }
  }

  // ConnectCancel.
  void Cancel() {
    if (self_ == nullptr) return;
    absl::Status cancelled = absl::CancelledError("was given up");
    if (const std::shared_ptr<StreamHandshake> handshake = handshake_.lock()) {
      handshake->Cancel(std::move(cancelled));
    } else {
      Finish(std::move(cancelled));
    }
  }

 private:
  void Try() {
    if (deadline_.passed()) {
      Finish(absl::DeadlineExceededError(
          retry_ == kRetryFirst
              ? "the deadline passed before it began"
              : "the deadline passed while the server had no room for another client that waits to "
                "be accepted"));
      return;
    }
    const absl::StatusOr<sockaddr_un> address = UnixAddress(target_.path);
    if (!address.ok()) {
      Finish(address.status());
      return;
    }
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) {
      Finish(SocketError("making a socket", errno));
    } else if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address),
                         sizeof(*address)) == 0) {
      ShakeHands(std::move(socket));
    } else if (errno == EAGAIN || errno == EINTR) {
      timer_.Schedule(std::min(deadline_, Deadline::After(retry_)));
      retry_ = std::min(retry_ * 2, absl::Duration(kRetryMax));
    } else {
      Finish(Failure(errno));
    }
  }

  absl::Status Failure(int error) const {
    switch (error) {
      case ENOENT:
      case ENOTDIR:
        return absl::UnavailableError(
            absl::StrCat("there is no socket file ", target_.path, "; is the server running?"));
      case ECONNREFUSED: {
        struct stat found;
        if (::stat(target_.path.c_str(), &found) == 0 && !S_ISSOCK(found.st_mode)) {
          return absl::FailedPreconditionError(absl::StrCat(target_.path, " is no socket"));
        }
        return absl::UnavailableError(
            absl::StrCat("connection refused: nobody listens at ", target_.path,
                         " any more; the server that made it has ended without deleting it"));
      }
      case EPROTOTYPE:
        return absl::FailedPreconditionError(
            absl::StrCat(target_.path, " is a socket of another type than a mi7 server's"));
      default:
        return SocketError(target_.path, error);
    }
  }

  void ShakeHands(UniqueFd socket) {
    const std::shared_ptr<Connector> alive = self_;  // it may end inside Start
    handshake_ = StreamHandshake::Start(
        loop_, std::move(socket), context_, terms_, /*accepted=*/false, deadline_,
        [self = self_](absl::StatusOr<StreamMade> made) { self->Finish(std::move(made)); });
  }

  void Finish(absl::StatusOr<StreamMade> result) {
    if (self_ == nullptr) return;
    const std::shared_ptr<Connector> alive = std::move(self_);
    timer_.Cancel();
    cancel_.StopListening();
    if (!result.ok()) {
      result = absl::Status(result.status().code(), absl::StrCat("connecting to ", target_.endpoint,
                                                                 ": ", result.status().message()));
    }
    std::exchange(done_, nullptr)(std::move(result));
  }

  UnixTarget target_;
  EventLoop* const loop_;
  const std::shared_ptr<StreamContext> context_;
  const std::shared_ptr<const StreamTerms> terms_;
  Deadline deadline_;
  const std::stop_token cancel_token_;
  ConnectCancel cancel_;
  std::weak_ptr<StreamHandshake> handshake_;
  StreamHandshake::Done done_;
  EventLoop::Timer timer_;
  absl::Duration retry_ = kRetryFirst;
  std::shared_ptr<Connector> self_;
};

}  // namespace

void UnixConnectTo(UnixTarget target, StreamTerms terms, EventLoop* loop,
                   const TransportOptions& options, Deadline deadline, StreamHandshake::Done done) {
  auto connector = std::make_shared<Connector>(std::move(target), std::move(terms), loop, options,
                                               deadline, std::move(done));
  loop->Post([connector = std::move(connector)] { connector->Begin(); });
}

void UnixConnect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                 const UnixOptions& unix_options, Deadline deadline, ConnectCallback done) {
  StreamTerms terms;
  terms.instance_id = options.instance_id;
  terms.admit = AdmitPeers(unix_options.admit);
  UnixConnectTo({.path = endpoint.path, .socket = {}, .endpoint = endpoint.ToString()},
                std::move(terms), loop, options, deadline,
                [done = std::move(done)](absl::StatusOr<StreamMade> made) mutable {
                  if (made.ok()) {
                    done(std::move(made->connection));
                  } else {
                    done(std::move(made).status());
                  }
                });
}

}  // namespace mi7::transport
