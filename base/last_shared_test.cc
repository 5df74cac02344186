#include "base/last_shared.h"

#include <memory>

#include "gtest/gtest.h"

namespace mi7 {
namespace {

LastShared<int>& Numbers() {
  static auto& numbers = *new LastShared<int>;
  return numbers;
}

std::shared_ptr<int> Number(int value) {
  return Numbers().Get([&](int last) { return last == value; },
                       [&] { return std::make_shared<int>(value); });
}

TEST(LastSharedTest, TheSameAsTheLastIsShared) {
  const auto one = Number(1);
  EXPECT_EQ(Number(1), one);
  const auto two = Number(2);
  EXPECT_NE(two, one);
  EXPECT_EQ(Number(2), two);
  const auto another_one = Number(1);
  EXPECT_NE(another_one, one) << "only the last is remembered";
  EXPECT_EQ(*another_one, 1);
}

TEST(LastSharedTest, WhatNobodyHasIsForgotten) {
  const std::weak_ptr<int> gone = Number(7);
  EXPECT_TRUE(gone.expired());
  EXPECT_EQ(*Number(7), 7);
}

}  // namespace
}  // namespace mi7
