#pragma once

// SimServer: a server of the simulation. As mi7::Server, but on a loop of the world's, and nothing
// in it waits: what Server::Shutdown does one after the other are steps of the run here.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "rpc/dispatcher.h"
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
  SimImpl(World& world, Ledger& ledger) : world_(world), ledger_(ledger) {}

  Reply Run(ServerContext& context, Sim::RunParams::Reader params,
            Sim::RunResults::Builder results) override;
  Reply Numbers(ServerContext& context, Sim::NumbersParams::Reader params,
                StreamWriter<Number> writer) override;
  Reply Gather(ServerContext& context, StreamReader<Number> reader,
               Sim::GatherResults::Builder results) override;
  Reply Chat(ServerContext& context, StreamReader<Number> reader,
             StreamWriter<Number> writer) override;

 private:
  // Notes that the call's handler runs: its number.
  uint64_t Begin(const ServerContext& context);

  World& world_;
  Ledger& ledger_;
};

class SimServer final : public Session::Observer, public std::enable_shared_from_this<SimServer> {
 public:
  // Of what a server accepts at a time: little, so that bounds are met.
  static Limits SmallLimits();
  // `service` outlives all sessions.
  SimServer(World& world, Service* service);
  // Listens: nobody else does on that name.
  void Start(absl::string_view endpoint);
  // Accepts nothing more, refuses new calls, and finishes those that it has accepted.
  void Drain();
  // Ends what is left.
  void Kill();
  bool empty() const { return sessions_.empty(); }

  // --- Session::Observer ---
  void OnGoAway(Session&) override {}
  void OnSessionClosed(Session& session, const absl::Status& why) override;
  void OnDrained(Session&) override {}

 private:
  void OnAccept(std::shared_ptr<transport::Connection> connection);
  void StopListening();

  World& world_;
  transport::EventLoop* const loop_;
  const std::shared_ptr<Dispatcher> dispatcher_ = std::make_shared<Dispatcher>();
  std::shared_ptr<SessionConfig> config_;
  std::unique_ptr<transport::Listener> listener_;
  std::vector<std::shared_ptr<Session>> sessions_;
};

}  // namespace mi7::sim
