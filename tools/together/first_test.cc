// Two sources that are compiled as one: what both call the same is there twice, and each test runs
// its own.

#include <gtest/gtest.h>

namespace mi7 {
namespace {

constexpr int kTests = 1;

TEST(TogetherTest, OnlyTheTestsOfTheFirstSourceRun) {
  EXPECT_EQ(testing::UnitTest::GetInstance()->test_to_run_count(), kTests);
  EXPECT_STREQ(__FILE__, "tools/together/first_test.cc");
}

}  // namespace
}  // namespace mi7
