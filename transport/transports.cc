#include "transport/transports.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/inproc/inproc.h"
#include "transport/local/peer_policy.h"
#include "transport/tcp/tcp_connector.h"
#include "transport/tcp/tcp_listener.h"
#include "transport/unix/unix_connector.h"
#include "transport/unix/unix_listener.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {
namespace {

UnixOptions UnixOptionsOf(const LocalOptions& local) {
  return {.mode = local.socket_mode, .admit = [policy = local.peers](const PeerCredentials& peer) {
            return CheckPeer(policy, peer);
          }};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                 const std::vector<EventLoop*>& loops,
                                                 const TransportOptions& options,
                                                 AcceptCallback on_accept) {
  switch (endpoint.scheme) {
    case Endpoint::Scheme::kTcp:
    case Endpoint::Scheme::kMi7:
      return TcpListen(endpoint, loops, options, std::move(on_accept));
    case Endpoint::Scheme::kInproc:
      return inproc::Listen(endpoint, loops, options, std::move(on_accept));
    case Endpoint::Scheme::kUnix:
      return UnixListen(endpoint, loops, options, UnixOptionsOf(*options.local),
                        std::move(on_accept));
    case Endpoint::Scheme::kShm:
      return absl::UnimplementedError(
          absl::StrCat("listening on ", endpoint.ToString(), ": not yet"));
  }
  MI7_CHECK(false, "an endpoint has one of the known schemes");
}

void Connect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
             Deadline deadline, ConnectCallback done) {
  switch (endpoint.scheme) {
    case Endpoint::Scheme::kTcp:
    case Endpoint::Scheme::kMi7:
      TcpConnect(endpoint, loop, options, deadline, std::move(done));
      return;
    case Endpoint::Scheme::kInproc:
      inproc::Connect(endpoint, loop, options, deadline, std::move(done));
      return;
    case Endpoint::Scheme::kUnix:
      UnixConnect(endpoint, loop, options, UnixOptionsOf(*options.local), deadline,
                  std::move(done));
      return;
    case Endpoint::Scheme::kShm:
      loop->Post([text = endpoint.ToString(), done = std::move(done)]() mutable {
        done(absl::UnimplementedError(absl::StrCat("connecting to ", text, ": not yet")));
      });
      return;
  }
  MI7_CHECK(false, "an endpoint has one of the known schemes");
}

void ConnectExplained(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                      Deadline deadline, ExplainedConnectCallback done) {
  Connect(endpoint, loop, options, deadline,
          [done = std::move(done)](absl::StatusOr<std::shared_ptr<Connection>> made) mutable {
            done(std::move(made), "");
          });
}

}  // namespace mi7::transport
