#include "base/biased_mutex.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/asymmetric_fence.h"
#include "gtest/gtest.h"

namespace mi7 {
namespace {

// Locks and unlocks often enough to be granted the lock for the `nth` time.
void Insist(BiasedMutex& mutex, uint32_t nth) {
  for (uint32_t i = 0; i < (BiasedMutex::kStreak << (2 * nth)) + 1; ++i) {
    BiasedLock lock(&mutex);
  }
}

template <typename F>
void OnAnotherThread(F work) {
  std::thread(std::move(work)).join();
}

TEST(BiasedMutexTest, IsGrantedToAThreadThatComesOftenInARow) {
  if (!HaveAsymmetricFences()) GTEST_SKIP() << "the system has no asymmetric fences";
  BiasedMutex mutex;
  { BiasedLock lock(&mutex); }
  EXPECT_FALSE(mutex.granted());
  Insist(mutex, 0);
  EXPECT_TRUE(mutex.granted());
  OnAnotherThread([&] { EXPECT_FALSE(mutex.granted()); });
}

TEST(BiasedMutexTest, AnotherThreadTakesTheGrantAway) {
  if (!HaveAsymmetricFences()) GTEST_SKIP() << "the system has no asymmetric fences";
  BiasedMutex mutex;
  Insist(mutex, 0);
  OnAnotherThread([&] { BiasedLock lock(&mutex); });
  EXPECT_FALSE(mutex.granted());
  Insist(mutex, 0);
  EXPECT_FALSE(mutex.granted()) << "the next grant takes a longer streak";
  Insist(mutex, 1);
  EXPECT_TRUE(mutex.granted());
}

TEST(BiasedMutexTest, ThreadsThatTakeTurnsEndWithAnOrdinaryLock) {
  if (!HaveAsymmetricFences()) GTEST_SKIP() << "the system has no asymmetric fences";
  BiasedMutex mutex;
  for (uint32_t grant = 0; grant < BiasedMutex::kGrantsMax; ++grant) {
    Insist(mutex, grant);
    EXPECT_TRUE(mutex.granted());
    OnAnotherThread([&] { BiasedLock lock(&mutex); });
  }
  Insist(mutex, BiasedMutex::kGrantsMax);
  EXPECT_FALSE(mutex.granted());
}

TEST(BiasedMutexTest, ARevokerWaitsForWhoIsInside) {
  if (!HaveAsymmetricFences()) GTEST_SKIP() << "the system has no asymmetric fences";
  BiasedMutex mutex;
  Insist(mutex, 0);
  ASSERT_TRUE(mutex.granted());
  mutex.Lock();
  std::atomic<bool> left{false};
  std::thread other([&] {
    BiasedLock lock(&mutex);
    EXPECT_TRUE(left.load());
  });
  while (mutex.granted()) std::this_thread::yield();  // until it has begun to revoke
  left = true;
  mutex.Unlock();
  other.join();
}

// Sections of all kinds meet: granted ones, revoking ones, ordinary ones.
TEST(BiasedMutexTest, ExcludesWhateverTheWayIn) {
  const bool have = HaveAsymmetricFences();
  constexpr uint64_t kRounds = 300;
  constexpr uint64_t kInARow = 400;  // longer than the first streak
  for (uint64_t round = 0; round < kRounds; ++round) {
    BiasedMutex mutex;
    uint64_t count = 0;  // guarded by the mutex
    std::atomic<bool> was_granted{false};
    const auto work = [&](uint64_t times) {
      for (uint64_t i = 0; i < times; ++i) {
        BiasedLock lock(&mutex);
        ++count;
      }
      if (mutex.granted()) was_granted = true;
    };
    work(kInARow);
    std::thread first(work, kInARow);
    std::thread second(work, round);  // comes at different moments of the first one's streak
    work(kInARow);
    first.join();
    second.join();
    EXPECT_EQ(count, 3 * kInARow + round);
    EXPECT_EQ(was_granted, have);
  }
}

}  // namespace
}  // namespace mi7
