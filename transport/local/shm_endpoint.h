#pragma once

// shm: endpoints, and how mi7:// endpoints use shared memory: where the socket is, and what the
// local options (transport/local_options.h) mean to the transports over it.
//
// Thread-safe: functions only.

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/local/rendezvous.h"
#include "transport/transports.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {

// transports.h Listen and Connect for shm:NAME and shm:/path.
absl::StatusOr<std::unique_ptr<Listener>> ListenAtShm(const Endpoint& endpoint,
                                                      const std::vector<EventLoop*>& loops,
                                                      const TransportOptions& options,
                                                      AcceptCallback on_accept);
void ConnectToShm(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                  Deadline deadline, ConnectCallback done);

// Of mi7:// endpoints.
const LocalCarrier& ShmCarrier();

// The mode and the peer policy, as Unix sockets are told.
UnixOptions UnixOptionsOf(const LocalOptions& local);

}  // namespace mi7::transport
