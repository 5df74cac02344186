#include "transport/frame_assembler.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/message.h"

namespace mi7::transport {
namespace {

using Result = FrameAssembler::Result;
using ::testing::HasSubstr;

// The bytes of a call with `words` words of body, each filled from `call_id`.
std::string Frame(uint32_t call_id, size_t words) {
  FrameHeader header;
  header.type = FrameType::kCall;
  header.target = TargetKind::kService;
  header.call_id = call_id;
  header.size = static_cast<uint32_t>(kFrameHeaderBytes + 8 + words * 8);
  std::string bytes(header.size, static_cast<char>(call_id));
  std::memcpy(bytes.data(), &header, sizeof(header));
  const uint32_t table[2] = {0, static_cast<uint32_t>(words)};
  std::memcpy(bytes.data() + sizeof(header), table, sizeof(table));
  return bytes;
}

// Feeds at most `most` bytes of `stream` from `at` on; returns how many.
size_t Feed(FrameAssembler& assembler, const std::string& stream, size_t at, size_t most) {
  const auto space = assembler.Space();
  const size_t bytes = std::min({most, space.size(), stream.size() - at});
  std::memcpy(space.data(), stream.data() + at, bytes);
  assembler.Filled(bytes);
  return bytes;
}

void ExpectFrame(const IncomingMessage& message, uint32_t call_id, size_t words) {
  ASSERT_EQ(message.header().call_id, call_id);
  ASSERT_EQ(message.segments().size(), 1u);
  const auto segment = message.segments()[0].asBytes();
  ASSERT_EQ(segment.size(), words * 8);
  ASSERT_EQ(reinterpret_cast<uintptr_t>(segment.begin()) % 8, 0u);
  ASSERT_TRUE(std::all_of(segment.begin(), segment.end(),
                          [call_id](uint8_t byte) { return byte == (call_id & 0xff); }));
}

TEST(FrameAssemblerTest, AnyCutOfTheStreamGivesTheSameMessages) {
  std::mt19937 random(7);
  std::vector<size_t> sizes;
  std::string stream;
  for (uint32_t id = 0; id < 400; ++id) {
    size_t words = random() % 60;
    if (id % 50 == 20) words = 9'000;           // larger than a chunk
    if (id % 50 == 30) words = 4'000 + id * 8;  // most of a chunk
    sizes.push_back(words);
    stream += Frame(id, words);
  }
  for (size_t most : {size_t{1}, size_t{31}, size_t{33}, size_t{1000}, size_t{1} << 20}) {
    SCOPED_TRACE(most);
    const Limits limits;
    FrameAssembler assembler(&limits);
    FrameAssembler::Received received;
    uint32_t next = 0;
    std::vector<IncomingMessage> kept;  // some outlive the buffers' turn
    for (size_t at = 0; at < stream.size();) {
      at += Feed(assembler, stream, at, most);
      for (Result result; (result = assembler.Next(received)) != Result::kNeedMore; ++next) {
        ASSERT_EQ(result, Result::kMessage);
        ExpectFrame(received.message, next, sizes[next]);
        if (next % 3 == 0) kept.push_back(std::move(received.message));
      }
      if (random() % 4 == 0) assembler.ReleaseIdle();
    }
    EXPECT_EQ(next, sizes.size());
    EXPECT_TRUE(assembler.AtBoundary());
    for (size_t i = 0; i < kept.size(); ++i) {
      ExpectFrame(kept[i], static_cast<uint32_t>(i * 3), sizes[i * 3]);
    }
  }
}

TEST(FrameAssemblerTest, HoldsNoBufferBetweenMessages) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  EXPECT_FALSE(assembler.holds_buffer());
  const std::string frame = Frame(1, 3);
  FrameAssembler::Received received;
  ASSERT_EQ(Feed(assembler, frame, 0, 40), 40u);
  ASSERT_EQ(assembler.Next(received), Result::kNeedMore);
  assembler.ReleaseIdle();
  EXPECT_TRUE(assembler.holds_buffer()) << "a part of a message is in it";
  EXPECT_FALSE(assembler.AtBoundary());
  Feed(assembler, frame, 40, 1000);
  ASSERT_EQ(assembler.Next(received), Result::kMessage);
  received.message.reset();
  assembler.ReleaseIdle();
  EXPECT_FALSE(assembler.holds_buffer());
}

TEST(FrameAssemblerTest, MessagesThatComeTogetherShareABuffer) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  std::string stream;
  for (uint32_t id = 0; id < 50; ++id) stream += Frame(id, 3);
  ASSERT_EQ(Feed(assembler, stream, 0, stream.size()), stream.size());
  std::vector<IncomingMessage> kept;
  FrameAssembler::Received received;
  while (assembler.Next(received) == Result::kMessage) kept.push_back(std::move(received.message));
  ASSERT_EQ(kept.size(), 50u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(kept[49].segments()[0].begin()) -
                reinterpret_cast<uintptr_t>(kept[0].segments()[0].begin()),
            49 * Frame(0, 3).size());
}

TEST(FrameAssemblerTest, AKeptMessageIsNotHeldByTheStreamAndPinsLittle) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  std::vector<IncomingMessage> kept;
  FrameAssembler::Received received;
  for (uint32_t id = 0; id < 100; ++id) {  // each comes alone, with a wait between
    EXPECT_LE(assembler.Space().size(), FrameAssembler::kSmallChunkBytes);
    const std::string frame = Frame(id, 3);
    Feed(assembler, frame, 0, frame.size());
    ASSERT_EQ(assembler.Next(received), Result::kMessage);
    kept.push_back(std::move(received.message));
    assembler.ReleaseIdle();
    ASSERT_FALSE(assembler.holds_buffer());
  }
  for (uint32_t id = 0; id < 100; ++id) ExpectFrame(kept[id], id, 3);
}

TEST(FrameAssemblerTest, BuffersGrowWithTheTrafficAndShrinkAfterIt) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  FrameAssembler::Received received;
  const std::string frame = Frame(1, 3);
  std::string burst;
  while (burst.size() < 20'000) burst += frame;
  const auto take_all = [&] {
    while (assembler.Next(received) == Result::kMessage) received.message.reset();
  };
  size_t at = Feed(assembler, burst, 0, burst.size());
  EXPECT_EQ(at, FrameAssembler::kSmallChunkBytes);
  take_all();
  at += Feed(assembler, burst, at, burst.size());
  EXPECT_EQ(at, burst.size()) << "the second read takes the rest at once";
  take_all();
  for (int i = 0; i < 20; ++i) {
    Feed(assembler, frame, 0, frame.size());
    take_all();
    assembler.ReleaseIdle();
  }
  EXPECT_EQ(assembler.Space().size(), FrameAssembler::kSmallChunkBytes);
}

TEST(FrameAssemblerTest, MessageOverTheLimitIsSkippedAndTheStreamGoesOn) {
  Limits limits;
  limits.message_bytes_max = 4096;
  const std::string stream = Frame(1, 2) + Frame(2, 20'000) + Frame(3, 2);
  for (size_t most : {size_t{7}, size_t{5000}, size_t{1} << 20}) {
    FrameAssembler assembler(&limits);
    FrameAssembler::Received received;
    std::vector<uint32_t> messages;
    std::vector<uint32_t> rejected;
    for (size_t at = 0; at < stream.size();) {
      at += Feed(assembler, stream, at, most);
      for (Result result; (result = assembler.Next(received)) != Result::kNeedMore;) {
        ASSERT_NE(result, Result::kBroken);
        if (result == Result::kMessage) {
          messages.push_back(received.message.header().call_id);
          received.message.reset();
        } else {
          rejected.push_back(received.rejected.call_id);
          EXPECT_EQ(received.status.code(), absl::StatusCode::kResourceExhausted);
          EXPECT_THAT(std::string(received.status.message()),
                      HasSubstr("160040 bytes exceeds limits.message_bytes_max, 4096"));
        }
      }
    }
    EXPECT_THAT(messages, ::testing::ElementsAre(1, 3));
    EXPECT_THAT(rejected, ::testing::ElementsAre(2));
  }
}

TEST(FrameAssemblerTest, BadSegmentTableRejectsTheMessageOnly) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  std::string bad = Frame(1, 4);
  bad[kFrameHeaderBytes + 4] = 9;  // says 9 words
  const std::string stream = bad + Frame(2, 4);
  Feed(assembler, stream, 0, stream.size());
  FrameAssembler::Received received;
  ASSERT_EQ(assembler.Next(received), Result::kRejected);
  EXPECT_EQ(received.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(received.rejected.call_id, 1u);
  ASSERT_EQ(assembler.Next(received), Result::kMessage);
  EXPECT_EQ(received.message.header().call_id, 2u);
}

TEST(FrameAssemblerTest, BrokenHeaderEndsTheStream) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  std::string bad = Frame(1, 4);
  bad[4] = 99;  // type
  Feed(assembler, bad, 0, bad.size());
  FrameAssembler::Received received;
  ASSERT_EQ(assembler.Next(received), Result::kBroken);
  EXPECT_EQ(received.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(received.status.message()), HasSubstr("type is 99"));
}

TEST(FrameAssemblerTest, AnnouncedSizeAloneCommitsNoMemory) {
  const Limits limits;
  FrameAssembler assembler(&limits);
  const std::string frame = Frame(1, (60u << 20) / 8);
  Feed(assembler, frame, 0, 64);
  FrameAssembler::Received received;
  ASSERT_EQ(assembler.Next(received), Result::kNeedMore);
  // The whole message's room is there to receive into, as one piece.
  const std::span<std::byte> space = assembler.Space();
  EXPECT_EQ(space.size(), frame.size() - 64);
  EXPECT_EQ(assembler.missing_bytes(), frame.size() - 64);
  // Of its pages those alone are there that bytes have come to: the first, a huge one at most.
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(space.data()) + page - 1) / page * page;
  std::vector<unsigned char> resident(space.size() / page - 1);
  ASSERT_EQ(::mincore(reinterpret_cast<void*>(begin), resident.size() * page, resident.data()), 0);
  const auto there = std::ranges::count_if(resident, [](unsigned char r) { return (r & 1) != 0; });
  EXPECT_LE(static_cast<size_t>(there) * page, 2u << 20);
}

}  // namespace
}  // namespace mi7::transport
