#pragma once

// Connecting over a Unix socket.

#include <string>

#include "base/deadline.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/stream/stream_context.h"
#include "transport/stream/stream_handshake.h"
#include "transport/transports.h"
#include "transport/unique_fd.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {

// transports.h Connect for an endpoint with a path. UNAVAILABLE: there is no such file, or nobody
// listens there. PERMISSION_DENIED: the file's permissions, or `unix_options.admit`, keep us away.
// FAILED_PRECONDITION: the file is no socket.
void UnixConnect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                 const UnixOptions& unix_options, Deadline deadline, ConnectCallback done);

// Where a Unix socket is, for transports that begin with one.
struct UnixTarget {
  std::string path;      // of the socket file
  UniqueFd socket;       // connected to it already; else it is connected to by `path`
  std::string endpoint;  // what is connected to, for texts
};

// The same with terms. `done` is called on `loop`.
void UnixConnectTo(UnixTarget target, StreamTerms terms, EventLoop* loop,
                   const TransportOptions& options, Deadline deadline, StreamHandshake::Done done);

}  // namespace mi7::transport
