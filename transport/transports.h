#pragma once

// The one place where concrete transports are chosen and wired. rpc knows only this header and
// the seam.

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/limits.h"
#include "transport/connection.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/instance_id.h"
#include "transport/local_options.h"

namespace mi7::transport {

// What listening and connecting need besides the endpoint. A value type.
struct TransportOptions {
  Limits limits;
  // How threads in Await wait. Loops have their own policy (EventLoop::Options).
  WaitPolicy wait = WaitPolicy::kAdaptive;
  // Told of every peer that a listener turned away before it became a connection: it spoke
  // something else or no common version, said nothing until limits.handshake_timeout, or came when
  // limits.connections_max was reached. `peer` is an endpoint text. For logs and counters; runs on
  // a loop and must not block. May be empty.
  std::function<void(const std::string& peer, const absl::Status& why)> on_refused;
  // Peers on this machine. Never null; shared, because every connection keeps its options.
  std::shared_ptr<const LocalOptions> local = DefaultLocalOptions();
  // For Connect: when it is asked to stop (any thread), the attempt ends soon, with CANCELLED.
  std::stop_token cancel;
  // For Listen: takes the place of a server of our user that listens there, or will be taken the
  // place of (ServerOptions::take_over).
  bool take_over = false;
  // What our Hello says in instanceId: the server's own name, or, where that can be met at, the
  // listener's: mi7:// listeners set it for the transports below them. Transports use a random one
  // of the process when there is none.
  InstanceId instance_id;
};

// Something that accepts connections.
class Listener {
 public:
  // Closes as Close does.
  virtual ~Listener() = default;
  // Where it listens, with the port that was picked.
  virtual const Endpoint& endpoint() const = 0;
  // For people: the endpoint, and what stands behind it when that is not one transport alone.
  virtual std::string Describe() const { return endpoint().ToString(); }
  // Stops accepting; returns when the accept callback does not run and will not run any more.
  // Accepted connections live on. Not on a loop thread. Idempotent. In a forked child: nothing.
  virtual void Close() = 0;
};

// Called for every connection whose handshake succeeded, on the loop that drives it. The callee
// must call Start on the connection, or Close to refuse it.
using AcceptCallback = std::function<void(std::shared_ptr<Connection>)>;

// Listens. Connections are spread over `loops` (at least one), which must outlive the listener and
// its connections. INVALID_ARGUMENT: the endpoint cannot be listened on. ALREADY_EXISTS: address
// or name in use, and not to be taken over. PERMISSION_DENIED, RESOURCE_EXHAUSTED, NOT_FOUND
// (host): as the system says. Blocks only for the resolver. Not on a loop thread.
absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                 const std::vector<EventLoop*>& loops,
                                                 const TransportOptions& options,
                                                 AcceptCallback on_accept);

// Result of Connect; on success the callee must call Start on the connection.
using ConnectCallback =
    absl::AnyInvocable<void(absl::StatusOr<std::shared_ptr<Connection>> connection)>;

// Connects without blocking: resolves the name, tries its addresses in order, shakes hands.
// `done` is called once, on `loop`, which must outlive the connection. Failures name the endpoint:
// UNAVAILABLE (refused, unreachable, name not found, peer closed), DEADLINE_EXCEEDED (`deadline`
// or limits.handshake_timeout), FAILED_PRECONDITION (the peer speaks no mi7, or no common
// version), INVALID_ARGUMENT (an endpoint that cannot be connected to, such as port 0), CANCELLED
// (options.cancel).
void Connect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
             Deadline deadline, ConnectCallback done);

// Connect's result, and why the connection is not of a better transport: for a mi7:// endpoint what
// speaks against shared memory. Empty when it is the best or was asked for by name, and on failure.
using ExplainedConnectCallback = absl::AnyInvocable<void(
    absl::StatusOr<std::shared_ptr<Connection>> connection, std::string why_not_better)>;
void ConnectExplained(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                      Deadline deadline, ExplainedConnectCallback done);

}  // namespace mi7::transport
