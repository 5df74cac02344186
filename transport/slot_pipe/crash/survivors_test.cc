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
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7 {
namespace {

// What is promised of 99 of 100 recoveries.
constexpr int64_t kRecoveryNsMax = 100'000'000;

class SurvivorsTest : public KillTest {
 protected:
  // Expects of `recover`, which measures one recovery, that 99 of 100 are in time. A machine that
  // is busy with something else adds delays of its own, so two series of three are enough.
  void ExpectRecoveryInTime(const char* what, const std::function<void(int64_t&)>& recover) {
    constexpr size_t kRounds = 200;
    std::vector<int64_t> times_ns;
    constexpr int kSeries = 3;
    constexpr int kInTimeMin = 2;
    int series = 0;
    int in_time = 0;
    // Until it is decided.
    while (in_time < kInTimeMin && series - in_time <= kSeries - kInTimeMin) {
      times_ns.clear();
      size_t late = 0;
      while (times_ns.size() < kRounds && late <= kRounds / 100) {
        int64_t time_ns = 0;
        recover(time_ns);
        if (HasFatalFailure()) return;
        times_ns.push_back(time_ns);
        if (time_ns > kRecoveryNsMax) ++late;
      }
      ++series;
      if (late <= kRounds / 100) ++in_time;
      std::sort(times_ns.begin(), times_ns.end());
      std::cout << "RELIABILITY: recovery " << what << ": of " << times_ns.size() << " p50 "
                << times_ns[times_ns.size() / 2] / 1000 << " us, p99 "
                << times_ns[(times_ns.size() - 1) * 99 / 100] / 1000 << " us, most "
                << times_ns.back() / 1000 << " us\n";
    }
    std::cout << "RELIABILITY: recovery " << what << ": " << in_time << " of " << series
              << " series in time, " << kInTimeMin << " of " << kSeries << " were needed\n";
    EXPECT_GE(in_time, kInTimeMin)
        << "more than one of 100 recoveries took more than " << kRecoveryNsMax << " ns";
  }
};

TEST_F(SurvivorsTest, WhatADeadConsumerHeldComesBackWithin100Ms) {
  auto pipe = SlotPipe::Create("kill", {.slots = 8, .slot_bytes = 64}).value();
  ExpectRecoveryInTime("after a death", [&](int64_t& time_ns) {
    ASSERT_TRUE(pipe->SendBytes("held").ok());
    const pid_t child = Start([](SlotPipe& own) {
      own.Fetch()->Detach();
      for (;;) ::pause();
    });
    const Deadline patience = Deadline::After(absl::Seconds(30));
    while (pipe->Status().reading == 0 && !patience.passed()) ::sched_yield();
    ASSERT_EQ(pipe->Status().reading, 1u);
    const int64_t start_ns = MonotonicNanos();
    Kill(child);
    children_.pop_back();
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
    const uint64_t before = pipe->Status().recovered_participants;
    history_->held = false;
    const pid_t child = Start([this](SlotPipe& own) {
      own.Hold()->Detach();
      history_->held = true;
      for (;;) ::pause();
    });
    const Deadline patience = Deadline::After(absl::Seconds(30));
    while (!history_->held.load() && !patience.passed()) ::sched_yield();
    ASSERT_TRUE(history_->held.load());
    const int64_t start_ns = MonotonicNanos();
    Kill(child);
    children_.pop_back();
    const Deadline recovers = Deadline::After(absl::Seconds(30));
    while (pipe->Status().recovered_participants == before && !recovers.passed()) {
      ::sched_yield();
    }
    ASSERT_NE(pipe->Status().recovered_participants, before);
    time_ns = MonotonicNanos() - start_ns;
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
    const uint64_t before = pipe->Status().recovered_participants;
    history_->held = false;
    const pid_t child = Start([this](SlotPipe& own) {
      own.Fetch()->Detach();
      history_->held = true;
      for (;;) ::pause();
    });
    const Deadline patience = Deadline::After(absl::Seconds(30));
    while (!history_->held.load() && !patience.passed()) ::sched_yield();
    ASSERT_TRUE(history_->held.load());
    ::kill(worker, SIGCONT);
    const int64_t start_ns = MonotonicNanos();
    Kill(child);
    children_.pop_back();
    const Deadline recovers = Deadline::After(absl::Seconds(30));
    while (pipe->Status().recovered_participants == before && !recovers.passed()) {
      ::sched_yield();
    }
    ASSERT_NE(pipe->Status().recovered_participants, before);
    time_ns = MonotonicNanos() - start_ns;
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
    // Each of them has one slot at most, so four are left.
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
  const pid_t child = Start([this](SlotPipe& own) {
    own.Fetch()->Detach();
    own.Hold()->Detach();
    history_->held = true;
    for (;;) ::pause();
  });
  const Deadline patience = Deadline::After(absl::Seconds(30));
  while (!history_->held.load() && !patience.passed()) ::sched_yield();
  ASSERT_TRUE(history_->held.load());
  Kill(child);
  children_.pop_back();
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
