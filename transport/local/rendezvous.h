#pragma once

// mi7://: one server, met over TCP or in shared memory, whichever is better.
//
// The server listens on TCP, and on a Unix socket in its runtime directory that bears the name of
// its instance id. A client connects over TCP, learns that name from the server's Hello, and looks
// for the socket in its own runtime directory. When it is there, the client connects to it,
// compares the name that this Hello gives, and the TCP connection is dropped unused. In every other
// case the TCP connection is the one, and what spoke against the other is told.
//
// So the Unix socket that a client uses is that of the server which owns the TCP endpoint, whatever
// else is on the machine: the name is 16 random bytes that were told over that very TCP connection.
// A server that took the port over, or has the same port in another network namespace, has another
// name; a socket that somebody put into the directory has a name that no server tells.
//
// Thread-safe: functions only.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/deadline.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/local/socket_file.h"
#include "transport/stream/stream_handshake.h"
#include "transport/transports.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// How the connections through a rendezvous are made: shared memory (transport/shm/), another thing
// in tests.
struct LocalCarrier {
  // Accepts at a socket that listens; as transports.h Listen.
  std::function<absl::StatusOr<std::unique_ptr<Listener>>(
      SocketFile file, const std::vector<EventLoop*>& loops, const TransportOptions& options,
      AcceptCallback on_accept)>
      listen;
  // Shakes hands over a connected socket, on the loop's thread; `done` is called there once,
  // possibly inside. `path`: of the socket, for texts.
  std::function<void(UniqueFd socket, const std::string& path, EventLoop* loop,
                     const TransportOptions& options, Deadline deadline,
                     absl::AnyInvocable<void(absl::StatusOr<StreamMade>)> done)>
      connect;
};

// transports.h Listen for mi7://. That there can be no rendezvous is no error: it is logged and
// told by Describe.
absl::StatusOr<std::unique_ptr<Listener>> RendezvousListen(const Endpoint& endpoint,
                                                           const LocalCarrier& carrier,
                                                           const std::vector<EventLoop*>& loops,
                                                           const TransportOptions& options,
                                                           AcceptCallback on_accept);

// transports.h ConnectExplained for mi7://. A rendezvous that does not answer costs a second at
// most.
void RendezvousConnect(const Endpoint& endpoint, const LocalCarrier& carrier, EventLoop* loop,
                       const TransportOptions& options, Deadline deadline,
                       ExplainedConnectCallback done);

// A connection to what listens at `name` in the first of this user's runtime directories that has
// it, and in `path` where that is. NOT_FOUND, "no WHAT in" and the directories: none has it.
// Otherwise why it cannot be used.
absl::StatusOr<UniqueFd> ConnectInRuntimeDir(const LocalOptions& options, const std::string& name,
                                             absl::string_view what, std::string& path);

// Listens at `name` in the runtime directory, which is made if need be. `take_over`: as
// SocketFile::Options has it.
absl::StatusOr<SocketFile> ListenInRuntimeDir(const LocalOptions& options, const std::string& name,
                                              mode_t mode, bool take_over);

}  // namespace mi7::transport
