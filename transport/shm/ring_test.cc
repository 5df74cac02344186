#include "transport/shm/ring.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace mi7::transport::shm {
namespace {

class RingTest : public ::testing::Test {
 protected:
  static FrameHeader HeaderOf(uint32_t id) {
    FrameHeader header;
    header.size = 32;
    header.type = FrameType::kCall;
    header.call_id = id;
    return header;
  }
  static std::vector<uint64_t> WordsOf(uint32_t id, uint32_t count) {
    std::vector<uint64_t> words(count);
    for (uint32_t i = 0; i < count; ++i) words[i] = uint64_t{id} << 32 | i;
    return words;
  }
  void Write(uint32_t id, uint32_t count) {
    writer_.Write(HeaderOf(id), Form::kInline, WordsOf(id, count));
  }
  void ExpectRead(uint32_t id, uint32_t count) {
    ASSERT_TRUE(reader_.Ready());
    Record record;
    ASSERT_TRUE(reader_.Read(record));
    EXPECT_EQ(record.header.call_id, id);
    EXPECT_EQ(record.form, Form::kInline);
    const std::vector<uint64_t> words = WordsOf(id, count);
    ASSERT_EQ(record.count, count);
    for (uint32_t i = 0; i < count; ++i) EXPECT_EQ(record.words[i], words[i]) << i;
  }

  std::unique_ptr<Control> mine_ = std::make_unique<Control>();
  std::unique_ptr<Control> theirs_ = std::make_unique<Control>();
  RingWriter writer_{*mine_, *theirs_};
  RingReader reader_{*mine_, *theirs_};
};

TEST_F(RingTest, NothingIsReadyInAFreshRing) { EXPECT_FALSE(reader_.Ready()); }

TEST_F(RingTest, RecordsOfEveryLengthArriveInOrderPastTheEndOfTheRing) {
  uint32_t id = 0;
  for (int round = 0; round < 5; ++round) {
    for (uint32_t count = 0; count <= kRecordWordsMax; ++count) {
      ++id;
      ASSERT_TRUE(writer_.HasRoom(count));
      Write(id, count);
      ExpectRead(id, count);
      EXPECT_FALSE(reader_.Ready());
      reader_.Publish();
    }
  }
}

TEST_F(RingTest, AFullRingHasRoomAgainWhenTheReaderSaysSo) {
  uint32_t written = 0;
  while (writer_.HasRoom(3)) Write(++written, 3);
  EXPECT_EQ(written, kRingCells);
  ExpectRead(1, 3);
  EXPECT_FALSE(writer_.HasRoom(3)) << "read, but not published";
  EXPECT_EQ(reader_.unpublished(), 1u);
  reader_.Publish();
  EXPECT_EQ(reader_.unpublished(), 0u);
  EXPECT_TRUE(writer_.HasRoom(3));
  EXPECT_FALSE(writer_.HasRoom(4)) << "two cells do not fit one";
  Write(++written, 3);
  for (uint32_t id = 2; id <= written; ++id) ExpectRead(id, 3);
  EXPECT_FALSE(reader_.Ready());
}

TEST_F(RingTest, WhatIsLeftOfEarlierLapsIsNeverTakenForARecord) {
  // Payload words that look like the sequences to come.
  std::vector<uint64_t> words(kRecordWordsMax);
  for (uint32_t lap = 0; lap < 40; ++lap) {
    for (auto& word : words)
      word = SequenceAt(lap * 4 + 4) | uint64_t{SequenceAt(lap * 4 + 5)} << 32;
    ASSERT_TRUE(writer_.HasRoom(kRecordWordsMax));
    writer_.Write(HeaderOf(lap), Form::kSegments, words);
    Record record;
    ASSERT_TRUE(reader_.Ready());
    ASSERT_TRUE(reader_.Read(record));
    reader_.Publish();
    EXPECT_FALSE(reader_.Ready());
  }
}

TEST_F(RingTest, AReaderThatClaimsMoreThanWasWrittenGetsNoRoom) {
  while (writer_.HasRoom(3)) Write(1, 3);
  theirs_->consumed.store(kRingCells + 1);
  EXPECT_FALSE(writer_.HasRoom(3));
  theirs_->consumed.store(UINT32_MAX);
  EXPECT_FALSE(writer_.HasRoom(3));
  theirs_->consumed.store(kRingCells);
  EXPECT_TRUE(writer_.HasRoom(3));
}

TEST_F(RingTest, ShapesThatNoWriterMakesAreRefused) {
  for (const uint32_t shape :
       {ShapeOf(Form::kInline, 1, kRecordWordsMax + 1), ShapeOf(Form::kInline, 0, 3),
        ShapeOf(Form::kInline, 2, 3), ShapeOf(Form::kInline, 1, 4), ShapeOf(Form::kInline, 255, 24),
        ShapeOf(Form::kInline, 4, 0xffff)}) {
    auto control = std::make_unique<Control>();
    RingReader reader(*control, *theirs_);
    control->ring[0].shape = shape;
    control->ring[0].sequence.store(SequenceAt(0));
    ASSERT_TRUE(reader.Ready());
    Record record;
    EXPECT_FALSE(reader.Read(record)) << std::hex << shape;
  }
}

TEST(RingSequence, SkipsZero) {
  EXPECT_EQ(SequenceAt(0), 1u);
  EXPECT_EQ(NextSequence(UINT32_MAX, 1), 1u);
  for (uint32_t cells = 1; cells <= kRecordCellsMax; ++cells) {
    uint64_t position = 0xffff'fff0;
    uint32_t sequence = SequenceAt(position);
    for (int i = 0; i < 20; ++i) {
      position += cells;
      sequence = NextSequence(sequence, cells);
      ASSERT_NE(sequence, 0u);
      ASSERT_EQ(sequence, SequenceAt(position)) << position;
    }
  }
}

TEST_F(RingTest, TwoThreadsKeepOrderAndContent) {
  constexpr uint32_t kCount = 200'000;
  std::thread reader([&] {
    std::minstd_rand random(7);
    for (uint32_t id = 1; id <= kCount; ++id) {
      while (!reader_.Ready()) std::this_thread::yield();
      Record record;
      ASSERT_TRUE(reader_.Read(record));
      ASSERT_EQ(record.header.call_id, id);
      const uint32_t count = random() % (kRecordWordsMax + 1);
      ASSERT_EQ(record.count, count);
      for (uint32_t i = 0; i < count; ++i) ASSERT_EQ(record.words[i], uint64_t{id} << 32 | i);
      if (reader_.unpublished() >= 10) reader_.Publish();
    }
  });
  std::minstd_rand random(7);
  for (uint32_t id = 1; id <= kCount; ++id) {
    const uint32_t count = random() % (kRecordWordsMax + 1);
    while (!writer_.HasRoom(count)) std::this_thread::yield();
    Write(id, count);
  }
  reader.join();
}

}  // namespace
}  // namespace mi7::transport::shm
