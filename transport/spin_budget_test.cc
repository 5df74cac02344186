#include "transport/spin_budget.h"

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

int64_t losses = 0;
int asked = 0;
int64_t Losses() {
  ++asked;
  return losses;
}
int64_t MoreLosses() {
  ++asked;
  return ++losses;
}

TEST(NeighbourGuessTest, OfOneCpuOthersAreThoughtToWantItUntilNobodyTakesIt) {
  NeighbourGuess guess(&Losses);
  EXPECT_EQ(guess.Pauses(/*single_cpu=*/true), 0u);
  EXPECT_EQ(guess.Pauses(/*single_cpu=*/false), kPausesBeforeYield);
  for (uint32_t poll = 1; poll <= 16; ++poll) guess.YieldOrPause(poll);
  EXPECT_EQ(guess.Pauses(true), kPausesBeforeYield);
}

TEST(NeighbourGuessTest, WhoLosesTheCpuOffersItAtOnceAndAtEachPoll) {
  NeighbourGuess guess(&MoreLosses);
  for (uint32_t poll = 1; poll <= 64; ++poll) guess.YieldOrPause(poll);
  EXPECT_EQ(guess.Pauses(true), 0u);
}

TEST(NeighbourGuessTest, WhoHasTheCpuAloneOffersItSeldom) {
  NeighbourGuess guess(&Losses);
  for (uint32_t poll = 1; poll <= 16; ++poll) guess.YieldOrPause(poll);
  asked = 0;
  for (uint32_t poll = 1; poll <= 10'240; ++poll) guess.YieldOrPause(poll);
  // Before and after each offer, of which 5 lead to one in 1,024 polls.
  EXPECT_GE(asked, 2 * 10);
  EXPECT_LE(asked, 2 * 15);
  EXPECT_EQ(guess.Pauses(true), kPausesBeforeYield);
}

TEST(NeighbourGuessTest, WhoNeverWaitsLongNoticesThatOthersTakeTheCpu) {
  NeighbourGuess guess(&Losses);
  for (uint32_t poll = 1; poll <= 16; ++poll) guess.YieldOrPause(poll);
  for (int wait = 0; wait < 1000; ++wait) ASSERT_EQ(guess.Pauses(true), kPausesBeforeYield);
  ++losses;
  int waits = 0;
  while (guess.Pauses(true) != 0 && waits < 10'000) ++waits;
  EXPECT_LE(waits, 1024);
}

TEST(NeighbourGuessTest, ACpuThatAnotherTakesWhenItIsOfferedIsLost) {
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  CPU_SET(::sched_getcpu(), &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  std::atomic<bool> stop{false};
  std::thread other([&] {  // on the same CPU, as it inherits that
    while (!stop) ::sched_yield();
  });
  const int64_t losses_before = NeighbourGuess::CpuLosses();
  int offers = 0;
  while (NeighbourGuess::CpuLosses() == losses_before && ++offers < 1'000'000) ::sched_yield();
  EXPECT_GT(NeighbourGuess::CpuLosses(), losses_before);
  stop = true;
  other.join();
  ASSERT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
}

}  // namespace
}  // namespace mi7::transport
