#include "base/mutex.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "absl/time/time.h"

namespace mi7 {
namespace {

TEST(MutexTest, ExcludesThreadsThatFightForIt) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 20'000;
  Mutex mutex;
  int64_t count = 0;  // not atomic: only the mutex makes the sum come out
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        MutexLock lock(&mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, int64_t{kThreads} * kRounds);
}

TEST(MutexTest, SleepersAreAllWokenInTurn) {
  Mutex mutex;
  CondVar changed;
  int waiting = 0;
  std::vector<std::thread> threads;
  mutex.Lock();
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      MutexLock lock(&mutex);  // most of them sleep here, longer than they spin
      ++waiting;
      changed.NotifyAll();
    });
  }
  std::this_thread::yield();
  mutex.Unlock();
  {
    MutexLock lock(&mutex);
    EXPECT_TRUE(
        changed.WaitUntil(mutex, Deadline::After(absl::Seconds(20)), [&] { return waiting == 6; }));
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(CondVarTest, DeadlineEndsTheWaitWithTheMutexHeld) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(&mutex);
  EXPECT_FALSE(
      never.WaitUntil(mutex, Deadline::After(absl::Milliseconds(1)), [] { return false; }));
  EXPECT_TRUE(never.WaitUntil(mutex, Deadline::AtNanos(0), [] { return true; }));
}

}  // namespace
}  // namespace mi7
