#include "base/fake_clock.h"

#include <thread>

#include <gtest/gtest.h>

#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/mutex.h"

namespace mi7 {
namespace {

TEST(FakeClockTest, DeadlinesFollowIt) {
  const int64_t before_ns = MonotonicNanos();
  FakeClock clock;
  EXPECT_GE(MonotonicNanos(), before_ns) << "it begins with the time that it is";
  const Deadline deadline = Deadline::After(absl::Hours(1));
  EXPECT_FALSE(deadline.passed());
  clock.Advance(absl::Minutes(40));
  EXPECT_FALSE(deadline.passed());
  EXPECT_LE(deadline.remaining(), absl::Minutes(20));
  EXPECT_GT(deadline.remaining(), absl::Minutes(15));
  clock.Advance(absl::Minutes(20));
  EXPECT_TRUE(deadline.passed());
}

TEST(FakeClockTest, TimeDoesNotGoBackWhenItIsGone) {
  Deadline deadline;
  {
    FakeClock clock;
    deadline = Deadline::After(absl::Hours(1));
    clock.Advance(absl::Hours(2));
  }
  EXPECT_TRUE(deadline.passed());
  FakeClock another;
  EXPECT_TRUE(deadline.passed());
}

TEST(FakeClockTest, EndsWaitsThatHaveBegun) {
  FakeClock clock;
  Mutex mutex;
  CondVar changed;
  const Deadline deadline = Deadline::After(absl::Hours(1));
  bool reached = true;
  std::thread waiting([&] {
    MutexLock lock(&mutex);
    reached = changed.WaitUntil(mutex, deadline, [] { return false; });
  });
  clock.Advance(absl::Hours(1));
  waiting.join();
  EXPECT_FALSE(reached);
}

TEST(FakeClockTest, SystemIsGivenTheRestOfAMillisecondAtMost) {
  FakeClock clock;
  clock.Advance(absl::Hours(1));
  const int64_t before_ns = SystemNanos();
  const int64_t at_ns = Deadline::After(absl::Hours(1)).ForSystem().at_ns();
  EXPECT_GE(at_ns, before_ns);
  EXPECT_LE(at_ns, SystemNanos() + 1'000'000);
  EXPECT_TRUE(Deadline::Infinite().ForSystem().infinite());
}

}  // namespace
}  // namespace mi7
