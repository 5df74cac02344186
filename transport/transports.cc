#include "transport/transports.h"

#include <utility>

#include "transport/tcp/tcp_connector.h"
#include "transport/tcp/tcp_listener.h"

namespace mi7::transport {

absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                 const std::vector<EventLoop*>& loops,
                                                 const TransportOptions& options,
                                                 AcceptCallback on_accept) {
  switch (endpoint.scheme) {
    case Endpoint::Scheme::kTcp:
    case Endpoint::Scheme::kMi7:
      return TcpListen(endpoint, loops, options, std::move(on_accept));
    case Endpoint::Scheme::kInproc:
      break;
  }
  return absl::InvalidArgumentError("cannot listen on " + endpoint.ToString());
}

void Connect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
             Deadline deadline, ConnectCallback done) {
  switch (endpoint.scheme) {
    case Endpoint::Scheme::kTcp:
    case Endpoint::Scheme::kMi7:
      TcpConnect(endpoint, loop, options, deadline, std::move(done));
      return;
    case Endpoint::Scheme::kInproc:
      break;
  }
  loop->Post([text = endpoint.ToString(), done = std::move(done)]() mutable {
    done(absl::InvalidArgumentError("cannot connect to " + text));
  });
}

}  // namespace mi7::transport
