#include "transport/shm/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "transport/local/testing.h"
#include "transport/refuse_system_call.h"
#include "transport/shm/testing.h"

namespace mi7::transport::shm {
namespace {

// Wakeups of loops and of threads.
struct Rung {
  int bytes = 0;
  uint32_t bells = 0;
  friend bool operator==(const Rung&, const Rung&) = default;
};

// A sleeper and who wakes it.
struct TwoEnds {
  RawPair raw_ = MakeRawPair({}, {});
  PeerHalf seen_by_waker_ = AsPeer(raw_.halves[1]);
  PeerHalf seen_by_sleeper_ = AsPeer(raw_.halves[0]);
  Doorbell waker_{raw_.halves[0].control(), seen_by_waker_.control(), raw_.sockets[0].get()};
  Doorbell sleeper_{raw_.halves[1].control(), seen_by_sleeper_.control(), raw_.sockets[1].get()};
};

class DoorbellTest : public ::testing::Test, protected TwoEnds {
 protected:
  // Since the last time.
  Rung TakeRung() {
    Rung rung;
    char byte;
    while (::recv(raw_.sockets[1].get(), &byte, 1, MSG_DONTWAIT) == 1) ++rung.bytes;
    const uint32_t bell = raw_.halves[0].control().bell.load();
    rung.bells = bell - bells_;
    bells_ = bell;
    return rung;
  }
  Rung AfterRinging(int times, bool only_for_room = false) {
    for (int i = 0; i < times; ++i) waker_.WakePeer(only_for_room);
    return TakeRung();
  }
  static constexpr Rung kNone{};
  static constexpr Rung kLoop{.bytes = 1, .bells = 0};
  static constexpr Rung kThread{.bytes = 0, .bells = 1};

  uint32_t bells_ = 0;
};

TEST_F(DoorbellTest, WhoIsAwakeIsNotWoken) {
  EXPECT_EQ(AfterRinging(100), kNone);
  sleeper_.Declare(kSocket);
  sleeper_.Awake();
  EXPECT_EQ(AfterRinging(100), kNone);
  EXPECT_EQ(AfterRinging(100, /*only_for_room=*/true), kNone);
}

TEST_F(DoorbellTest, EachSleepOfALoopIsWokenOnce) {
  for (int sleep = 0; sleep < 3; ++sleep) {
    sleeper_.Declare(kSocket);
    EXPECT_EQ(AfterRinging(32), kLoop) << "for a burst";
    EXPECT_EQ(AfterRinging(32), kNone) << "it has not run yet";
  }
}

TEST_F(DoorbellTest, EachSleepOfAThreadIsWokenOnce) {
  for (int sleep = 0; sleep < 3; ++sleep) {
    sleeper_.Declare(kFutex);
    EXPECT_EQ(AfterRinging(32), kThread);
    EXPECT_EQ(AfterRinging(32), kNone);
    sleeper_.Awake();
  }
}

TEST_F(DoorbellTest, RoomWakesThoseAloneWhoWantIt) {
  sleeper_.Declare(kSocket);
  EXPECT_EQ(AfterRinging(5, /*only_for_room=*/true), kNone);
  EXPECT_EQ(AfterRinging(5), kLoop) << "the sleep was not used up";
  sleeper_.Declare(kSocket | kWantsRoom);
  EXPECT_EQ(AfterRinging(5, /*only_for_room=*/true), kLoop);
  sleeper_.Declare(kFutex | kWantsRoom);
  EXPECT_EQ(AfterRinging(5), kThread) << "and messages wake them, too";
}

TEST_F(DoorbellTest, OfManyThreadsOneWakes) {
  for (const uint32_t mode : {kSocket, kFutex}) {
    for (int round = 0; round < 50; ++round) {
      sleeper_.Declare(mode);
      std::atomic<int> ready{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
          ready.fetch_add(1);
          while (ready.load() != 4) ::sched_yield();
          for (int ring = 0; ring < 20; ++ring) waker_.WakePeer(false);
        });
      }
      for (std::thread& thread : threads) thread.join();
      ASSERT_EQ(TakeRung(), mode == kSocket ? kLoop : kThread) << "round " << round;
    }
  }
}

TEST_F(DoorbellTest, AThreadThatIsRungBeforeItSleepsDoesNotSleep) {
  const std::atomic<uint32_t> kick{0}, other{0};
  sleeper_.Declare(kFutex);
  waker_.WakePeer(false);
  sleeper_.SleepInFutex(kick, 0, other, 0, Deadline::Infinite());
}

// Waits until a thread of this process sleeps, as the system sees it.
bool Sleeps(pid_t thread) {
  const Deadline patience = Deadline::After(absl::Seconds(20));
  while (!patience.passed()) {
    std::ifstream file(absl::StrCat("/proc/self/task/", thread, "/stat"));
    std::string id, name, state;
    if (file >> id >> name >> state && state == "S") return true;
    ::sched_yield();
  }
  return false;
}

TEST_F(DoorbellTest, AThreadSleepsUntilItIsRungOrKicked) {
  std::atomic<uint32_t> kick{0}, other{0};
  const auto wakes = [&](auto wake) {
    sleeper_.Declare(kFutex);
    const uint32_t bell = seen_by_sleeper_.control().bell.load();
    std::thread waker([&, sleeper = ::gettid()] {
      EXPECT_TRUE(Sleeps(sleeper));
      wake();
    });
    // Returns for no reason, too: whoever sleeps looks again.
    while (seen_by_sleeper_.control().bell.load() == bell && kick.load() == 0 &&
           other.load() == 0) {
      sleeper_.SleepInFutex(kick, 0, other, 0, Deadline::Infinite());
    }
    waker.join();
    sleeper_.Awake();
    kick = other = 0;
  };
  wakes([&] { waker_.WakePeer(false); });
  wakes([&] {
    kick = 1;
    WakeInProcess(kick);
  });
  wakes([&] {
    other = 1;
    WakeInProcess(other);
  });
  sleeper_.Declare(kFutex);
  const Deadline soon = Deadline::After(absl::Milliseconds(1));
  while (!soon.passed()) sleeper_.SleepInFutex(kick, 0, other, 0, soon);
}

TEST_F(DoorbellTest, AThreadSleepsAlsoWhereItCannotWaitForSeveralWords) {
  constexpr uint32_t kFutexWaitv = 449;
  constexpr int kNoFilter = 77;
  for (const int error : {ENOSYS, EPERM}) {
    const int status = transport::testing::WaitFor(transport::testing::Fork([&] {
      if (!transport::testing::RefuseSystemCall(kFutexWaitv, static_cast<uint32_t>(error))) {
        return kNoFilter;
      }
      TwoEnds ends;  // a child does not have what its parent has mapped
      const std::atomic<uint32_t> kick{0}, other{0};
      const int64_t start_ns = SystemNanos();
      for (int i = 0; i < 5; ++i) {
        ends.sleeper_.Declare(kFutex);
        ends.sleeper_.SleepInFutex(kick, 0, other, 0, Deadline::Infinite());
      }
      return SystemNanos() - start_ns >= 40'000'000 ? 0 : 1;
    }));
    if (status == kNoFilter) {
      std::fprintf(stderr, "NOTICE: test not run, this machine permits no filters\n");
      GTEST_SKIP();
    }
    EXPECT_EQ(status, 0) << "with error " << error;
  }
}

TEST_F(DoorbellTest, AFullSocketWakesAndDoesNotBlock) {
  const char byte = kWakeByte;
  while (::send(raw_.sockets[0].get(), &byte, 1, MSG_DONTWAIT) == 1) {
  }
  sleeper_.Declare(kSocket);
  waker_.WakePeer(false);
  EXPECT_GT(TakeRung().bytes, 0);
}

TEST_F(DoorbellTest, WhateverAPeerDeclaresCostsOneWakeEachTimeAtMost) {
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    raw_.halves[1].control().attention.store(static_cast<uint32_t>(random()));
    const Rung rung = AfterRinging(3, random() % 2 == 0);
    ASSERT_LE(rung.bytes + static_cast<int>(rung.bells), 1);
  }
}

}  // namespace
}  // namespace mi7::transport::shm
