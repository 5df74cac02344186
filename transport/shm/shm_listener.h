#pragma once

// Listening for peers in shared memory: at a Unix socket, whose handshake the connections come
// from.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/local/socket_file.h"
#include "transport/shm/shm_terms.h"
#include "transport/transports.h"

namespace mi7::transport {

// transports.h Listen for shm: with a path. As UnixListen (transport/unix/unix_listener.h), and
// INVALID_ARGUMENT for memory options that are not sound. A client that offers no shared memory, or
// whose offer cannot be taken, gets a connection over the socket itself ("unix").
absl::StatusOr<std::unique_ptr<Listener>> ShmListen(const Endpoint& endpoint,
                                                    const std::vector<EventLoop*>& loops,
                                                    const TransportOptions& options,
                                                    const ShmTerms& terms,
                                                    AcceptCallback on_accept);

// The same on a socket that listens already. `endpoint` is what the listener and its connections
// say, `path` that of `file`.
absl::StatusOr<std::unique_ptr<Listener>> ShmListenOn(SocketFile file, const std::string& path,
                                                      const Endpoint& endpoint,
                                                      const std::vector<EventLoop*>& loops,
                                                      const TransportOptions& options,
                                                      const ShmTerms& terms,
                                                      AcceptCallback on_accept);

}  // namespace mi7::transport
