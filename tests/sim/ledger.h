#pragma once

// Ledger: what is known of every call of a run, by those who make it and by those who answer it,
// and what must hold between the two.
//
// Each call ends once, with one outcome. One that is OK has run; one that was not sent or refused
// has not. How often it may have run is in Promise. What a server has begun to do it has done,
// unless it has said that it did nothing.

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/call_outcome.h"

namespace mi7::sim {

// How often a call runs, by its method's annotation.
enum class Promise : uint8_t {
  kPlain,         // once at most
  kRetryable,     // again, while it has done nothing
  kIdempotent,    // again
  kDeduplicated,  // once at most, by each server that it can have come to
};

class Ledger {
 public:
  // Of a server, from its start to its end.
  struct Life {
    uint64_t number;
    int64_t began_ns;
    int64_t knows_ns;      // for how long it certainly knows a call that has ended
    bool drained = false;  // begins no calls any more
  };
  struct Plan {
    uint64_t work;
    Promise promise = Promise::kPlain;
    int attempts_max = 1;
    uint64_t amount = 0;
  };

  // Something that is to be done once at most, by however many calls.
  uint64_t NewWork() {
    works_.emplace_back();
    return works_.size() - 1;
  }
  // The application makes a deduplicated call once more. That it may have run on another server is
  // not told.
  void MadeAgain(uint64_t work) { works_[work].made_again = true; }
  // A new call: its number.
  uint64_t Begin(const Plan& plan) {
    calls_.push_back({.plan = plan, .began_ns = MonotonicNanos()});
    return calls_.size() - 1;
  }
  void Ended(uint64_t call, const absl::Status& status) {
    Call& entry = calls_[call];
    if (++entry.ends > 1) Wrong(call, "ended again");
    entry.status = status;
    entry.ended_ns = MonotonicNanos();
  }
  // An OK one, by the answer of a run.
  void AnsweredBy(uint64_t call, uint64_t run) { calls_[call].answered_by = run; }

  // A handler begins: the run's number. `attempt`: which one at the call it is.
  uint64_t Ran(uint64_t call, const Life& life, int attempt) {
    Call& entry = calls_[call];
    ++entry.runs;
    entry.last_attempt = std::max(entry.last_attempt, attempt);
    if (life.drained) Wrong(call, "ran on a server that had been drained");
    const uint64_t run = runs_.size();
    if (entry.plan.promise != Promise::kIdempotent) {
      for (const uint64_t other : works_[entry.plan.work].done) {
        const Run& before = runs_[other];
        if (MayRunAfter(entry, life, before)) continue;
        Wrong(call,
              absl::StrCat("was done again, in attempt ", attempt, " by server ", life.number,
                           ", after attempt ", before.attempt, " by server ", before.life.number));
      }
      works_[entry.plan.work].done.push_back(run);
    }
    runs_.push_back({.call = call, .life = life, .attempt = attempt, .began_ns = MonotonicNanos()});
    return run;
  }
  // The handler has said that it did nothing.
  void Undone(uint64_t run) { std::erase(works_[calls_[runs_[run].call].plan.work].done, run); }
  // A handler of the call runs, and has been told that nobody waits for it, or not. It is, once
  // what is sent at the end of a call has come; but for deduplicated calls, whose callers may come
  // back.
  void StillRuns(uint64_t run, bool told) {
    const uint64_t call = runs_[run].call;
    const Call& entry = calls_[call];
    if (entry.ends == 0 || entry.plan.promise == Promise::kDeduplicated) return;
    if (told) {
      if (entry.runs > 1) ++told_;
      return;
    }
    const int64_t ago_ns = MonotonicNanos() - entry.ended_ns;
    if (ago_ns <= on_its_way_ns_) return;
    Wrong(call, absl::StrCat("has ended ", ago_ns, " ns ago with ", entry.status.ToString(),
                             ", and attempt ", runs_[run].attempt, " runs on at server ",
                             runs_[run].life.number));
  }
  // For how long a message can have been on its way, from when it was sent to when it was read.
  void OnItsWay(absl::Duration at_most) { on_its_way_ns_ = absl::ToInt64Nanoseconds(at_most); }

  // How a handler says in a status which run it was.
  static absl::Status ByRun(absl::Status status, uint64_t run) {
    return absl::Status(status.code(), absl::StrCat(status.message(), kByRun, run, "."));
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
    for (uint64_t i = 0; i < calls_.size(); ++i) AuditCall(i);
    if (live != 0) wrong_.push_back(absl::StrCat(live, " handlers or callers have not ended"));
    return wrong_;
  }

  // How often what happened that makes a simulation worth it.
  std::map<std::string, uint64_t> Events() const {
    std::map<std::string, uint64_t> events;
    events["attempt was told of the end of its call"] = told_;
    const char* const promises[] = {"plain", "retryable", "idempotent", "deduplicated"};
    for (const Call& call : calls_) {
      const std::string promise = promises[static_cast<int>(call.plan.promise)];
      if (call.runs > 1) ++events[absl::StrCat(promise, " call ran again")];
      if (call.last_attempt > 1) ++events[absl::StrCat(promise, " call ran in a later attempt")];
      if (call.answered_by && runs_[*call.answered_by].call != IndexOf(call)) {
        ++events["deduplicated call got the answer of the one before it"];
      }
    }
    return events;
  }

 private:
  static constexpr absl::string_view kByRun = ", said by run ";
  struct Call {
    Plan plan;
    int64_t began_ns;
    int ends = 0;
    int runs = 0;
    int last_attempt = 0;
    absl::Status status = {};
    int64_t ended_ns = 0;
    std::optional<uint64_t> answered_by = {};
  };
  struct Run {
    uint64_t call;
    Life life;
    int attempt;
    int64_t began_ns;
  };
  struct Work {
    std::vector<uint64_t> done;  // by these runs
    bool made_again = false;
  };

  uint64_t IndexOf(const Call& call) const { return static_cast<uint64_t>(&call - calls_.data()); }

  // Whether `life` may run a call after `before` has done what it does.
  bool MayRunAfter(const Call& call, const Life& life, const Run& before) const {
    if (call.plan.promise != Promise::kDeduplicated) return false;
    const bool same = before.life.number == life.number;
    if (!same && works_[call.plan.work].made_again) return true;
    // A server does not run what may have run before it began, or until it has forgotten what it
    // did then. How long ago an attempt was made before this one it is told by a message, and not
    // how long this has been on its way.
    const int64_t ago_ns = (same ? before.began_ns : life.began_ns) - call.began_ns;
    if (!same) return ago_ns >= 0 && ago_ns < on_its_way_ns_;
    return MonotonicNanos() - before.began_ns > life.knows_ns &&
           ago_ns + life.knows_ns < on_its_way_ns_;
  }

  void AuditCall(uint64_t number) {
    const Call& call = calls_[number];
    if (call.ends == 0) return Wrong(number, "never ended");
    const bool runs_again =
        call.plan.promise == Promise::kRetryable || call.plan.promise == Promise::kIdempotent;
    if (call.runs > (runs_again ? call.plan.attempts_max : 1) &&
        call.plan.promise != Promise::kDeduplicated) {
      Wrong(number, absl::StrCat("ran ", call.runs, " times"));
    }
    const CallOutcome outcome = OutcomeOf(call.status);
    if (outcome == CallOutcome::kNotSent && call.runs != 0) Wrong(number, "ran, and was not sent");
    if (outcome == CallOutcome::kRefused && call.runs != 0) Wrong(number, "ran, and was refused");
    if (call.answered_by) AuditAnswer(number, *call.answered_by, /*done=*/true);
    if (!call.status.ok()) {
      // An answer, also one that was saved.
      const std::vector<absl::string_view> said = absl::StrSplit(call.status.message(), kByRun);
      uint64_t run = 0;
      if (said.size() > 1 &&
          absl::SimpleAtoi(std::vector<absl::string_view>(absl::StrSplit(said[1], '.'))[0], &run)) {
        AuditAnswer(number, run, /*done=*/false);
      }
    } else if (!call.answered_by && call.runs != 1) {
      Wrong(number, "OK without having run");
    }
  }

  // Whether the call may have this answer.
  void AuditAnswer(uint64_t number, uint64_t run, bool done) {
    const Call& call = calls_[number];
    if (run >= runs_.size()) return Wrong(number, "was answered by no run");
    const Call& ran = calls_[runs_[run].call];
    const bool own = runs_[run].call == number;
    const bool as_before = call.plan.promise == Promise::kDeduplicated &&
                           ran.plan.work == call.plan.work && ran.plan.amount == call.plan.amount;
    if (!own && !as_before) Wrong(number, "got another call's answer");
    const std::vector<uint64_t>& by = works_[call.plan.work].done;
    if (done && call.plan.promise != Promise::kIdempotent &&
        std::find(by.begin(), by.end(), run) == by.end()) {
      Wrong(number, "OK by a run that has done nothing");
    }
  }

  std::vector<Work> works_;
  std::vector<Call> calls_;
  std::vector<Run> runs_;
  int64_t on_its_way_ns_ = 0;
  uint64_t told_ = 0;
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
