#pragma once

// SimServer: a server of the simulation. As mi7::Server, but on a loop of the world's, and nothing
// in it waits: what Server::Shutdown does one after the other are steps of the run here.

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "rpc/dispatcher.h"
#include "rpc/saved_answers.h"
#include "rpc/server_statistics.h"
#include "rpc/service.h"
#include "rpc/session.h"
#include "tests/sim/ledger.h"
#include "tests/sim/sim.mi7.h"
#include "tests/sim/world.h"
#include "transport/transports.h"

namespace mi7::sim {

// Its handlers do what is drawn.
class SimImpl final : public SimService {
 public:
  SimImpl(World& world, Ledger& ledger, const Ledger::Life& life)
      : world_(world), ledger_(ledger), life_(life) {}

  Reply Run(ServerContext& context, Task::Reader, Done::Builder results) override {
    return Do(context, results, /*may_do_nothing=*/false);
  }
  Reply Reserve(ServerContext& context, Task::Reader, Done::Builder results) override {
    return Do(context, results, /*may_do_nothing=*/true);
  }
  Reply LookUp(ServerContext& context, Task::Reader, Done::Builder results) override {
    return Do(context, results, /*may_do_nothing=*/true);
  }
  Reply Withdraw(ServerContext& context, Task::Reader, Done::Builder results) override {
    return Do(context, results, /*may_do_nothing=*/false);
  }
  Reply Order(ServerContext& context, Task::Reader, Done::Builder results) override {
    return Do(context, results, /*may_do_nothing=*/true);
  }
  Reply Numbers(ServerContext& context, Sim::NumbersParams::Reader params,
                StreamWriter<Number> writer) override;
  Reply Gather(ServerContext& context, StreamReader<Number> reader,
               Sim::GatherResults::Builder results) override;
  Reply Chat(ServerContext& context, StreamReader<Number> reader,
             StreamWriter<Number> writer) override;

 private:
  // A handler that runs.
  struct Begun {
    uint64_t call;
    uint64_t run;
  };
  Begun Begin(const ServerContext& context);
  // Of a call that is answered once. `may_do_nothing`: it says so when it has.
  Reply Do(ServerContext& context, Done::Builder results, bool may_do_nothing);
  absl::Status DrawAnswer(uint64_t run, bool may_do_nothing);

  World& world_;
  Ledger& ledger_;
  const Ledger::Life& life_;
};

// Of a server; those of a run have the same.
struct SimServerOptions {
  DeduplicationOptions deduplication = {};
  bool has_slow_interceptor = false;
};

class SimServer final : public Session::Observer, public std::enable_shared_from_this<SimServer> {
 public:
  // Of what a server accepts at a time: little, so that bounds are met.
  static Limits SmallLimits();
  // Outlives all sessions. `number`: which one of the run.
  SimServer(World& world, Ledger& ledger, uint64_t number, const SimServerOptions& options);
  // Listens: nobody else does on that name.
  void Start(absl::string_view endpoint);
  // Accepts nothing more, refuses new calls, and finishes those that it has accepted.
  void Drain();
  // Ends what is left.
  void Kill();
  bool empty() const { return sessions_.empty(); }
  // Of connections that are gone.
  const ServerStatistics& statistics() const { return statistics_; }

  // --- Session::Observer ---
  void OnGoAway(Session&) override {}
  void OnSessionClosed(Session& session, const absl::Status& why) override;
  void OnDrained(Session&) override {}

 private:
  void OnAccept(std::shared_ptr<transport::Connection> connection);
  void StopListening();

  World& world_;
  Ledger::Life life_;
  SimImpl service_;
  transport::EventLoop* const loop_;
  const std::shared_ptr<Dispatcher> dispatcher_ = std::make_shared<Dispatcher>();
  std::shared_ptr<SessionConfig> config_;
  std::unique_ptr<transport::Listener> listener_;
  std::vector<std::shared_ptr<Session>> sessions_;
  ServerStatistics statistics_;
};

}  // namespace mi7::sim
