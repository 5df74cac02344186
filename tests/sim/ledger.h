#pragma once

// Ledger: what is known of every call of a run, by those who make it and by those who answer it,
// and what must hold between the two.
//
// Each call ends once, with one outcome. One that is OK has run; one that was not sent or refused
// has not. How often it may have run is in Promise. What a server has begun to do it has done,
// unless it has said that it did nothing. What a handler has answered its caller gets, unless a
// connection is lost: a shutdown loses none before its deadline.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "tests/sim/life.h"

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
  struct Plan {
    uint64_t work;
    Promise promise = Promise::kPlain;
    int attempts_max = 1;
    uint64_t amount = 0;
    // That it is idempotent, whatever its method says: then mi7 makes it again at other servers,
    // too.
    bool says_idempotent = false;
    // Which is made again as a plain call is.
    bool is_stream = false;
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
  uint64_t Begin(const Plan& plan, Deadline deadline) {
    calls_.push_back({.plan = plan, .deadline = deadline, .began_ns = MonotonicNanos()});
    return calls_.size() - 1;
  }
  // Its caller is about to end it.
  void GivenUp(uint64_t call) { calls_[call].given_up = true; }
  // Its channel is about to be closed.
  void LosesChannel(uint64_t call) { calls_[call].lost_channel = true; }
  void Ended(uint64_t call, const absl::Status& status);
  // An OK one, by the answer of a run.
  void AnsweredBy(uint64_t call, uint64_t run) { calls_[call].answered_by = run; }

  // Servers live as long as the ledger.
  Life& NewLife(absl::Duration knows) {
    lives_.push_back({.number = lives_.size(),
                      .began_ns = MonotonicNanos(),
                      .knows_ns = absl::ToInt64Nanoseconds(knows)});
    return lives_.back();
  }
  const std::deque<Life>& lives() const { return lives_; }
  // What is left of it is cut off by its shutdown. `troubled`: as of Audit.
  void CutOff(const Life& life, bool troubled);
  // Its shutdown is over, with `result`; `busy`: for how long whoever does everything was busy
  // since it began.
  void ShutDown(const Life& life, const absl::Status& result, absl::Duration busy);
  // Something begins on it.
  void MayBegin(uint64_t call, const Life& life);

  // A handler begins: the run's number. `attempt`: which one at the call it is.
  uint64_t Ran(uint64_t call, const Life& life, int attempt);
  // The handler has said that it did nothing.
  void Undone(uint64_t run) { std::erase(works_[calls_[runs_[run].call].plan.work].done, run); }
  // It is about to answer.
  void Answers(uint64_t run, const absl::Status& status) {
    runs_[run].answered_ns = MonotonicNanos();
    runs_[run].answer = status;
  }
  // A handler of the call runs, and has been told that nobody waits for it, or not. It is, once
  // what is sent at the end of a call has come; but for deduplicated calls, whose callers may come
  // back.
  void StillRuns(uint64_t run, bool told);
  // For how long a message can have been on its way, from when it was sent to when it was read.
  void OnItsWay(absl::Duration at_most) { on_its_way_ns_ = absl::ToInt64Nanoseconds(at_most); }
  int64_t on_its_way_ns() const { return on_its_way_ns_; }

  // How a handler says in a status which run it was.
  static absl::Status ByRun(const absl::Status& status, uint64_t run);
  // Which one it was that said so.
  static std::optional<uint64_t> RunIn(const absl::Status& status);

  // Something that must not be, of a stream's messages for instance.
  void Wrong(uint64_t call, const std::string& what);
  // The same, of no call.
  void Wrong(const std::string& what) { wrong_.push_back(what); }
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

  // What was not as it must be, at the end of a run. `troubled`: connections were lost, or silent,
  // and not because of a server's end.
  std::vector<std::string> Audit(bool troubled);
  // Whether a server's end ended connections within that time.
  bool LostBetween(int64_t from_ns, int64_t to_ns) const;

  // How often what happened that makes a simulation worth it. After Audit.
  std::map<std::string, uint64_t> Events() const;
  // A stream of a kind ("server") ended so.
  void StreamEnded(absl::string_view kind, const absl::Status& status);

 private:
  struct Call {
    Plan plan;
    Deadline deadline;
    int64_t began_ns;
    bool given_up = false;
    bool lost_channel = false;
    int ends = 0;
    int runs = 0;
    uint64_t last_run = 0;
    int last_attempt = 0;
    absl::Status status = {};
    int64_t ended_ns = 0;
    std::optional<uint64_t> answered_by = {};
  };
  struct Run {
    uint64_t call;
    const Life* life;
    int attempt;
    int64_t began_ns;
    int64_t answered_ns = kNever;
    absl::Status answer = {};
    bool beside = false;  // while the first attempt at the call ran
  };
  struct Work {
    std::vector<uint64_t> done;  // by these runs
    bool made_again = false;
  };

  uint64_t IndexOf(const Call& call) const { return static_cast<uint64_t>(&call - calls_.data()); }
  // Whether `life` may run a call after `before` has done what it does.
  bool MayRunAfter(const Call& call, const Life& life, const Run& before) const;
  // Whether the caller itself has ended it, or its deadline.
  static bool EndedByItsCaller(const Call& call);
  // Whether the run is that of a hedge: nothing but its delay can have made its attempt.
  bool IsHedge(const Run& run) const;
  void AuditCall(uint64_t number);
  // Whether the call may have this answer.
  void AuditAnswer(uint64_t number, uint64_t run, bool done);
  // Of a call that has run once, where no connections are lost but by the ends of servers.
  void AuditOnlyRun(uint64_t number);

  std::deque<Life> lives_;
  std::vector<Work> works_;
  std::vector<Call> calls_;
  std::vector<Run> runs_;
  int64_t on_its_way_ns_ = 0;
  uint64_t told_ = 0;
  uint64_t arrived_in_shutdown_ = 0;
  uint64_t told_of_cut_off_ = 0;
  std::map<std::string, uint64_t> stream_ends_;
  bool troubled_ = false;
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
