// What those notice whose peers are killed or stopped: what the dead held comes back soon, whatever
// the others do; nobody waits for who is stopped.

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/crash/kill_test.h"
#include "transport/slot_pipe/crash/machine_watch.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7 {
namespace {

// What is promised of 99 of 100 recoveries.
constexpr int64_t kRecoveryNsMax = 100'000'000;
// Who is to recover has to run for that. A recovery during which this machine kept some thread that
// had something to do from its CPU for so long says more about the machine than about the pipe.
constexpr int64_t kKeptNsMax = 20'000'000;

class SurvivorsTest : public KillTest {
 protected:
  // Expects of `recover`, which measures one recovery, that 99 of 100 are in time: the p99 of 200
  // is at most kRecoveryNsMax, once, with no second try. Not counted, however long they took, are
  // those during which the machine was disturbed (kKeptNsMax), of which it is said how many there
  // were; too many, and there is no result, which is a failure as well.
  void ExpectRecoveryInTime(const char* what, const std::function<void(int64_t&)>& recover) {
    constexpr size_t kRounds = 200;
    constexpr size_t kDisturbedMax = 800;
    std::vector<int64_t> times_ns;
    std::vector<int64_t> disturbed_ns;
    size_t late = 0;
    MachineWatch watch;
    while (times_ns.size() < kRounds && late <= kRounds / 100) {
      ASSERT_LE(disturbed_ns.size(), kDisturbedMax) << "this machine is too busy to measure on";
      int64_t time_ns = 0;
      watch.Restart();
      recover(time_ns);
      if (HasFatalFailure()) return;
      if (watch.kept_ns() > kKeptNsMax) {
        disturbed_ns.push_back(time_ns);
        continue;
      }
      times_ns.push_back(time_ns);
      if (time_ns > kRecoveryNsMax) ++late;
    }
    std::sort(times_ns.begin(), times_ns.end());
    std::cout << "RELIABILITY: recovery " << what << ": of " << times_ns.size() << " p50 "
              << times_ns[times_ns.size() / 2] / 1000 << " us, p99 "
              << times_ns[(times_ns.size() - 1) * 99 / 100] / 1000 << " us, most "
              << times_ns.back() / 1000 << " us";
    if (!disturbed_ns.empty()) {
      std::cout << "; " << disturbed_ns.size()
                << " more while the machine was disturbed, not counted, most "
                << *std::max_element(disturbed_ns.begin(), disturbed_ns.end()) / 1000 << " us";
    }
    std::cout << "\n";
    EXPECT_LE(late, kRounds / 100)
        << "more than one of 100 recoveries took more than " << kRecoveryNsMax << " ns";
  }

  // Looks again and again, without waiting in the pipe.
  static void Await(const std::function<bool()>& condition) {
    const Deadline patience = Deadline::After(absl::Seconds(30));
    while (!condition() && !patience.passed()) ::sched_yield();
    ASSERT_TRUE(condition());
  }

  // Starts a child that does `hold`, which has come to its end when this returns. The child has
  // what it has until it is killed.
  void StartHolding(const std::function<void(SlotPipe&)>& hold) {
    history_->held = false;
    Start([this, hold](SlotPipe& own) {
      hold(own);
      history_->held = true;
      for (;;) ::pause();
    });
    Await([this] { return history_->held.load(); });
  }
  void KillLastStarted() {
    Kill(children_.back());
    children_.pop_back();
  }

  // From the death of who was started last until others have recovered it.
  void TimeRecoveryByOthers(const SlotPipe& pipe, int64_t& time_ns) {
    const auto recovered = [&pipe] { return pipe.Status().recovered_participants; };
    const uint64_t before = recovered();
    const int64_t start_ns = MonotonicNanos();
    KillLastStarted();
    Await([&] { return recovered() != before; });
    time_ns = MonotonicNanos() - start_ns;
  }
};

TEST_F(SurvivorsTest, WhatADeadConsumerHeldComesBackWithin100Ms) {
  auto pipe = SlotPipe::Create("kill", {.slots = 8, .slot_bytes = 64}).value();
  ExpectRecoveryInTime("after a death", [&](int64_t& time_ns) {
    ASSERT_TRUE(pipe->SendBytes("held").ok());
    ASSERT_NO_FATAL_FAILURE(StartHolding([](SlotPipe& own) { own.Fetch()->Detach(); }));
    const int64_t start_ns = MonotonicNanos();
    KillLastStarted();
    auto message = pipe->Fetch(Deadline::After(absl::Seconds(30)));
    time_ns = MonotonicNanos() - start_ns;
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->attempt(), 2u);
    ASSERT_TRUE(message->Release().ok());
  });
}

// From the death until its slot is empty again, by whoever of the others comes to look.
TEST_F(SurvivorsTest, OthersWhoAreBusyRecoverWithin100Ms) {
  auto pipe = SlotPipe::Create("kill", {.slots = 8, .slot_bytes = 64}).value();
  for (int i = 0; i < 2; ++i) {
    Start([this](SlotPipe& own) {
      while (!history_->stop.load()) {
        if (!own.SendBytes("x").ok() || !own.Fetch()->Release().ok()) ::_exit(kReleaseFailed);
      }
    });
  }
  ExpectRecoveryInTime("by others", [&](int64_t& time_ns) {
    ASSERT_NO_FATAL_FAILURE(StartHolding([](SlotPipe& own) { own.Hold()->Detach(); }));
    TimeRecoveryByOthers(*pipe, time_ns);
  });
  Stop();
  EXPECT_EQ(pipe->Status().empty, 8u);
}

// The same where those who are left have a backlog and work on each message for long: they come to
// the pipe fifty times a second, and never wait there.
TEST_F(SurvivorsTest, OthersWhoWorkOnABacklogRecoverWithin100Ms) {
  constexpr uint32_t kSlots = 64;
  auto pipe = SlotPipe::Create("kill", {.slots = kSlots, .slot_bytes = 64}).value();
  const auto fill = [&] {
    while (pipe->Status().ready < kSlots / 2) ASSERT_TRUE(pipe->SendBytes("x").ok());
  };
  fill();
  const pid_t worker = Start([this](SlotPipe& own) {
    while (!history_->stop.load()) {
      auto message = own.TryFetch();
      if (!message.ok()) ::_exit(kFetchFailed);  // the backlog was to be longer
      Pause(20'000);
      if (!message->Release().ok()) ::_exit(kReleaseFailed);
    }
  });
  // Stopped while the backlog is made up, so that it does not get to its end.
  ::kill(worker, SIGSTOP);
  ExpectRecoveryInTime("by others with a backlog", [&](int64_t& time_ns) {
    fill();
    ASSERT_NO_FATAL_FAILURE(StartHolding([](SlotPipe& own) { own.Fetch()->Detach(); }));
    ::kill(worker, SIGCONT);
    TimeRecoveryByOthers(*pipe, time_ns);
    ::kill(worker, SIGSTOP);
  });
  ::kill(worker, SIGCONT);
  Stop();
}

TEST_F(SurvivorsTest, NobodyWaitsForAStoppedOne) {
  auto pipe = SlotPipe::Create("kill", {.slots = 8, .slot_bytes = 64}).value();
  std::vector<pid_t> stopped;
  // Each is stopped at some moment of its work; one of them with a slot in its hands.
  for (int i = 0; i < 4; ++i) {
    stopped.push_back(Start([this, i](SlotPipe& own) {
      if (i == 0) own.Hold()->Detach();
      while (!history_->stop.load()) {
        own.SendBytes("x", Deadline::After(absl::Milliseconds(1))).IgnoreError();
        auto message = own.TryFetch();
        if (message.ok() && !message->Release().ok()) ::_exit(kReleaseFailed);
      }
    }));
  }
  // Of one hold and send, or fetch and release, here. A machine that is busy with something else
  // adds delays of its own to few of them.
  constexpr int64_t kSoonNs = 100'000'000;
  int operations = 0;
  int late = 0;
  const auto timed = [&](const std::function<void()>& operation) {
    const int64_t start_ns = MonotonicNanos();
    operation();
    ++operations;
    if (MonotonicNanos() - start_ns > kSoonNs) ++late;
  };
  const auto patience = [] { return Deadline::After(absl::Seconds(5)); };
  for (int round = 0; round < 50; ++round) {
    for (const pid_t child : stopped) ::kill(child, SIGSTOP);
    for (const pid_t child : stopped) {
      ASSERT_EQ(::waitpid(child, nullptr, WUNTRACED), child);
    }
    // Looked for the dead, while they are stopped.
    EXPECT_EQ(pipe->Recover(), 0u);
    // Each of them has one slot at most, and the first one another, so three are left.
    for (int i = 0; i < 100; ++i) {
      timed([&] {
        const auto sent = pipe->SendBytes("y", patience());
        ASSERT_TRUE(sent.ok()) << sent;
      });
      timed([&] {
        auto message = pipe->Fetch(patience());
        ASSERT_TRUE(message.ok()) << message.status();
        ASSERT_TRUE(message->Release().ok());
      });
      if (HasFatalFailure()) return;
    }
    EXPECT_EQ(pipe->Status().recovered_participants, 0u) << "stopped is not dead";
    for (const pid_t child : stopped) ::kill(child, SIGCONT);
    const Deadline until = Deadline::After(absl::Microseconds(300 + 10 * round));
    while (!until.passed()) ::sched_yield();
  }
  EXPECT_LE(late, operations / 100)
      << "of " << operations << " took more than " << kSoonNs << " ns";
  Stop();
}

// The one exception, and how far it goes: what a dead one held is held up by whoever is stopped in
// the middle of recovering it, of whom only the lock is seen here. All else goes on.
TEST_F(SurvivorsTest, ARecovererThatIsStoppedHoldsUpWhatTheDeadOneHeldAndNothingElse) {
  auto pipe = SlotPipe::Create("kill", {.slots = 8, .slot_bytes = 64, .participants = 3}).value();
  ASSERT_TRUE(pipe->SendBytes("held").ok());
  ASSERT_NO_FATAL_FAILURE(StartHolding([](SlotPipe& own) {
    own.Fetch()->Detach();
    own.Hold()->Detach();
  }));
  KillLastStarted();
  // The recoverer's lock.
  const int recoverer = ::open(directory_.File("kill").c_str(), O_RDWR | O_CLOEXEC);
  struct flock place {};
  place.l_type = F_WRLCK;
  place.l_start = 1;
  place.l_len = 1;
  ASSERT_EQ(::fcntl(recoverer, F_OFD_SETLK, &place), 0);

  EXPECT_EQ(pipe->Recover(), 0u);
  for (int i = 0; i < 1000; ++i) {
    for (int slot = 0; slot < 6; ++slot) ASSERT_TRUE(pipe->TrySendBytes("x").ok()) << i;
    EXPECT_FALSE(pipe->TryHold().ok()) << "two of eight are the dead one's";
    for (int slot = 0; slot < 6; ++slot) {
      auto message = pipe->TryFetch();
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_EQ(message->text(), "x");
      ASSERT_TRUE(message->Release().ok());
    }
  }
  EXPECT_TRUE(SlotPipe::Connect("kill").ok()) << "at another place";
  EXPECT_EQ(pipe->Status().recovered_participants, 0u);

  ::close(recoverer);  // it goes on, or dies
  EXPECT_EQ(pipe->Recover(), 1u);
  EXPECT_EQ(pipe->TryFetch()->text(), "held");
  EXPECT_EQ(pipe->Status().empty, 7u);
}

TEST_F(SurvivorsTest, AForkedChildHasToConnectForItself) {
  auto pipe = SlotPipe::Create("kill", {.slots = 8, .slot_bytes = 64}).value();
  auto held = pipe->Hold();
  const pid_t child = ::fork();
  if (child == 0) {
    const bool refused = absl::IsFailedPrecondition(pipe->TryHold().status()) &&
                         absl::IsFailedPrecondition(held->SendBytes("x"));
    held = absl::UnknownError("");
    pipe.reset();  // leaves the parent's place alone
    auto own = SlotPipe::Connect("kill");
    ::_exit(refused && own.ok() && (*own)->Status().participants.size() == 2 ? 0 : 1);
  }
  int status;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_TRUE(held->SendBytes("x").ok());
}

}  // namespace
}  // namespace mi7
