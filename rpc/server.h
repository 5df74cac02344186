#pragma once

// Server: listens, and answers calls with the services it was given.
//
//   CalculatorImpl calculator;
//   absl::StatusOr<std::unique_ptr<mi7::Server>> server =
//       mi7::ServerBuilder().AddService(&calculator).Listen("tcp:127.0.0.1:0").Start();
//   ... (*server)->endpoints()[0] ...
//   (*server)->Shutdown(mi7::Deadline::After(absl::Seconds(10)));

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/deadline.h"
#include "base/limits.h"
#include "rpc/dispatcher.h"
#include "rpc/interceptor.h"
#include "rpc/load_control.h"
#include "rpc/saved_answers.h"
#include "rpc/server_statistics.h"
#include "rpc/session.h"
#include "transport/connection_decorator.h"
#include "transport/event_loop.h"
#include "transport/local_options.h"
#include "transport/transports.h"

namespace mi7 {

// A value type; the defaults are for production.
struct ServerOptions {
  Limits limits = {};
  // How the event loops wait for work.
  transport::WaitPolicy wait = transport::WaitPolicy::kAdaptive;
  // Event loops, a thread each, over which connections are spread; 0: one for every two CPUs.
  int event_loops = 0;
  // How it finds out that a client is gone without a word.
  Keepalive keepalive = {};
  // A client that has made no call for so long is asked to close; its channel connects again for
  // the next call, which does not fail by that. Infinite: connections are kept.
  absl::Duration idle_timeout = absl::InfiniteDuration();
  // How much it takes on at a time; by default there is no limit (docs/OPERATIONS.md).
  LoadLimits load = {};
  // Run around every call that is not refused, the first as the outermost.
  Interceptors interceptors = {};
  // Listens also where another server of the same user does, which has this set, too: to restart
  // without a gap, start the successor, then shut the predecessor down (docs/OPERATIONS.md). A name
  // (unix:, shm:, inproc:) is taken from the other at once; a port (tcp:, mi7:) is shared with it
  // until it closes.
  bool take_over = false;
  // Peers on this machine: whom to talk to, where to meet, whether to offer shared memory.
  transport::LocalOptions local = {};
  // How it recognizes repeated calls of $Mi7.deduplicate methods.
  DeduplicationOptions deduplication = {};
  // What stands between its connections and it, for tests of what goes wrong; nullptr: nothing.
  std::shared_ptr<transport::ConnectionDecorator> decorator = {};
};

// Thread-safe. It serves in the process that started it; a forked child has no share in its sockets
// and threads, and may only drop it, or ask for a Shutdown (FAILED_PRECONDITION).
class Server {
 public:
  // As Shutdown with a deadline that has passed.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Where it listens, in the order of Listen calls, with the ports that were picked. Logged at the
  // start, as LogLevel::kInfo, with what stands behind each.
  std::vector<std::string> endpoints() const;

  // Stops: accepts no more connections, refuses new calls (clients learn that those have not
  // run), finishes the accepted ones, and closes each connection when its client has its answers.
  // What is left at `deadline` is cut off: handlers are told (ServerContext::cancelled(), inline
  // ones too), and their answers are not sent, nor those of calls that came together with one that
  // is answered inline at that moment, nor what their clients have not read by then. Returns when
  // no handler runs inline any more, for one that keeps an event loop may keep Shutdown, too, and
  // no connection is left: OK, or DEADLINE_EXCEEDED with the number of calls and connections cut
  // off, and of clients that had answers to read still. Handlers that were deferred may still hold
  // their calls; their answers go nowhere. Not inside a handler. A second call waits for the first.
  //
  // Services after a Shutdown that cut calls off, or the destructor: no new call reaches them, but
  // what such handlers do goes on. A service that lives outside the server must outlive them: keep
  // it until its DeferredCalls are finished or dropped and its coroutines have ended (cancelled()
  // tells them to hurry). A service that the server owns is kept by each call that is still held,
  // and destroyed with the last one, on that one's thread.
  absl::Status Shutdown(Deadline deadline);

  // What is in flight, and was refused, where ServerOptions::load sets a limit; zeros otherwise.
  // Any thread.
  LoadFigures load() const;

  // Connections that are open.
  size_t connection_count() const;
  // What it has done so far; after a Shutdown, in all. Looks at each connection that is open.
  ServerStatistics statistics() const;

 private:
  friend class ServerBuilder;
  class Core;
  explicit Server(std::shared_ptr<Core> core);
  const std::shared_ptr<Core> core_;
};

// Collects what a server is made of. Errors of the steps are reported by Start.
class ServerBuilder {
 public:
  ServerBuilder& SetOptions(const ServerOptions& options);
  // `service` must outlive the server, and what its handlers still do then (Server::Shutdown).
  ServerBuilder& AddService(Service* service);
  // The server owns `service`.
  ServerBuilder& AddService(std::unique_ptr<Service> service);
  // May be called several times. See transport/endpoint.h; port 0 picks a free one.
  ServerBuilder& Listen(absl::string_view endpoint);

  // Begins to serve. Errors: the first wrong step's (INVALID_ARGUMENT, ALREADY_EXISTS), or why an
  // endpoint cannot be listened on. Once.
  absl::StatusOr<std::unique_ptr<Server>> Start();

 private:
  ServerOptions options_;
  std::vector<Service*> services_;
  std::vector<std::unique_ptr<Service>> owned_services_;
  std::vector<std::string> endpoints_;
};

}  // namespace mi7
