// Passes everywhere; under ThreadSanitizer it proves that correct use of Abseil's synchronization
// is no race to it, and that a race still is one.

#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace {

constexpr int kRounds = 10'000;

void InFourThreads(auto body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

TEST(AbslUnderTsan, MutexProtects) {
  absl::Mutex mutex;
  int count = 0;
  InFourThreads([&](int) {
    for (int i = 0; i < kRounds; ++i) {
      if (i % 2 == 0) {
        absl::MutexLock lock(&mutex);
        ++count;
      } else {
        while (!mutex.TryLock()) std::this_thread::yield();
        ++count;
        mutex.Unlock();
      }
    }
  });
  EXPECT_EQ(count, 4 * kRounds);
}

TEST(AbslUnderTsan, SharedLocksProtect) {
  absl::Mutex mutex;
  int count = 0;
  InFourThreads([&](int thread) {
    for (int i = 0; i < kRounds; ++i) {
      if (thread == 0) {
        absl::WriterMutexLock lock(&mutex);
        ++count;
      } else {
        absl::ReaderMutexLock lock(&mutex);
        EXPECT_GE(count, 0);
      }
    }
  });
  EXPECT_EQ(count, kRounds);
}

TEST(AbslUnderTsan, ConditionsAreEvaluatedUnderTheLock) {
  absl::Mutex mutex;
  int turn = 0;
  // Taken in one of three ways: more than clang's analysis follows.
  InFourThreads([&](int thread) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (int i = 0; i < kRounds / 10; ++i) {
      auto mine = [&turn, thread] { return turn % 4 == thread; };
      switch (i % 3) {
        case 0:
          mutex.LockWhen(absl::Condition(&mine));
          break;
        case 1:
          mutex.Lock();
          mutex.Await(absl::Condition(&mine));
          break;
        case 2:
          mutex.Lock();
          while (!mutex.AwaitWithTimeout(absl::Condition(&mine), absl::Milliseconds(1))) {
          }
          break;
      }
      ++turn;
      mutex.Unlock();
    }
  });
  EXPECT_EQ(turn, 4 * (kRounds / 10));
}

TEST(AbslUnderTsan, ConditionVariableHandsOver) {
  absl::Mutex mutex;
  absl::CondVar changed;
  int turn = 0;
  InFourThreads([&](int thread) {
    for (int i = 0; i < kRounds / 10; ++i) {
      absl::MutexLock lock(&mutex);
      while (turn % 4 != thread) {
        if (i % 2 == 0) {
          changed.Wait(&mutex);
        } else {
          changed.WaitWithTimeout(&mutex, absl::Milliseconds(1));
        }
      }
      ++turn;
      changed.SignalAll();
    }
  });
  EXPECT_EQ(turn, 4 * (kRounds / 10));
}

TEST(AbslUnderTsan, NotificationPublishes) {
  for (int i = 0; i < 200; ++i) {
    absl::Notification notification;
    int value = 0;
    std::thread writer([&] {
      value = i;
      notification.Notify();
    });
    switch (i % 3) {
      case 0:
        notification.WaitForNotification();
        break;
      case 1:
        while (!notification.HasBeenNotified()) std::this_thread::yield();
        break;
      case 2:
        while (!notification.WaitForNotificationWithTimeout(absl::Milliseconds(1))) {
        }
        break;
    }
    EXPECT_EQ(value, i);
    value = -1;
    writer.join();
  }
}

TEST(AbslUnderTsan, BlockingCounterPublishes) {
  for (int i = 0; i < 100; ++i) {
    int values[4] = {};
    absl::BlockingCounter counter(4);
    std::vector<std::thread> threads;
    for (int j = 0; j < 4; ++j) {
      threads.emplace_back([&, j] {
        values[j] = 1;
        counter.DecrementCount();
      });
    }
    counter.Wait();
    EXPECT_EQ(values[0] + values[1] + values[2] + values[3], 4);
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(AbslUnderTsan, StatusIsFreedAfterEveryReader) {
  for (int i = 0; i < 200; ++i) {
    absl::Status status = absl::UnavailableError(std::string(100, 'x'));
    std::vector<std::thread> threads;
    for (int j = 0; j < 4; ++j) {
      threads.emplace_back(
          [copy = status]() mutable { EXPECT_EQ(std::exchange(copy, {}).message().size(), 100u); });
    }
    status = absl::OkStatus();
    for (std::thread& thread : threads) thread.join();
  }
}

#ifdef __SANITIZE_THREAD__
TEST(AbslUnderTsan, RaceIsStillFound) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        int count = 0;
        InFourThreads([&](int) {
          for (int i = 0; i < kRounds; ++i) count = count + 1;
        });
        std::exit(count == 0);
      },
      "data race");
}
#endif

}  // namespace
