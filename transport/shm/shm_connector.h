#pragma once

// Connecting to a peer in shared memory, over its Unix socket.

#include "base/deadline.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/shm/shm_terms.h"
#include "transport/stream/stream_handshake.h"
#include "transport/transports.h"
#include "transport/unix/unix_connector.h"

namespace mi7::transport {

// Whether a connection over the socket itself will do when the server takes no shared memory, or we
// have none to offer.
enum class ShmNeed { kRequired, kPreferred };

// transports.h Connect for shm: with a path: shared memory or an error. As UnixConnect
// (transport/unix/unix_connector.h), and FAILED_PRECONDITION with the server's reason when it takes
// no shared memory, RESOURCE_EXHAUSTED when we have none, INVALID_ARGUMENT for memory options that
// are not sound.
void ShmConnect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                const ShmTerms& terms, Deadline deadline, ConnectCallback done);

// The same at a socket that is found already. Which transport it became is in
// StreamMade::connection's info; when it is "unix" although shared memory is preferred,
// StreamMade::declined says why.
void ShmConnectTo(UnixTarget target, ShmNeed need, EventLoop* loop, const TransportOptions& options,
                  const ShmTerms& terms, Deadline deadline, StreamHandshake::Done done);

}  // namespace mi7::transport
