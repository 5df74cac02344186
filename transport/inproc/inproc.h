#pragma once

// Connections within one process: inproc:name.
//
// A process-wide table holds the names that are listened on; a name lives as long as its listener.
// Messages are handed over without a copy, and a blocking call without a deadline runs its handler
// on the caller's thread (link.h).

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/transports.h"

namespace mi7::transport::inproc {

// As transport::Listen (transports.h). ALREADY_EXISTS: the name is listened on in this process.
absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                 const std::vector<EventLoop*>& loops,
                                                 const TransportOptions& options,
                                                 AcceptCallback on_accept);

// As transport::Connect. UNAVAILABLE: nobody in this process listens on that name.
// RESOURCE_EXHAUSTED: the listener has limits.connections_max connections. DEADLINE_EXCEEDED:
// `deadline` has passed already; connecting itself waits for nothing.
void Connect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
             Deadline deadline, ConnectCallback done);

}  // namespace mi7::transport::inproc
