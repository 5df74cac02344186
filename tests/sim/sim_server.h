#pragma once

// SimServer: a server of the simulation. As mi7::Server, but on a loop of the world's, and nothing
// in it waits: between the steps of its shutdown the world goes on.

#include <coroutine>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/detached_task.h"
#include "rpc/dispatcher.h"
#include "rpc/saved_answers.h"
#include "rpc/server_sessions.h"
#include "rpc/server_statistics.h"
#include "rpc/session.h"
#include "tests/sim/flow_ledger.h"
#include "tests/sim/handlers.h"
#include "tests/sim/ledger.h"
#include "tests/sim/world.h"
#include "transport/transports.h"

namespace mi7::sim {

// Of a server; those of a run have the same.
struct SimServerOptions {
  DeduplicationOptions deduplication = {};
  bool has_slow_interceptor = false;
  bool is_named = false;  // Life::named
};

class SimServer final : public Session::Observer, public std::enable_shared_from_this<SimServer> {
 public:
  // Of what a server accepts at a time: little, so that bounds are met.
  static Limits SmallLimits();
  // All of what is given, and it itself, outlive the run.
  SimServer(World& world, Ledger& ledger, FlowLedger& flows, const SimServerOptions& options);
  // Listens: nobody else does on that name.
  void Start(absl::string_view endpoint);
  // As Server::Shutdown, of which there is one at the most. Outside of all loops, as other threads
  // are.
  DetachedTask Shutdown(Deadline deadline);
  // Ends all that is left, as the end of its process does.
  void Kill();
  // Shut down, or killed.
  bool ended() const { return life_.over_ns != kNever || life_.killed_ns != kNever; }
  bool empty() const { return sessions_.size() == 0; }
  ServerStatistics statistics() const { return sessions_.statistics(); }

  // --- Session::Observer ---
  void OnGoAway(Session&) override {}
  void OnSessionClosed(Session& session, const absl::Status& why) override;
  void OnDrained(Session&) override {}

 private:
  // co_await UntilEmpty(until): no session is left, or it is so late.
  auto UntilEmpty(Deadline until) {
    struct Awaiter {
      SimServer& server;
      Deadline until;
      bool await_ready() const { return false; }
      void await_suspend(std::coroutine_handle<> coroutine) {
        server.waits_ = coroutine;
        if (!until.infinite()) server.WakeAfter(until.remaining());
      }
      void await_resume() const {}
    };
    return Awaiter{*this, until};
  }
  void WakeAfter(absl::Duration delay);
  void OnAccept(std::shared_ptr<transport::Connection> connection);
  void StopListening();

  World& world_;
  Ledger& ledger_;
  FlowLedger& flows_;
  Life& life_;
  Handlers handlers_{life_};
  SimImpl service_;
  transport::EventLoop* const loop_;
  SessionConfig config_;
  std::vector<std::unique_ptr<SinkImpl>> sinks_;
  std::unique_ptr<transport::Listener> listener_;
  ServerSessions sessions_;
  // Shutdown, and how often it has waited.
  std::coroutine_handle<> waits_;
  uint64_t waited_ = 0;
};

}  // namespace mi7::sim
