#pragma once

// Listening on TCP.

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/transports.h"

namespace mi7::transport {

// transports.h Listen for an endpoint with host and port.
absl::StatusOr<std::unique_ptr<Listener>> TcpListen(const Endpoint& endpoint,
                                                    const std::vector<EventLoop*>& loops,
                                                    const TransportOptions& options,
                                                    AcceptCallback on_accept);

}  // namespace mi7::transport
