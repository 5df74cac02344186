// A thread that has one CPU alone, and shares it with others, while its answers are made on another
// one: it pauses between polls as long as answers come meanwhile, and offers the others a turn now
// and then.

#include <sched.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "tests/conformance/call/shm_wakeups.h"
#include "tests/conformance/call/system_call_counts.h"
#include "transport/event_loop.h"

namespace mi7::conformance {
namespace {

class ShmWakeupsSharedCpuTest : public ShmWakeupsTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(::sched_getaffinity(0, sizeof(before_), &before_), 0);
    ShmWakeupsTest::SetUp();
    if (IsSkipped()) return;
    if (!HasSeveralCpus()) {
      std::fprintf(stderr, "NOTICE: test not run, it takes two CPUs\n");
      GTEST_SKIP();
    }
    // What is made from here on has the second CPU: both loops.
    UseCpu(1);
    loop_ = *transport::EventLoop::Create({.name = "other"});
  }
  void TearDown() override {
    if (channel_ != nullptr) channel_->Close();
    channel_ = nullptr;
    server_ = nullptr;
    ::sched_setaffinity(0, sizeof(before_), &before_);
  }
  // The calling thread has the n-th of this program's CPUs alone.
  void UseCpu(int n) {
    cpu_set_t one;
    CPU_ZERO(&one);
    for (size_t cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &before_) && n-- == 0) CPU_SET(cpu, &one);
    }
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  }
  // `caller` is a thread on the first CPU that is told that others take it, and waits as `wait`
  // says.
  template <typename Body>
  void OnASharedCpu(WaitPolicy wait, Body caller) {
    Listen(WaitPolicy::kSpin, wait, loop_.get());
    std::thread([this, &caller] {
      // Before its first wait, in which it learns that.
      UseCpu(0);
      watched = true;
      Call(100);
      caller();
    }).join();
  }
  // What so many calls of that thread counted.
  const Counts& Call(int count) {
    watched_counts.Clear();
    for (int i = 0; i < count; ++i) ShmWakeupsTest::Call();
    return watched_counts;
  }
  // How often that thread offered its CPU, or slept, in so many calls.
  uint64_t OffersOf(int count) {
    const Counts& of_calls = Call(count);
    return of_calls.yields + of_calls.bell_sleeps;
  }
  // After `long_wait` of the thread, before which pauses helped it, they are not tried for a while.
  template <typename Wait>
  void ExpectOffersAfter(Wait long_wait) {
    // So many windows are looked at, each so short that in some no thread is kept from running,
    // whatever else the machine does.
    constexpr int kTries = 5000;
    constexpr int kRounds = 10;
    int rounds = 0;
    int offered = 0;
    std::string seen;
    for (int i = 0; i < kTries && rounds < kRounds; ++i) {
      Call(64);
      const bool pauses_help = OffersOf(16) <= 1;
      seen = watched_counts.ToString();
      if (!pauses_help) continue;
      long_wait();
      offered += OffersOf(15) >= 8;
      ++rounds;
    }
    EXPECT_EQ(rounds, kRounds) << "pauses help where answers come soon; the last time: " << seen;
    EXPECT_GE(offered, rounds * 3 / 4);
  }

  cpu_set_t before_;
  std::unique_ptr<transport::EventLoop> loop_;
};

TEST_F(ShmWakeupsSharedCpuTest, WhoPausesOffersTheCpuBetweenWaits) {
  OnASharedCpu(WaitPolicy::kAdaptive, [this] {
    std::string seen;
    for (int i = 0; i < 100; ++i) {
      const Counts& of_calls = Call(3200);
      seen = of_calls.ToString();
      // The system is asked before and after each such offer, of which there is one in 32 waits for
      // which pauses were enough. Of those that are made in a wait it is one in 16.
      if (of_calls.asks >= of_calls.yields / 8 + 40) return;
    }
    ADD_FAILURE() << "the last time: " << seen;
  });
}

TEST_F(ShmWakeupsSharedCpuTest, AfterAWaitForWhichPausesWereTooShortTheCpuIsOfferedAtOnce) {
  OnASharedCpu(WaitPolicy::kAdaptive, [this] {
    ExpectOffersAfter([this] {
      answers_late_ = true;
      Call(1);
      answers_late_ = false;
    });
  });
}

TEST_F(ShmWakeupsSharedCpuTest, AfterAWaitThatWasGivenUpTheCpuIsOfferedAtOnce) {
  OnASharedCpu(WaitPolicy::kSpin, [this] {
    ExpectOffersAfter([this] {
      held_up_ = true;
      const auto soon = Deadline::After(absl::Milliseconds(2));
      const EchoResult result = ProbeStub(channel_).Echo({.deadline = soon}).Send().Wait();
      held_up_ = false;
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded));
      // When another thread has its answer, the server is done with that.
      std::thread([this] { ShmWakeupsTest::Call(); }).join();
    });
  });
}

}  // namespace
}  // namespace mi7::conformance
