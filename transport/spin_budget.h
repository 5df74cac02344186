#pragma once

// SpinBudget: how long a waiting thread polls before it sleeps.
//
// A sleeping thread costs its waker a system call and itself up to ~40 us until it runs again;
// polling costs a CPU. Polling pays when the next message comes soon, and what comes next is
// foretold by what came last: a wait that ended within kPromisingNs (which may include a sleep on
// both sides, that polling would have saved) makes the next wait poll for kSpinNs. After a longer
// one, a rest, the next wait does what would have been right after the rest before: calls that come
// in bursts are waited for from the first one on, those that come one by one are slept for at once.
// Polls that found nothing make further ones rarer, so that a peer whose messages come just too
// late costs little.

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>

namespace mi7::transport {

// Not thread-safe: one waiter at a time.
class SpinBudget {
 public:
  static constexpr int64_t kSpinNs = 50'000;
  static constexpr int64_t kPromisingNs = 250'000;

  // Nanoseconds to poll in the wait that begins now; 0 to sleep at once.
  int64_t Begin() {
    if (!soon_ && !soon_after_rest_) return 0;
    if (skip_ > 0) {
      --skip_;
      return 0;
    }
    return kSpinNs;
  }

  // The wait that Begin began has ended after `waited_ns`, of which `budget_ns` were polled.
  void End(int64_t budget_ns, int64_t waited_ns) {
    const bool soon = waited_ns <= kPromisingNs;
    if (!soon_) soon_after_rest_ = soon;
    soon_ = soon;
    if (budget_ns == 0) return;
    if (waited_ns <= budget_ns) {
      misses_ = 0;
    } else if (misses_ < kMissesMax) {
      ++misses_;
      skip_ = static_cast<uint8_t>((1u << misses_) - 2);  // 0, 2, 6, 14, 30, 62
    } else {
      skip_ = 62;
    }
  }

 private:
  static constexpr uint8_t kMissesMax = 6;
  bool soon_ = true;              // the last wait ended so
  bool soon_after_rest_ = false;  // the last one that began after a rest
  uint8_t misses_ = 0;
  uint8_t skip_ = 0;
};

// Tells the CPU that the thread polls, so that its sibling, and power, fare better meanwhile.
inline void CpuPause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// Polls with a pause after each before a waiting thread offers its CPU to others for the first
// time: 1 to 4 us.
inline constexpr uint32_t kPausesBeforeYield = 96;

// NeighbourGuess: whether somebody else wants the CPU that a polling thread has.
//
// If so, pausing between polls is time taken from the other, which may be who it waits for; if not,
// offering the CPU in a system call is what costs, and the message that comes meanwhile waits for
// its end. Which it is the system says: it counts how often a thread lost its CPU. When the wait
// ended says nothing: a message that came during a call in vain looks like one that the call let
// come. Not thread-safe: one waiter at a time.
class NeighbourGuess {
 public:
  // How often the calling thread has lost its CPU to another while it had something to do, which
  // includes polling. A system call.
  static int64_t CpuLosses() {
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
  }

  // `losses`: for tests.
  explicit NeighbourGuess(int64_t (*losses)() = &CpuLosses) : losses_(losses) {}

  // For a wait that begins now: how often to poll and pause before the CPU is offered.
  // `single_cpu`: whether the thread has this one only (OnSingleCpu).
  uint32_t Pauses(bool single_cpu) {
    BeginWait();
    return single_cpu && shares_ ? 0 : kPausesBeforeYield;
  }
  // The same for a thread that says by PausesEnded what became of the pauses. On a CPU that it has
  // only, and shares, they help where the answer is made on another one: it would come while a
  // neighbour has this CPU, and wait for it. So they are tried now and then, and kept while they
  // help.
  uint32_t PausesWhileTheyHelp(bool single_cpu) {
    BeginWait();
    if (!single_cpu || !shares_ || pauses_help_) return kPausesBeforeYield;
    if (++waits_without_ < try_every_) return 0;
    waits_without_ = 0;
    return kPausesBeforeYield;
  }
  // What was waited for has come, or the thread sleeps until it does, or has waited long enough,
  // after `polls` in vain. Not needed where not one was in vain. `pauses`: what PausesWhileTheyHelp
  // returned.
  void PausesEnded(uint32_t pauses, uint32_t polls) {
    if (pauses == 0 || !shares_) return;
    pauses_help_ = polls <= pauses;
    try_every_ = pauses_help_ ? kTryEveryMin : std::min(2 * try_every_, kTryEveryMax);
  }
  // Between two waits of a thread that has this CPU only. Who shares it, and gets its answers while
  // it pauses, gives the others a turn here: the system would do so only after milliseconds, and
  // for as long.
  void BetweenWaits() {
    if (!shares_ || !pauses_help_ || ++waits_since_offer_ < kOfferBetweenWaitsEvery) return;
    waits_since_offer_ = 0;
    losses_seen_ = losses_();
    ::sched_yield();
    Look(losses_());
  }
  // The same for one without pauses, each of whose polls is a system call.
  void BeginWait() {
    // Who never waits long never offers the CPU, and others then take it.
    if (!shares_ && ++waits_ % kLookEvery == 0) Look(losses_());
  }
  // Once a poll, after the pauses; `poll` counts up. Offers the CPU, or pauses where nobody took it
  // the last time.
  void YieldOrPause(uint32_t poll) {
    if (!shares_ && poll % offer_every_ != 0) {
      CpuPause();
    } else if (!shares_ || ++yields_ % kAskEvery == 0) {
      losses_seen_ = losses_();
      ::sched_yield();
      Look(losses_());
      // An offer in vain may make a message late, so that its sender waits longer for the answer,
      // offers its CPU, too, and makes that late: each is to be rarer than the one before.
      offer_every_ = shares_ ? kOfferEveryMin : std::min(2 * offer_every_, kOfferEveryMax);
    } else {
      ::sched_yield();
    }
  }

 private:
  static constexpr uint32_t kLookEvery = 1024;  // a call in a thousand is late by it
  static constexpr uint32_t kOfferEveryMin = 16;
  static constexpr uint32_t kOfferEveryMax = 1024;  // 20 to 60 us
  static constexpr uint32_t kAskEvery = 16;
  // Waits without pauses after which they are tried. In vain they cost 1 to 4 us each.
  static constexpr uint32_t kTryEveryMin = 16;
  static constexpr uint32_t kTryEveryMax = 1024;
  // Each is a switch to another thread and back. More often costs each wait more of it; more seldom
  // makes the late ones later, as each thread has its turn for longer.
  static constexpr uint32_t kOfferBetweenWaitsEvery = 32;

  void Look(int64_t losses) {
    shares_ = losses != losses_seen_;
    losses_seen_ = losses;
  }

  int64_t (*losses_)();
  bool shares_ = true;
  uint32_t waits_ = 0;
  uint32_t yields_ = 0;
  uint32_t offer_every_ = kOfferEveryMin;
  int64_t losses_seen_ = 0;
  bool pauses_help_ = false;  // the last ones on a shared CPU did
  uint32_t waits_without_ = 0;
  uint32_t try_every_ = kTryEveryMin;
  uint32_t waits_since_offer_ = 0;
};

// Whether the calling thread can run on one CPU only, so that it must give up the CPU for anybody
// else to make progress. A system call.
inline bool OnSingleCpu() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  return ::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) == 1;
}

}  // namespace mi7::transport
