#pragma once

// Connecting over TCP: resolve the name, try its addresses in order, shake hands. Nothing blocks.

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/stream/stream_handshake.h"
#include "transport/transports.h"

namespace mi7::transport {

// transports.h Connect for an endpoint with host and port.
void TcpConnect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                Deadline deadline, ConnectCallback done);

// The same, and tells the name that the server's Hello gives.
void TcpConnectNamed(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                     Deadline deadline, absl::AnyInvocable<void(absl::StatusOr<StreamMade>)> done);

}  // namespace mi7::transport
