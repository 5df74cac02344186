#pragma once

// What the test and the processes that it kills share, besides what is tested: what they did, in
// memory that outlives them. And what a process holds of the system.

#include <sched.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/deadline.h"

namespace mi7::shm_kill {

// What became of a call, as its caller knows it.
enum class Fate : uint8_t { kOpen, kOk, kNotRun, kMayHaveRun, kWrong };

struct CallRecord {
  std::atomic<uint32_t> runs;     // of its handler
  std::atomic<uint32_t> answers;  // that its caller was given
  std::atomic<Fate> fate;
};

inline constexpr uint32_t kCallsMax = 1 << 14;

// The calls of one round.
struct Ledger {
  std::atomic<uint32_t> begun;  // calls; their numbers are below
  std::array<CallRecord, kCallsMax> calls;

  void Clear();
  // Takes the number of a new call; kCallsMax: the ledger is full.
  uint32_t Begin();
  // What is wrong with what was written, when both sides have come to their end; "" when nothing.
  // `caller_lived`: so every call has ended.
  std::string Audit(bool caller_lived) const;
};

struct Board {
  std::atomic<bool> ready;        // the process does what it was started for
  std::atomic<uint32_t> steps;    // the test says what they are
  std::atomic<bool> window_over;  // Zygote::Step
  std::atomic<int64_t> killed_at_ns;
  std::atomic<uint32_t> sent;      // by the stepped process: messages that Send took
  std::atomic<uint32_t> received;  // whole messages
  std::atomic<uint32_t> wrong;     // messages that were not what was sent
  std::atomic<int32_t> child;      // a process that the process forked
  std::array<char, 512> text;
};

// Of a window that was stepped through whole: how many instructions it had executed each time that
// something changed of what outlives the process, its shared memory or what it asked of the system.
// A death in between is to everybody else the same as one right after the last change.
struct Changes {
  std::atomic<uint32_t> count;
  std::array<uint32_t, 1 << 14> after;
};

struct Shared {
  Ledger ledger;
  Board board;
  Changes changes;
};
// Made at the first call, which must be before the first fork.
Shared& SharedState();

// What this process holds.
struct Holdings {
  size_t descriptors = 0;
  size_t mappings = 0;  // of memory that is shared with peers
  friend bool operator==(const Holdings&, const Holdings&) = default;
};
Holdings GetHoldings();

// Whether `happens` before the deadline; asked again and again.
template <typename Predicate>
bool Happens(Predicate happens, Deadline deadline = Deadline::After(absl::Seconds(60))) {
  while (!happens()) {
    if (deadline.passed()) return false;
    ::sched_yield();
  }
  return true;
}

// What a test asks of a survivor.
inline constexpr int64_t kNoticeNs = 100'000'000;
// And of any machine.
inline constexpr int64_t kNoticeWorstNs = 10'000'000'000;

// Times until a death was noticed. What is asked holds for a machine that runs us when it should,
// and one that does not makes some late, many of them where there are few: so 99 of 100 must be in
// time, or half of them where there are few.
class Notices {
 public:
  void Add(int64_t took_ns) {
    ++count_;
    late_ += took_ns > kNoticeNs ? 1 : 0;
    if (took_ns > worst_ns_) worst_ns_ = took_ns;
  }
  bool InTime() const {
    return late_ * (count_ < 100 ? 2 : 100) <= count_ && worst_ns_ <= kNoticeWorstNs;
  }
  std::string ToString() const;

 private:
  uint64_t count_ = 0;
  uint64_t late_ = 0;
  int64_t worst_ns_ = 0;
};

}  // namespace mi7::shm_kill
