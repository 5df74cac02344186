#include "transport/transports.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "transport/inproc/inproc.h"
#include "transport/local/rendezvous.h"
#include "transport/local/shm_endpoint.h"
#include "transport/tcp/tcp_connector.h"
#include "transport/tcp/tcp_listener.h"
#include "transport/unix/unix_connector.h"
#include "transport/unix/unix_listener.h"

namespace mi7::transport {
absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                 const std::vector<EventLoop*>& loops,
                                                 const TransportOptions& options,
                                                 AcceptCallback on_accept) {
  switch (endpoint.scheme) {
    case Endpoint::Scheme::kTcp:
      return TcpListen(endpoint, loops, options, std::move(on_accept));
    case Endpoint::Scheme::kMi7:
      return RendezvousListen(endpoint, ShmCarrier(), loops, options, std::move(on_accept));
    case Endpoint::Scheme::kInproc:
      return inproc::Listen(endpoint, loops, options, std::move(on_accept));
    case Endpoint::Scheme::kUnix:
      return UnixListen(endpoint, loops, options, UnixOptionsOf(*options.local),
                        std::move(on_accept));
    case Endpoint::Scheme::kShm:
      return ListenAtShm(endpoint, loops, options, std::move(on_accept));
  }
  MI7_CHECK(false, "an endpoint has one of the known schemes");
}

void Connect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
             Deadline deadline, ConnectCallback done) {
  switch (endpoint.scheme) {
    case Endpoint::Scheme::kTcp:
      TcpConnect(endpoint, loop, options, deadline, std::move(done));
      return;
    case Endpoint::Scheme::kMi7:
      RendezvousConnect(
          endpoint, ShmCarrier(), loop, options, deadline,
          [done = std::move(done)](absl::StatusOr<std::shared_ptr<Connection>> made,
                                   const std::string&) mutable { done(std::move(made)); });
      return;
    case Endpoint::Scheme::kInproc:
      inproc::Connect(endpoint, loop, options, deadline, std::move(done));
      return;
    case Endpoint::Scheme::kUnix:
      UnixConnect(endpoint, loop, options, UnixOptionsOf(*options.local), deadline,
                  std::move(done));
      return;
    case Endpoint::Scheme::kShm:
      ConnectToShm(endpoint, loop, options, deadline, std::move(done));
      return;
  }
  MI7_CHECK(false, "an endpoint has one of the known schemes");
}

void ConnectExplained(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                      Deadline deadline, ExplainedConnectCallback done) {
  if (endpoint.scheme == Endpoint::Scheme::kMi7) {
    RendezvousConnect(endpoint, ShmCarrier(), loop, options, deadline, std::move(done));
    return;
  }
  Connect(endpoint, loop, options, deadline,
          [done = std::move(done)](absl::StatusOr<std::shared_ptr<Connection>> made) mutable {
            done(std::move(made), "");
          });
}

}  // namespace mi7::transport
