#include "rpc/retry_budget.h"

#include <cstdint>

#include <gtest/gtest.h>

namespace mi7 {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

int TakeAll(RetryBudget& budget, int64_t now_ns) {
  int taken = 0;
  while (taken < 1000 && budget.Take(now_ns)) ++taken;
  return taken;
}

TEST(RetryBudgetTest, IsFullAtFirst) {
  RetryBudget budget({.tokens_max = 7, .tokens_per_call = 0, .tokens_per_second = 0});
  EXPECT_EQ(TakeAll(budget, kSecond), 7);
  EXPECT_EQ(TakeAll(budget, 100 * kSecond), 0);
}

TEST(RetryBudgetTest, FillsWithCalls) {
  RetryBudget budget({.tokens_max = 7, .tokens_per_call = 0.25, .tokens_per_second = 0});
  TakeAll(budget, kSecond);
  for (int i = 0; i < 11; ++i) budget.OnCall();
  EXPECT_EQ(TakeAll(budget, kSecond), 2);
  budget.OnCall();
  EXPECT_EQ(TakeAll(budget, kSecond), 1) << "the rest was not lost";
}

TEST(RetryBudgetTest, FillsWithTime) {
  RetryBudget budget({.tokens_max = 7, .tokens_per_call = 0, .tokens_per_second = 2});
  TakeAll(budget, kSecond);
  EXPECT_EQ(TakeAll(budget, kSecond + kSecond / 4), 0);
  EXPECT_EQ(TakeAll(budget, kSecond + kSecond / 2), 1);
  EXPECT_EQ(TakeAll(budget, 3 * kSecond), 3);
}

TEST(RetryBudgetTest, HoldsNoMoreThanItsSize) {
  RetryBudget budget({.tokens_max = 3, .tokens_per_call = 1, .tokens_per_second = 1});
  for (int i = 0; i < 100; ++i) budget.OnCall();
  EXPECT_EQ(TakeAll(budget, 1000 * kSecond), 3);
  EXPECT_EQ(TakeAll(budget, 2000 * kSecond), 3);
}

TEST(RetryBudgetTest, ClockThatSeemsToStandStillGivesNothing) {
  RetryBudget budget({.tokens_max = 1, .tokens_per_call = 0, .tokens_per_second = 1});
  EXPECT_EQ(TakeAll(budget, 10 * kSecond), 1);
  EXPECT_EQ(TakeAll(budget, 5 * kSecond), 0) << "another thread read the clock earlier";
  EXPECT_EQ(TakeAll(budget, 11 * kSecond), 1);
}

TEST(RetryBudgetTest, WithoutTokensNothingIsRepeated) {
  RetryBudget budget({.tokens_max = 0});
  budget.OnCall();
  EXPECT_EQ(TakeAll(budget, kSecond), 0);
}

}  // namespace
}  // namespace mi7
