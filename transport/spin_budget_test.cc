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

// The number of waits without pauses until the next that is begun with some.
uint32_t WaitsUntilPausesAreTried(NeighbourGuess& guess) {
  uint32_t waits = 0;
  while (guess.PausesWhileTheyHelp(/*single_cpu=*/true) == 0 && waits < 10'000) ++waits;
  return waits;
}

TEST(NeighbourGuessTest, WhoSharesTheCpuTriesPausesNowAndThen) {
  NeighbourGuess guess(&Losses);
  EXPECT_EQ(WaitsUntilPausesAreTried(guess), 15u);
  // Nobody has said what became of them.
  EXPECT_EQ(WaitsUntilPausesAreTried(guess), 15u);
  // Others that have more CPUs need not try.
  EXPECT_EQ(guess.PausesWhileTheyHelp(/*single_cpu=*/false), kPausesBeforeYield);
}

TEST(NeighbourGuessTest, PausesThatHelpAreKeptUntilTheyAreInVain) {
  NeighbourGuess guess(&Losses);
  WaitsUntilPausesAreTried(guess);
  for (int wait = 0; wait < 100; ++wait) {
    guess.PausesEnded(kPausesBeforeYield, wait % 2 == 0 ? 1 : kPausesBeforeYield);
    ASSERT_EQ(guess.PausesWhileTheyHelp(true), kPausesBeforeYield);
  }
  guess.PausesEnded(kPausesBeforeYield, kPausesBeforeYield + 1);
  EXPECT_EQ(guess.PausesWhileTheyHelp(true), 0u);
}

TEST(NeighbourGuessTest, PausesInVainAreTriedEverMoreSeldom) {
  NeighbourGuess guess(&Losses);
  for (const uint32_t every : {16u, 32u, 64u, 128u, 256u, 512u, 1024u, 1024u, 1024u}) {
    EXPECT_EQ(WaitsUntilPausesAreTried(guess), every - 1);
    guess.PausesEnded(kPausesBeforeYield, kPausesBeforeYield + 1);
  }
  // One that helps is a new beginning.
  WaitsUntilPausesAreTried(guess);
  guess.PausesEnded(kPausesBeforeYield, 1);
  guess.PausesEnded(kPausesBeforeYield, kPausesBeforeYield + 1);
  EXPECT_EQ(WaitsUntilPausesAreTried(guess), 31u);
}

TEST(NeighbourGuessTest, AWaitWithoutPausesSaysNothingOfThem) {
  NeighbourGuess guess(&Losses);
  guess.PausesEnded(0, 1);
  EXPECT_EQ(guess.PausesWhileTheyHelp(true), 0u);
  WaitsUntilPausesAreTried(guess);
  guess.PausesEnded(kPausesBeforeYield, 1);
  guess.PausesEnded(0, 1000);
  EXPECT_EQ(guess.PausesWhileTheyHelp(true), kPausesBeforeYield);
}

TEST(NeighbourGuessTest, WhoHasTheCpuAloneLearnsNothingFromPauses) {
  NeighbourGuess guess(&Losses);
  for (uint32_t poll = 1; poll <= 16; ++poll) guess.YieldOrPause(poll);
  ASSERT_EQ(guess.PausesWhileTheyHelp(true), kPausesBeforeYield);
  guess.PausesEnded(kPausesBeforeYield, 1);
  // Now somebody else takes it.
  ++losses;
  int waits = 0;
  while (guess.PausesWhileTheyHelp(true) != 0 && waits < 10'000) ++waits;
  EXPECT_LE(waits, 1024);
}

// Between how many waits of `count` the CPU was offered: the system is asked before and after.
int Offers(NeighbourGuess& guess, int count) {
  asked = 0;
  for (int wait = 0; wait < count; ++wait) guess.BetweenWaits();
  return asked / 2;
}

TEST(NeighbourGuessTest, WhoPausesOnASharedCpuOffersItBetweenEvery32Waits) {
  NeighbourGuess guess(&MoreLosses);
  EXPECT_EQ(Offers(guess, 320), 0);  // its waits do
  WaitsUntilPausesAreTried(guess);
  guess.PausesEnded(kPausesBeforeYield, 1);
  EXPECT_EQ(Offers(guess, 31), 0);
  EXPECT_EQ(Offers(guess, 1), 1);
  EXPECT_EQ(Offers(guess, 320), 10);
  guess.PausesEnded(kPausesBeforeYield, kPausesBeforeYield + 1);
  EXPECT_EQ(Offers(guess, 320), 0);
}

TEST(NeighbourGuessTest, WhoOffersTheCpuBetweenWaitsInVainHasItAlone) {
  NeighbourGuess guess(&Losses);
  WaitsUntilPausesAreTried(guess);
  guess.PausesEnded(kPausesBeforeYield, 1);
  EXPECT_EQ(Offers(guess, 320), 1);
  EXPECT_EQ(guess.Pauses(true), kPausesBeforeYield);
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
