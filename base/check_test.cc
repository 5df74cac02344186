#include "base/check.h"

#include <gtest/gtest.h>

namespace {

TEST(CheckDeathTest, FailureNamesThePlaceTheReasonAndTheCondition) {
  EXPECT_DEATH(MI7_CHECK(1 + 1 == 3, "arithmetic broke"),
               "check_test.cc:[0-9]+: mi7 bug, please report it: arithmetic broke: check failed: "
               "1 \\+ 1 == 3");
}

TEST(CheckTest, TrueConditionIsEvaluatedOnceAndPasses) {
  int evaluated = 0;
  MI7_CHECK(++evaluated == 1, "evaluated once");
  EXPECT_EQ(evaluated, 1);
}

TEST(CheckTest, IsOneStatement) {
  if (true)
    MI7_CHECK(true, "usable without braces");
  else
    FAIL() << "the else belongs to the outer if";
}

}  // namespace
