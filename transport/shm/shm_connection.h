#pragma once

// Connections over shared memory: what the handshake on the Unix socket (shm_connector.h,
// shm_listener.h) hands over to.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/shm/half.h"
#include "transport/transports.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// What the handshake leaves.
struct ShmMade {
  std::shared_ptr<const TransportOptions> options;  // what connections of one origin share
  EventLoop* loop = nullptr;
  // The Unix socket, connected. From here on it tells of the peer's end, carries wakeups for event
  // loops and the descriptors of slots; the handshake has read exactly its own bytes from it.
  UniqueFd socket;
  shm::LocalHalf mine;   // the peer has it, or will in the answer that is written next
  shm::PeerHalf theirs;  // verified
  Negotiated negotiated;
  bool accepted = false;  // by a listener
  // Whether the peer's payloads may be read in place: it is as trusted as ourselves. Those of
  // others are copied before they are parsed, because they could change after they were checked.
  bool trusted = false;
  std::string peer;  // endpoint texts, for ConnectionInfo
  std::string local;
  // Released when the connection has ended; counts connections. May be empty.
  std::shared_ptr<void> while_open;
};

// Makes the connection; the user's handle, as every transport gives it: dropping the last copy
// closes it. Thread-safe.
std::shared_ptr<Connection> MakeShmConnection(ShmMade made);

}  // namespace mi7::transport
