#pragma once

// Ledger: what is known of every call of a run, by those who make it and by those who answer it,
// and what must hold between the two.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "rpc/call_outcome.h"

namespace mi7::sim {

class Ledger {
 public:
  // Something that is to be done once at most, by however many calls.
  uint64_t NewWork() {
    works_.push_back(0);
    return works_.size() - 1;
  }
  // A new call: its number.
  uint64_t Begin(uint64_t work) {
    calls_.push_back({.work = work});
    return calls_.size() - 1;
  }
  void Ended(uint64_t call, const absl::Status& status) {
    Call& entry = calls_[call];
    if (++entry.ends > 1) Wrong(call, "ended again");
    entry.status = status;
  }
  void Ran(uint64_t call) {
    ++calls_[call].runs;
    if (++works_[calls_[call].work] > 1) Wrong(call, "was done again");
  }
  // Something that must not be, of a stream's messages for instance.
  void Wrong(uint64_t call, const std::string& what) {
    wrong_.push_back(absl::StrCat("call ", call, ": ", what));
  }
  // Handlers and callers that have begun and not ended.
  int64_t live = 0;

  bool AllEnded() const { return ended() == calls_.size(); }
  size_t size() const { return calls_.size(); }
  size_t ended() const {
    size_t count = 0;
    for (const Call& call : calls_) count += call.ends != 0 ? 1 : 0;
    return count;
  }
  bool HasEnded(uint64_t call) const { return calls_[call].ends != 0; }
  const absl::Status& StatusOf(uint64_t call) const { return calls_[call].status; }

  // What was not as it must be, at the end of a run.
  std::vector<std::string> Audit() {
    for (uint64_t i = 0; i < calls_.size(); ++i) {
      const Call& call = calls_[i];
      const CallOutcome outcome = OutcomeOf(call.status);
      if (call.ends == 0) Wrong(i, "never ended");
      if (call.runs > 1) Wrong(i, absl::StrCat("ran ", call.runs, " times"));
      if (call.status.ok() && call.ends != 0 && call.runs != 1) Wrong(i, "OK without having run");
      if (outcome == CallOutcome::kNotSent && call.runs != 0) Wrong(i, "ran, and was not sent");
      if (outcome == CallOutcome::kRefused && call.runs != 0) Wrong(i, "ran, and was refused");
    }
    if (live != 0) wrong_.push_back(absl::StrCat(live, " handlers or callers have not ended"));
    return wrong_;
  }

 private:
  struct Call {
    uint64_t work = 0;
    int ends = 0;
    int runs = 0;
    absl::Status status = {};
  };
  std::vector<int> works_;  // how often each was done
  std::vector<Call> calls_;
  std::vector<std::string> wrong_;
};

// One that lives, for a scope.
class Alive {
 public:
  explicit Alive(Ledger& ledger) : ledger_(&ledger) { ++ledger.live; }
  Alive(Alive&& other) noexcept : ledger_(other.ledger_) { other.ledger_ = nullptr; }
  Alive& operator=(Alive&&) = delete;
  ~Alive() {
    if (ledger_ != nullptr) --ledger_->live;
  }

 private:
  Ledger* ledger_;
};

}  // namespace mi7::sim
