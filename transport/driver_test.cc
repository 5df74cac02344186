#include "transport/driver.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

TEST(DriverTokenTest, OneHolderAtATime) {
  DriverToken token;
  EXPECT_TRUE(token.TryTake());
  EXPECT_FALSE(token.TryTake());
  EXPECT_FALSE(token.Release());
  EXPECT_TRUE(token.TryTake());
}

TEST(DriverTokenTest, ReleaseTellsWhenTheLoopWantsIt) {
  DriverToken token;
  ASSERT_TRUE(token.TryTake());
  EXPECT_FALSE(token.TryTakeForLoop());
  EXPECT_TRUE(token.Release());
  EXPECT_TRUE(token.TryTakeForLoop());
  EXPECT_FALSE(token.Release()) << "told once";
}

TEST(DriverTokenTest, TurnGoesToTheOldestWaiterThatIsNotDone) {
  DriverToken token;
  Completion done;
  Completion waiting;
  ASSERT_TRUE(token.TryTake());
  token.List(done);
  token.List(waiting);
  done.Complete();
  EXPECT_FALSE(token.Release());
  EXPECT_EQ(waiting.Sleep(Deadline::After(absl::Seconds(10))), Completion::Woken::kTurn);
  token.Unlist(done);
  token.Unlist(waiting);
}

TEST(DriverTokenTest, WaiterThatLeavesPassesItsTurnOn) {
  DriverToken token;
  Completion first;
  Completion second;
  ASSERT_TRUE(token.TryTake());
  token.List(first);
  token.List(second);
  EXPECT_FALSE(token.Release());  // offered to the first, which leaves with it
  token.Unlist(first);
  EXPECT_EQ(second.Sleep(Deadline::After(absl::Seconds(10))), Completion::Woken::kTurn);
  token.Unlist(second);
}

// Threads take turns; every wait must end by a turn or by a completion of another one's drive.
TEST(DriverTokenTest, NoTurnIsLostAmongManyThreads) {
  DriverToken token;
  constexpr int kThreads = 4;
  constexpr int kTurns = 3000;
  int driven = 0;  // guarded by the token
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kTurns; ++i) {
        Completion completion;
        token.List(completion);
        while (!token.TryTake()) {
          ASSERT_NE(completion.Sleep(Deadline::After(absl::Seconds(20))),
                    Completion::Woken::kDeadline);
        }
        token.Unlist(completion);
        ++driven;
        static_cast<void>(token.Release());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(token.TryTake());
  EXPECT_EQ(driven, kThreads * kTurns);
}

}  // namespace
}  // namespace mi7::transport
