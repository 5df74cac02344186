#pragma once

// Listening on stream sockets of every kind: acceptors on the first loop, connections dealt to all
// loops in turn, a handshake with each.

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/stream/stream_context.h"
#include "transport/transports.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// Connections that the system keeps for us until we accept them; it lowers it to
// net.core.somaxconn.
inline constexpr int kBacklog = 4096;

// What is listened on.
struct Listening {
  std::vector<UniqueFd> sockets;  // of the kind, listening already, non-blocking
  Endpoint endpoint;              // what the listener says
  std::shared_ptr<StreamContext> context;
  StreamTerms terms;
  // Runs once, on the thread that closes, before the sockets do. May be empty.
  absl::AnyInvocable<void()> before_close = nullptr;
};

// transports.h Listen, from there on. RESOURCE_EXHAUSTED: see EventLoop::Watch.
absl::StatusOr<std::unique_ptr<Listener>> ListenOn(Listening listening,
                                                   const std::vector<EventLoop*>& loops,
                                                   const TransportOptions& options,
                                                   AcceptCallback on_accept);

}  // namespace mi7::transport
