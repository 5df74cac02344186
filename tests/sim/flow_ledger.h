#pragma once

// FlowLedger: what is known of every `-> stream` call of a run, and what must hold.
//
// Such calls are made one after the other through one stub, and their callers learn of none of them
// how it went, but what the first failure was: of the next ones, which are not sent then, and of
// FinishStream, with which a round of them ends. Each is handled once at most, those that a server
// gets over one connection in their order, and those of one round, too, over whichever connections.
// A round that is OK has had all of its calls answered OK.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/deadline.h"
#include "tests/sim/ledger.h"
#include "tests/sim/life.h"

namespace mi7::sim {

class FlowLedger {
 public:
  // `ledger`: knows the servers, and is told what is wrong. `window`: of the channels.
  FlowLedger(Ledger& ledger, uint64_t window) : ledger_(ledger), window_(window) {}

  // --- Callers

  // A stub and its calls.
  uint64_t NewFlow() { return flows_++; }
  // A round of calls through it.
  uint64_t Begin(uint64_t flow) {
    rounds_.push_back({.flow = flow, .began_ns = MonotonicNanos()});
    return rounds_.size() - 1;
  }
  // A call with so much data is about to be sent: its number. They rise.
  uint64_t Sends(uint64_t round, uint64_t bytes, Deadline deadline);
  // Its caller is about to end it.
  void GivenUp(uint64_t call) { calls_[call].given_up = true; }
  // The last call of the round has completed: the next one may be sent.
  void Sent(uint64_t round, const absl::Status& status);
  // FinishStream.
  void Finished(uint64_t round, const absl::Status& status);
  bool HasFinished(uint64_t round) const { return rounds_[round].finished.has_value(); }
  bool AllFinished() const;

  // --- Servers

  uint64_t NewConnection() { return connections_++; }
  void Runs(uint64_t call, uint64_t bytes, int attempt, const Life& life, uint64_t connection);
  void Answers(uint64_t call, const absl::Status& status);
  // As Ledger::StillRuns.
  void StillRuns(uint64_t call, bool told);

  // To be called once, when nothing happens any more. `troubled`: as of Ledger::Audit.
  void Audit(bool troubled);
  std::map<std::string, uint64_t> Events() const;

 private:
  struct Call {
    uint64_t round;
    uint64_t bytes;
    Deadline deadline;
    // The round had failed before, as its caller knew.
    bool must_not_run = false;
    bool given_up = false;
    // Of its handler.
    bool ran = false;
    int attempt = 0;
    const Life* life = nullptr;
    uint64_t connection = 0;
    std::optional<absl::Status> answer = {};
    int64_t answered_ns = kNever;
    uint64_t answered_as = 0;  // in the order of all answers
  };
  struct Round {
    uint64_t flow;
    int64_t began_ns;
    std::vector<uint64_t> calls = {};
    std::optional<uint64_t> last_run = {};
    absl::Status told = {};
    std::optional<absl::Status> finished = {};
    int64_t ended_ns = 0;
  };

  void Wrong(uint64_t round, const std::string& what);
  void AuditFailed(uint64_t number, bool troubled);

  Ledger& ledger_;
  const uint64_t window_;
  uint64_t flows_ = 0;
  uint64_t connections_ = 0;
  std::vector<Round> rounds_;
  std::vector<Call> calls_;
  uint64_t answers_ = 0;
  // The last call of a flow that has begun on a connection.
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> last_;
};

}  // namespace mi7::sim
