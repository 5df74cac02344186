// What a client keeps of streams that their server has not begun yet, so that they can be made
// again: heap memory of this process. The other end is a plain socket, which takes none, and says
// nothing until the test wants it.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/heap_testing.h"
#include "rpc/channel.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/feed_service.h"
#include "transport/buffer_pool.h"

namespace mi7 {
namespace {

using badpeer::FrameType;
using conformance::Feed;
using conformance::FeedStub;
using conformance::Item;
using conformance::NewItem;

constexpr int kUploads = 100;
constexpr size_t kWindow = 1 << 20;  // that the peer grants: badpeer::Hello

using Upload = ClientStream<Item, Feed::UploadResults>;

class KeptMemoryTest : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (kHeapIsCounted) return;
    std::fprintf(stderr, "NOTICE: test not run, a sanitizer's allocator counts otherwise\n");
    GTEST_SKIP();
  }
  // Takes `count` messages of streams; the size of each, and the calls that they are of.
  struct Seen {
    size_t bytes = 0;
    std::vector<uint32_t> calls;
  };
  Seen TakeMessages(size_t count) {
    Seen seen;
    while (count != 0) {
      const std::optional<badpeer::Received> message = peer_.ReadMessage();
      if (!message) {
        ADD_FAILURE() << "the connection ends, and " << count << " are to come";
        break;
      }
      if (message->header.type == FrameType::kCall) seen.calls.push_back(message->header.call_id);
      if (message->header.type != FrameType::kStreamMessage) continue;
      seen.bytes = message->header.size;
      --count;
    }
    return seen;
  }

  badpeer::RawListener listener_;
  badpeer::RawPeer peer_;
};

TEST_P(KeptMemoryTest, IsBoundedByTheWindowsOfTheStreams) {
  const size_t item_bytes = GetParam();
  const std::shared_ptr<Channel> channel = *Channel::Create(listener_.endpoint());
  const FeedStub stub(channel);
  Upload first = stub.Upload({.no_deadline = true});
  static_cast<void>(first.Write(NewItem(first.writer(), 0, item_bytes)));
  peer_ = listener_.AcceptGreeted();
  const size_t frame_bytes = TakeMessages(1).bytes;
  ASSERT_GE(frame_bytes, item_bytes);

  const size_t each = (kWindow + frame_bytes - 1) / frame_bytes;
  std::vector<Upload> uploads;
  uploads.reserve(kUploads);
  std::vector<StreamWriting> last;
  last.reserve(kUploads);
  const size_t before = HeapBytes();
  Seen seen;
  std::thread takes([&] { seen = TakeMessages(kUploads * each); });
  for (int i = 0; i < kUploads; ++i) {
    Upload& upload = uploads.emplace_back(stub.Upload({.no_deadline = true}));
    for (size_t number = 1; number < each; ++number) {
      EXPECT_THAT(upload.Write(NewItem(upload.writer(), number, item_bytes)).Wait(), IsOk());
    }
    // After which there is no credit.
    last.push_back(upload.Write(NewItem(upload.writer(), each, item_bytes)));
  }
  takes.join();
  for (Upload& upload : uploads) EXPECT_FALSE(upload.writer().ready());
  const size_t kept = HeapBytes() - before;
  std::printf("%.2f windows of %zu bytes kept for each upload of %zu-byte messages\n",
              static_cast<double>(kept) / (kUploads * kWindow), kWindow, item_bytes);
  // Blocks of memory are up to twice as large as what is in them.
  EXPECT_LE(kept, kUploads * 2 * (kWindow + frame_bytes));
  EXPECT_GE(kept, kUploads * kWindow / 2) << "they could not be made again";

  // A sign of the server's, and nothing is kept any more.
  ASSERT_EQ(seen.calls.size(), size_t{kUploads});
  for (const uint32_t call : seen.calls) {
    peer_.Send(badpeer::Message(
        badpeer::StreamHeader(FrameType::kCredit, call, /*direction=*/0, kWindow / 2)));
  }
  for (StreamWriting& write : last) EXPECT_THAT(write.Wait(), IsOk());
  transport::BufferPool::Trim();
  EXPECT_LE(HeapBytes() - before, kept / 4);
  channel->Close();
}

INSTANTIATE_TEST_SUITE_P(Messages, KeptMemoryTest, testing::Values(1000, 20'000));

}  // namespace
}  // namespace mi7
