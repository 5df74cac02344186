#include "tests/sim/ledger.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "rpc/call_outcome.h"

namespace mi7::sim {
namespace {

constexpr absl::string_view kByRun = ", said by run ";

}  // namespace

void Ledger::Ended(uint64_t call, const absl::Status& status) {
  Call& entry = calls_[call];
  if (++entry.ends > 1) Wrong(call, "ended again");
  entry.status = status;
  entry.ended_ns = MonotonicNanos();
}

void Ledger::MayBegin(uint64_t call, const Life& life) {
  if (life.over_ns != kNever) return Wrong(call, "ran on a server that had ended");
  if (life.drained()) Wrong(call, "ran on a server that had been drained");
}

uint64_t Ledger::Ran(uint64_t call, const Life& life, int attempt) {
  Call& entry = calls_[call];
  ++entry.runs;
  entry.last_attempt = std::max(entry.last_attempt, attempt);
  MayBegin(call, life);
  const uint64_t run = entry.last_run = runs_.size();
  if (entry.plan.promise != Promise::kIdempotent) {
    for (const uint64_t other : works_[entry.plan.work].done) {
      const Run& before = runs_[other];
      if (MayRunAfter(entry, life, before)) continue;
      Wrong(call,
            absl::StrCat("was done again, in attempt ", attempt, " by server ", life.number,
                         ", after attempt ", before.attempt, " by server ", before.life->number));
    }
    works_[entry.plan.work].done.push_back(run);
  }
  const bool beside =
      entry.runs > 1 && std::any_of(runs_.begin(), runs_.end(), [&](const Run& other) {
        return other.call == call && other.attempt == 1 && other.answered_ns == kNever;
      });
  runs_.push_back({.call = call,
                   .life = &life,
                   .attempt = attempt,
                   .began_ns = MonotonicNanos(),
                   .beside = beside});
  return run;
}

void Ledger::StillRuns(uint64_t run, bool told) {
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
                           runs_[run].life->number));
}

void Ledger::CutOff(const Life& life, bool troubled) {
  if (troubled || life.running != 0) return;
  // That it goes, a call that crosses this, its refusal, the end of the connection.
  const int64_t idle_ns = MonotonicNanos() - std::max(life.drained_ns, life.answered_last_ns);
  if (idle_ns <= 4 * on_its_way_ns_) return;
  Wrong(absl::StrCat("server ", life.number, " had answered all ", idle_ns,
                     " ns ago, and its shutdown was not over"));
}

void Ledger::ShutDown(const Life& life, const absl::Status& result, absl::Duration busy) {
  const std::string server = absl::StrCat("server ", life.number, ": ");
  if (life.cut_off_ns < life.deadline_ns) {
    Wrong(absl::StrCat(server, "cut off ", life.deadline_ns - life.cut_off_ns,
                       " ns before the deadline of its shutdown"));
  }
  if (!result.ok() && (!absl::IsDeadlineExceeded(result) || life.cut_off_ns == kNever)) {
    Wrong(absl::StrCat(server, "was shut down with ", result.ToString()));
  }
  const int64_t late_ns = life.over_ns - std::max(life.deadline_ns, life.drained_ns);
  if (late_ns > absl::ToInt64Nanoseconds(busy)) {
    Wrong(absl::StrCat(server, "was shut down ", late_ns, " ns after the deadline"));
  }
}

absl::Status Ledger::ByRun(const absl::Status& status, uint64_t run) {
  return absl::Status(status.code(), absl::StrCat(status.message(), kByRun, run, "."));
}

std::optional<uint64_t> Ledger::RunIn(const absl::Status& status) {
  const std::vector<absl::string_view> said = absl::StrSplit(status.message(), kByRun);
  uint64_t run = 0;
  if (said.size() < 2 ||
      !absl::SimpleAtoi(std::vector<absl::string_view>(absl::StrSplit(said[1], '.'))[0], &run)) {
    return std::nullopt;
  }
  return run;
}

void Ledger::Wrong(uint64_t call, const std::string& what) {
  wrong_.push_back(absl::StrCat("call ", call, ": ", what));
}

std::vector<std::string> Ledger::Audit(bool troubled) {
  troubled_ = troubled;
  for (uint64_t i = 0; i < calls_.size(); ++i) AuditCall(i);
  if (live != 0) wrong_.push_back(absl::StrCat(live, " handlers or callers have not ended"));
  return wrong_;
}

void Ledger::StreamEnded(absl::string_view kind, const absl::Status& status) {
  ++stream_ends_[absl::StrCat(kind, " stream ended ", absl::StatusCodeToString(status.code()))];
}

bool Ledger::LostBetween(int64_t from_ns, int64_t to_ns) const {
  return std::any_of(lives_.begin(), lives_.end(), [&](const Life& life) {
    return from_ns <= life.lost_ns() && life.lost_ns() <= to_ns;
  });
}

std::map<std::string, uint64_t> Ledger::Events() const {
  std::map<std::string, uint64_t> events = stream_ends_;
  events["attempt was told of the end of its call"] = told_;
  events["answer in a shutdown had to arrive"] = arrived_in_shutdown_;
  events["caller had to be told that its call was cut off"] = told_of_cut_off_;
  const char* const promises[] = {"plain", "retryable", "idempotent", "deduplicated"};
  for (const Call& call : calls_) {
    const std::string promise =
        call.plan.is_stream ? "stream" : promises[static_cast<int>(call.plan.promise)];
    if (call.runs > 1) ++events[absl::StrCat(promise, " call ran again")];
    if (call.last_attempt > 1) ++events[absl::StrCat(promise, " call ran in a later attempt")];
    if (call.plan.is_stream && call.last_attempt > 1 && call.status.ok()) {
      ++events["stream call was OK in a later attempt"];
    }
    if (!call.answered_by) continue;
    const Run& run = runs_[*call.answered_by];
    if (run.call != IndexOf(call)) {
      ++events["deduplicated call got the answer of the one before it"];
    } else if (IsHedge(run)) {
      ++events["hedge won"];
    }
  }
  for (const Run& run : runs_) {
    if (IsHedge(run)) ++events["hedge ran beside the first attempt"];
    const Life& life = *run.life;
    if (!life.drained() || run.answered_ns < life.drained_ns) continue;
    if (run.answered_ns < life.lost_ns()) ++events["call was finished during a shutdown"];
    if (life.cut_off_ns < run.answered_ns) ++events["call was cut off by a shutdown"];
  }
  for (const Life& life : lives_) {
    if (life.over_ns == kNever) continue;
    ++events[life.cut_off_ns == kNever ? "shutdown ended before its deadline"
                                       : "shutdown ended at its deadline"];
  }
  return events;
}

bool Ledger::MayRunAfter(const Call& call, const Life& life, const Run& before) const {
  if (call.plan.promise != Promise::kDeduplicated) return false;
  const bool same = before.life->number == life.number;
  if (!same && works_[call.plan.work].made_again) return true;
  // It comes to no other server that tells its name. One that tells none does not run what may have
  // run before it began, and none what may have run when it has forgotten what it did then. How
  // long ago an attempt was made before this one it is told by a message, and not how long this has
  // been on its way.
  const int64_t ago_ns = (same ? before.began_ns : life.began_ns) - call.began_ns;
  if (!same && life.named && !call.plan.says_idempotent) return false;
  if (!same) return ago_ns >= 0 && ago_ns < on_its_way_ns_;
  return MonotonicNanos() - before.began_ns > life.knows_ns &&
         ago_ns + life.knows_ns < on_its_way_ns_;
}

bool Ledger::IsHedge(const Run& run) const {
  // An attempt that runs is not waited for any more when its connection is lost.
  return run.beside && !troubled_ && !LostBetween(calls_[run.call].began_ns, run.began_ns);
}

bool Ledger::EndedByItsCaller(const Call& call) {
  if (call.lost_channel) return true;
  switch (call.status.code()) {
    case absl::StatusCode::kCancelled:
      return call.given_up;
    case absl::StatusCode::kDeadlineExceeded:
      return call.ended_ns >= call.deadline.at_ns();
    default:
      return false;
  }
}

void Ledger::AuditCall(uint64_t number) {
  const Call& call = calls_[number];
  if (call.ends == 0) return Wrong(number, "never ended");
  const bool runs_again =
      call.plan.promise == Promise::kRetryable || call.plan.promise == Promise::kIdempotent;
  if (call.runs > (runs_again ? call.plan.attempts_max : 1) &&
      call.plan.promise != Promise::kDeduplicated) {
    Wrong(number, absl::StrCat("ran ", call.runs, " times"));
  }
  const CallOutcome outcome = OutcomeOf(call.status);
  const bool ended_by_caller = EndedByItsCaller(call);
  if (outcome == CallOutcome::kNotSent && call.runs != 0) Wrong(number, "ran, and was not sent");
  if (outcome == CallOutcome::kRefused && call.runs != 0) Wrong(number, "ran, and was refused");
  if (outcome == CallOutcome::kRefused && !absl::IsUnavailable(call.status) &&
      !absl::IsResourceExhausted(call.status) && !ended_by_caller) {
    // Nobody has a reason to refuse it that another time or another server would not mend.
    Wrong(number, absl::StrCat("was refused with ", call.status.ToString()));
  }
  if (call.answered_by) AuditAnswer(number, *call.answered_by, /*done=*/true);
  if (call.status.ok()) {
    if (!call.answered_by && call.runs != 1) Wrong(number, "OK without having run");
  } else if (const std::optional<uint64_t> run = RunIn(call.status)) {
    // An answer, also one that was saved.
    AuditAnswer(number, *run, /*done=*/false);
  }
  if ((absl::IsCancelled(call.status) || absl::IsDeadlineExceeded(call.status)) &&
      !ended_by_caller) {
    Wrong(number, absl::StrCat("nobody has ended it, but it ended with ", call.status.ToString()));
  }
  if (outcome == CallOutcome::kAnswered && call.runs != 0 && absl::IsAborted(call.status) &&
      absl::StrContains(call.status.message(), "an earlier attempt may have run") &&
      runs_[call.last_run].answered_ns > call.ended_ns) {
    // Another server has said so, while it ran.
    Wrong(number, absl::StrCat("ran, and may do what it does: ", call.status.ToString()));
  }
  if (call.runs == 0 && !call.status.ok() && !ended_by_caller &&
      call.plan.promise != Promise::kDeduplicated) {
    // So it may be made again, and it has to say so.
    if (outcome == CallOutcome::kAnswered) {
      Wrong(number, absl::StrCat("never ran, but has an answer: ", call.status.ToString()));
    } else if (outcome == CallOutcome::kUnknown && !troubled_ &&
               !LostBetween(call.began_ns, call.ended_ns)) {
      Wrong(number, absl::StrCat("never ran, and no connection was lost, but it ended with ",
                                 call.status.ToString()));
    }
  }
  if (call.runs == 1 && !ended_by_caller) AuditOnlyRun(number);
}

void Ledger::AuditAnswer(uint64_t number, uint64_t run, bool done) {
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

void Ledger::AuditOnlyRun(uint64_t number) {
  const Call& call = calls_[number];
  const Run& run = runs_[call.last_run];
  const Life& life = *run.life;
  // Whatever else is answered may be asked for again.
  const bool final = run.answer.ok() || absl::IsAborted(run.answer);
  const std::string what =
      absl::StrCat("attempt ", run.attempt, " by server ", life.number, " answered ",
                   run.answer.ToString(), ", but the call ended with ", call.status.ToString());
  // Another attempt, to a server that cannot know whether the call has run, or when a call with
  // that id and other parameters ran.
  const bool hedge_ended_it =
      call.plan.promise == Promise::kDeduplicated && !RunIn(call.status) &&
      (absl::IsAborted(call.status) || absl::IsInvalidArgument(call.status));
  if (run.answered_ns != kNever && final && !troubled_ && !hedge_ended_it &&
      run.answered_ns < life.lost_ns() - on_its_way_ns_) {
    if (run.answered_ns >= life.drained_ns) ++arrived_in_shutdown_;
    if (call.status.code() != run.answer.code()) Wrong(number, absl::StrCat("got lost: ", what));
  }
  // Plain: others are made again.
  if (run.answered_ns <= life.cut_off_ns || call.plan.promise != Promise::kPlain) return;
  if (call.status.ok()) Wrong(number, absl::StrCat("was cut off before that: ", what));
  if (troubled_) return;
  ++told_of_cut_off_;
  if (!absl::IsUnavailable(call.status) || OutcomeOf(call.status) != CallOutcome::kUnknown) {
    Wrong(number, absl::StrCat("was cut off, and ended with ", call.status.ToString()));
  }
}

}  // namespace mi7::sim
