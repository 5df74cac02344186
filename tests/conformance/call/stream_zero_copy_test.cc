// Messages of streams over shared memory are read where they were built.

#include <thread>

#include "tests/conformance/call/stream_conformance.h"
#include "transport/shm/copy_counter.h"

namespace mi7::conformance {
namespace {

using transport::shm::copied_payload_bytes;

class StreamZeroCopyTest : public StreamTest {};

TEST_P(StreamZeroCopyTest, MessagesAreNotCopiedInEitherDirection) {
  Start();
  constexpr size_t kBytes = 20'000;
  constexpr uint64_t kCount = 500;
  const auto both_ways = [this](uint64_t count) {
    auto upload = stub().Upload();
    for (uint64_t number = 0; number < count; ++number) {
      ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, kBytes)).Wait(), IsOk());
    }
    ASSERT_THAT(upload.Finish().Wait(), IsOk());
    auto reader = Watch(count, kBytes);
    ASSERT_TRUE(GivesItems(reader, 0, count, kBytes));
    ASSERT_FALSE(*reader.Read().Wait());
    auto chat = stub().Chat();
    for (uint64_t number = 0; number < count; ++number) {
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, kBytes)).Wait(), IsOk());
      const ItemRead item = chat.reader().Read().Wait();
      ASSERT_TRUE(item.ok() && *item && IsItem(**item, number, kBytes));
    }
    chat.writer().Close();
    ASSERT_FALSE(*chat.reader().Read().Wait());
  };
  // A method's first messages teach each end that they are large: until then the small beginning of
  // one, what was expected of it, is copied. And chunks are passed.
  both_ways(50);
  const uint64_t before = copied_payload_bytes;
  both_ways(kCount);
  EXPECT_EQ(copied_payload_bytes - before, 0u) << "of " << 4 * kCount * kBytes;
}

// Who keeps messages keeps slots, until so many are kept that further ones are copied: nobody else
// is held up.
TEST_P(StreamZeroCopyTest, AReaderThatKeepsManyHasThemCopied) {
  Start();
  constexpr size_t kBytes = 20'000;
  auto reader = Watch(600, kBytes);
  std::vector<StreamMessage<Item>> kept;
  for (uint64_t number = 0; number < 600; ++number) {
    ItemRead item = reader.Read().Wait();
    ASSERT_THAT(item, IsOk());
    ASSERT_TRUE(*item);
    kept.push_back(**std::move(item));
  }
  EXPECT_FALSE(*reader.Read().Wait());
  EXPECT_TRUE(Answers());
  auto other = Watch(100, kBytes);
  EXPECT_TRUE(GivesItems(other, 0, 100, kBytes));
  for (uint64_t number = 0; number < 600; ++number) {
    ASSERT_TRUE(IsItem(kept[number], number, kBytes));
  }
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Shm, StreamZeroCopyTest,
                         testing::Values(CallTransport{"adaptive", "shm", ShmPath},
                                         CallTransport{"chosen", "shm", Mi7Port}),
                         CallTransportName);

}  // namespace mi7::conformance
