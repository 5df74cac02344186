#include "channels/ring.h"

#include <memory>

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

TEST(RingTest, WhatIsPutToTheFrontComesFirst) {
  Ring<int> ring;
  for (int i = 0; i < 20; ++i) {
    ring.PushBack(100 + i);
    ring.PushFront(-i);
  }
  for (int i = 19; i >= 0; --i) ASSERT_EQ(ring.PopFront(), -i);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(ring.PopFront(), 100 + i);
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
