#include "channels/ring.h"

#include <cstddef>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace mi7::channels_internal {
namespace {

TEST(RingTest, IsAQueueHoweverItsBlockIsTurnedAndGrows) {
  Ring<std::unique_ptr<int>> ring;
  int next_in = 0;
  int next_out = 0;
  for (int round = 1; round < 100; ++round) {
    for (int i = 0; i < round; ++i) ring.PushBack(std::make_unique<int>(next_in++));
    for (int i = 0; i < round - round / 3; ++i) ASSERT_EQ(*ring.PopFront(), next_out++);
  }
  EXPECT_EQ(ring.size(), static_cast<size_t>(next_in - next_out));
  while (!ring.empty()) ASSERT_EQ(*ring.PopFront(), next_out++);
  EXPECT_EQ(next_in, next_out);
}

TEST(RingTest, WhatIsInsertedComesInItsPlace) {
  Ring<std::unique_ptr<int>> ring;
  std::vector<int> expected;
  const auto insert = [&](size_t index, int value) {
    ring.Insert(index, std::make_unique<int>(value));
    expected.insert(expected.begin() + static_cast<std::ptrdiff_t>(index), value);
  };
  for (int round = 0; round < 100; ++round) {
    insert(0, 3 * round);
    insert(ring.size(), 3 * round + 1);
    insert(ring.size() * static_cast<size_t>(round) / 100, 3 * round + 2);
    if (round % 3 == 0) {
      ASSERT_EQ(*ring.PopFront(), expected.front());
      expected.erase(expected.begin());
    }
  }
  for (const int value : expected) ASSERT_EQ(*ring.PopFront(), value);
  EXPECT_TRUE(ring.empty());
}

TEST(RingTest, DestroysWhatIsLeft) {
  auto value = std::make_shared<int>(1);
  {
    Ring<std::shared_ptr<int>> ring;
    for (int i = 0; i < 9; ++i) ring.PushBack(std::shared_ptr<int>(value));
    ring.PopFront();
    EXPECT_EQ(value.use_count(), 9);
    Ring<std::shared_ptr<int>> other(std::move(ring));
    EXPECT_TRUE(ring.empty());
    EXPECT_EQ(other.size(), 8u);
  }
  EXPECT_EQ(value.use_count(), 1);
}

TEST(RingTest, WorksOnAfterALargeBlockWasFreed) {
  Ring<int> ring;
  const int many = 2 * static_cast<int>(Ring<int>::kKeptBytes / sizeof(int));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < many; ++i) ring.PushBack(int{i});
    for (int i = 0; i < many; ++i) ASSERT_EQ(ring.PopFront(), i);
  }
  EXPECT_TRUE(ring.empty());
}

}  // namespace
}  // namespace mi7::channels_internal
