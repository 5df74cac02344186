// See first_test.cc.

#include <gtest/gtest.h>

namespace mi7 {
namespace {

constexpr int kTests = 3;

TEST(TogetherTest, OnlyTheTestsOfTheSecondSourceRun) {
  EXPECT_EQ(testing::UnitTest::GetInstance()->test_to_run_count(), kTests);
  EXPECT_STREQ(__FILE__, "tools/together/second_test.cc");
}

class TogetherWithValuesTest : public testing::TestWithParam<int> {};

TEST_P(TogetherWithValuesTest, TestsWithValuesRun) { EXPECT_GT(GetParam(), 0); }

INSTANTIATE_TEST_SUITE_P(Values, TogetherWithValuesTest, testing::Values(1, 2));

}  // namespace
}  // namespace mi7
