#include "tests/sim/flow_ledger.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/call_outcome.h"

namespace mi7::sim {

uint64_t FlowLedger::Sends(uint64_t round, uint64_t bytes, Deadline deadline) {
  const uint64_t call = calls_.size();
  calls_.push_back({.round = round,
                    .bytes = bytes,
                    .deadline = deadline,
                    .must_not_run = !rounds_[round].told.ok()});
  rounds_[round].calls.push_back(call);
  return call;
}

void FlowLedger::Sent(uint64_t number, const absl::Status& status) {
  Round& round = rounds_[number];
  if (!round.told.ok() && status != round.told) {
    Wrong(number, absl::StrCat("failed with ", round.told.ToString(), ", and then with ",
                               status.ToString()));
  }
  if (round.told.ok()) round.told = status;
  if (!status.ok()) return;
  // What is answered at the server may be on its way, so there can be more.
  uint64_t bytes = 0;
  for (const uint64_t call : round.calls) bytes += calls_[call].answer ? 0 : calls_[call].bytes;
  if (bytes >= window_) {
    Wrong(number, absl::StrCat("the next call may be sent with ", bytes, " bytes in flight"));
  }
}

void FlowLedger::Finished(uint64_t number, const absl::Status& status) {
  Round& round = rounds_[number];
  if (round.finished) Wrong(number, "finished again");
  round.finished = status;
  round.ended_ns = MonotonicNanos();
  if (!round.told.ok() && status != round.told) {
    Wrong(number, absl::StrCat("failed with ", round.told.ToString(), ", and finished with ",
                               status.ToString()));
  }
  if (!status.ok()) return;
  for (const uint64_t call : round.calls) {
    if (!calls_[call].answer) {
      Wrong(number, absl::StrCat("is OK, and its call ", call, " was not answered"));
    } else if (!calls_[call].answer->ok()) {
      Wrong(number, absl::StrCat("is OK, and its call ", call, " was answered ",
                                 calls_[call].answer->ToString()));
    }
  }
}

bool FlowLedger::AllFinished() const {
  return std::all_of(rounds_.begin(), rounds_.end(),
                     [](const Round& round) { return round.finished.has_value(); });
}

void FlowLedger::Runs(uint64_t number, uint64_t bytes, int attempt, const Life& life,
                      uint64_t connection) {
  Call& call = calls_[number];
  ledger_.MayBegin(number, life);
  if (std::exchange(call.ran, true)) Wrong(call.round, absl::StrCat("call ", number, " ran again"));
  if (call.must_not_run) Wrong(call.round, absl::StrCat("call ", number, " ran after a failure"));
  if (call.bytes != bytes) Wrong(call.round, absl::StrCat("call ", number, " came as another"));
  call.attempt = attempt;
  call.life = &life;
  call.connection = connection;
  const auto [last, first] = last_.try_emplace({rounds_[call.round].flow, connection}, number);
  if (!first && last->second >= number) {
    Wrong(call.round, absl::StrCat("call ", number, " ran after call ", last->second));
  }
  last->second = number;
  std::optional<uint64_t>& last_of_round = rounds_[call.round].last_run;
  if (last_of_round && *last_of_round > number) {
    Wrong(call.round, absl::StrCat("call ", number, " ran after call ", *last_of_round,
                                   ", which ran elsewhere"));
  }
  last_of_round = number;
}

void FlowLedger::Answers(uint64_t call, const absl::Status& status) {
  calls_[call].answer = status;
  calls_[call].answered_as = ++answers_;
  calls_[call].answered_ns = MonotonicNanos();
}

void FlowLedger::StillRuns(uint64_t call, bool told) {
  const Round& round = rounds_[calls_[call].round];
  if (told || !round.finished) return;
  const int64_t ago_ns = MonotonicNanos() - round.ended_ns;
  if (ago_ns <= ledger_.on_its_way_ns()) return;
  Wrong(calls_[call].round,
        absl::StrCat("has ended ", ago_ns, " ns ago with ", round.finished->ToString(),
                     ", and call ", call, " runs on"));
}

void FlowLedger::Audit(bool troubled) {
  for (uint64_t number = 0; number < rounds_.size(); ++number) {
    const std::optional<absl::Status>& finished = rounds_[number].finished;
    if (!finished) {
      Wrong(number, "never finished");
    } else if (!finished->ok()) {
      AuditFailed(number, troubled);
    }
  }
}

void FlowLedger::AuditFailed(uint64_t number, bool troubled) {
  const Round& round = rounds_[number];
  const absl::Status& status = *round.finished;
  const auto any_call = [&](const auto& predicate) {
    return std::any_of(round.calls.begin(), round.calls.end(),
                       [&](uint64_t call) { return predicate(calls_[call]); });
  };
  if (const std::optional<uint64_t> by = Ledger::RunIn(status)) {
    if (std::find(round.calls.begin(), round.calls.end(), *by) == round.calls.end()) {
      return Wrong(number, absl::StrCat("failed by another's call: ", status.ToString()));
    }
    const Call& failed = calls_[*by];
    // Answers that go over one connection come in their order, and the first one counts.
    if (any_call([&](const Call& call) {
          return call.answer && !call.answer->ok() && call.connection == failed.connection &&
                 call.answered_as < failed.answered_as;
        })) {
      Wrong(number, absl::StrCat("failed before that: ", status.ToString()));
    }
    return;
  }
  // Of one that was not answered.
  bool explained = true;
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      explained = any_call([](const Call& call) { return call.given_up; });
      break;
    case absl::StatusCode::kDeadlineExceeded:
      explained =
          any_call([&](const Call& call) { return call.deadline.at_ns() <= round.ended_ns; });
      break;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      explained = OutcomeOf(status) == CallOutcome::kNotSent ||
                  OutcomeOf(status) == CallOutcome::kRefused ||
                  (OutcomeOf(status) == CallOutcome::kUnknown &&
                   (troubled || ledger_.LostBetween(round.began_ns, round.ended_ns)));
      break;
    default:
      explained = false;
  }
  if (!explained) Wrong(number, absl::StrCat("failed with ", status.ToString()));
}

std::map<std::string, uint64_t> FlowLedger::Events() const {
  std::map<std::string, uint64_t> events;
  for (const Call& call : calls_) {
    if (!call.ran) continue;
    ++events["-> stream call ran"];
    if (call.attempt > 1) ++events["-> stream call ran in a later attempt"];
    if (call.life->cut_off_ns < call.answered_ns) ++events["-> stream call was cut off"];
  }
  for (const Round& round : rounds_) {
    if (!round.finished) continue;
    const char* const outcomes[] = {"", ", not sent", ", refused", ", unknown"};
    ++events[absl::StrCat("-> stream calls ended ",
                          absl::StatusCodeToString(round.finished->code()),
                          outcomes[static_cast<int>(OutcomeOf(*round.finished))])];
    if (!round.told.ok()) ++events["-> stream call was told of a failure before it"];
  }
  return events;
}

void FlowLedger::Wrong(uint64_t round, const std::string& what) {
  ledger_.Wrong(absl::StrCat("round ", round, " of -> stream calls: ", what));
}

}  // namespace mi7::sim
