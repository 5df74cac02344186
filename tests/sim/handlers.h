#pragma once

// Handlers: those of a server of the simulation that run. Services: what it serves; they do what is
// drawn.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "rpc/server_context.h"
#include "tests/sim/flow_ledger.h"
#include "tests/sim/ledger.h"
#include "tests/sim/life.h"
#include "tests/sim/sim.mi7.h"
#include "tests/sim/world.h"

namespace mi7::sim {

class Handlers {
 public:
  // `life` outlives them.
  explicit Handlers(Life& life) : life_(life) {}
  // Whether a handler that runs has not been told that its caller has given up.
  bool AnyUntold() const;

  // One that runs, until it is about to answer or this is gone.
  class Running {
   public:
    Running(Handlers& handlers, const ServerContext& context);
    Running(Running&& other) noexcept : handlers_(other.handlers_), number_(other.number_) {
      other.handlers_ = nullptr;
    }
    Running& operator=(Running&&) = delete;
    ~Running() { End(); }
    void End();

   private:
    Handlers* handlers_;
    uint64_t number_;
  };

 private:
  Life& life_;
  uint64_t begun_ = 0;
  std::map<uint64_t, const ServerContext*> running_;
};

class SimImpl final : public SimService {
 public:
  SimImpl(World& world, Ledger& ledger, const Life& life, Handlers& handlers)
      : world_(world), ledger_(ledger), life_(life), handlers_(handlers) {}

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
  // What a stream's handler does when it ends.
  absl::Status Answer(uint64_t run, absl::Status status) {
    ledger_.Answers(run, status);
    return status;
  }
  // A message of a stream has come, or was taken.
  void Goes(uint64_t call) {
    if (life_.over_ns != kNever) ledger_.Wrong(call, "went on after the end of its server");
  }

  World& world_;
  Ledger& ledger_;
  const Life& life_;
  Handlers& handlers_;
};

// Of one connection.
class SinkImpl final : public SinkService {
 public:
  SinkImpl(World& world, Ledger& ledger, FlowLedger& flows, const Life& life, Handlers& handlers)
      : world_(world),
        ledger_(ledger),
        flows_(flows),
        life_(life),
        handlers_(handlers),
        connection_(flows.NewConnection()) {}

  Reply Write(ServerContext& context, Number::Reader params) override;

 private:
  absl::Status DrawAnswer(uint64_t call);

  World& world_;
  Ledger& ledger_;
  FlowLedger& flows_;
  const Life& life_;
  Handlers& handlers_;
  const uint64_t connection_;
};

}  // namespace mi7::sim
