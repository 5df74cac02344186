// Messages of streams over shared memory are read where they were built.

#include <algorithm>

#include "tests/conformance/call/stream_conformance.h"
#include "transport/copy_counter.h"

namespace mi7::conformance {
namespace {

using transport::copied_payload_bytes;

class StreamZeroCopyTest : public StreamTest {
 protected:
  // `count` messages of `bytes` bytes, in streams of each kind and in `-> stream` calls.
  void Stream(uint64_t count, size_t bytes) {
    auto upload = stub().Upload();
    for (uint64_t number = 0; number < count; ++number) {
      ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, bytes)).Wait(), IsOk());
    }
    const auto uploaded = upload.Finish().Wait();
    ASSERT_THAT(uploaded, IsOk());
    ASSERT_EQ(uploaded->getBytes(), count * bytes);
    auto reader = Watch(count, bytes);
    ASSERT_TRUE(GivesItems(reader, 0, count, bytes));
    ASSERT_FALSE(*reader.Read().Wait());
    auto chat = stub().Chat();
    for (uint64_t number = 0; number < count; ++number) {
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, bytes)).Wait(), IsOk());
      const ItemRead item = chat.reader().Read().Wait();
      ASSERT_TRUE(item.ok() && *item && IsItem(**item, number, bytes));
    }
    chat.writer().Close();
    ASSERT_FALSE(*chat.reader().Read().Wait());
    FeedStub sink = stub();
    for (uint64_t number = 0; number < count; ++number) {
      auto request = sink.Pour();
      FillItem(*request, number, bytes);
      ASSERT_THAT(request.Send().Wait(), IsOk());
    }
    ASSERT_THAT(sink.FinishStream().Wait(), IsOk());
  }
};

// From the first one on, although what a client has written is kept until the server has begun its
// stream.
TEST_P(StreamZeroCopyTest, MessagesOfAnySizeAreNotCopiedInEitherDirection) {
  feed_.on_pour = [](ServerContext&, Item::Reader item) -> Reply {
    if (!IsItem(item, item.getNumber(), item.getData().size())) return absl::DataLossError("item");
    return absl::OkStatus();
  };
  for (const size_t bytes : {300, 1000, 4000, 20'000, 1 << 20}) {
    SCOPED_TRACE(bytes);
    Limits limits;
    // Of one that falls behind by half of the slots further messages are copied, and of the largest
    // slots there are 10.
    limits.stream_window_bytes = static_cast<uint32_t>(std::min<size_t>(16 * bytes, 4u << 20));
    Start(limits);
    ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
    // A method's first message teaches that they are not small: until then the beginning of one is
    // built elsewhere.
    ASSERT_NO_FATAL_FAILURE(Stream(1, bytes));
    for (const uint64_t count : {1, 5, bytes > 100'000 ? 20 : 500}) {
      const uint64_t before = copied_payload_bytes;
      ASSERT_NO_FATAL_FAILURE(Stream(count, bytes));
      EXPECT_EQ(copied_payload_bytes - before, 0u) << "of " << 5 * count * bytes;
    }
  }
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
