#include "transport/spin_budget.h"

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

TEST(NeighbourGuessTest, WhoHasTheCpuAloneOffersItSeldomAndNoticesWhenItIsTaken) {
  NeighbourGuess guess(&Losses);
  guess.EndedWhilePausing();
  asked = 0;
  for (uint32_t poll = 1; poll <= 160; ++poll) guess.YieldOrPause(poll);
  EXPECT_EQ(asked, 2 * 10) << "every 16th poll, before and after";
  EXPECT_EQ(guess.Pauses(true), kPausesBeforeYield);

  NeighbourGuess taken(&MoreLosses);
  taken.EndedWhilePausing();
  for (uint32_t poll = 1; poll <= 16; ++poll) taken.YieldOrPause(poll);
  EXPECT_EQ(taken.Pauses(true), 0u);
}

TEST(NeighbourGuessTest, NowAndThenPausesAreTriedAgain) {
  NeighbourGuess guess(&MoreLosses);
  int with_pauses = 0;
  for (int wait = 0; wait < 640; ++wait) with_pauses += guess.Pauses(true) != 0;
  EXPECT_EQ(with_pauses, 10);
  guess.EndedWhilePausing();
  EXPECT_EQ(guess.Pauses(true), kPausesBeforeYield);
}

TEST(NeighbourGuessTest, LossesAreCounted) {
  const int64_t before = NeighbourGuess::CpuLosses();
  // Nearly every time this thread waits for the other to end.
  for (int i = 0; i < 1000 && NeighbourGuess::CpuLosses() == before; ++i) std::thread([] {}).join();
  EXPECT_GT(NeighbourGuess::CpuLosses(), before);
}

}  // namespace
}  // namespace mi7::transport
