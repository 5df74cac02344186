// Flow control: memory is bounded however slow one end is, and nothing else on the connection
// waits.

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "rpc/task.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// Of an item with so many bytes of data, as it travels: header, segment table, root pointer, one
// data word, one pointer.
constexpr uint64_t WireBytes(uint64_t bytes) { return 32 + 8 + 8 + 8 + 8 + bytes; }

// Waits until `counter` has not changed for a while, and at least `least` is reached.
uint64_t Settled(const std::atomic<uint64_t>& counter, uint64_t least) {
  const Deadline patience = Deadline::After(kSoon);
  while (counter < least && !patience.passed()) std::this_thread::yield();
  for (;;) {
    const uint64_t before = counter;
    const Deadline still = Deadline::After(absl::Milliseconds(100));
    while (!still.passed()) std::this_thread::yield();
    if (counter == before || patience.passed()) return counter;
  }
}

// Counts the messages that a handler could write.
WatchHandler CountingSender(std::atomic<uint64_t>& written) {
  return [&written](ServerContext&, Feed::WatchParams::Reader params,
                    StreamWriter<Item> writer) -> Reply {
    for (uint64_t number = 0; number < params.getCount(); ++number) {
      const absl::Status sent = co_await writer.Write(NewItem(writer, number, params.getBytes()));
      if (!sent.ok()) co_return sent;
      ++written;
    }
    co_return absl::OkStatus();
  };
}

TEST_P(StreamTest, ServerWritesAWindowForAReaderThatDoesNotRead) {
  feed_.on_watch = CountingSender(written_);
  Limits limits;
  limits.stream_window_bytes = 64u << 10;
  Start(limits);
  constexpr uint64_t kBytes = 1000;
  constexpr uint64_t kFit = (64u << 10) / WireBytes(kBytes);
  auto reader = Watch(5000, kBytes);
  ASSERT_TRUE(Answers());
  // The write that uses up the window has left, and completes with the next credit.
  EXPECT_EQ(Settled(written_, kFit), kFit);
  EXPECT_TRUE(Answers()) << "a stalled stream holds up nobody";
  // Credit comes by half windows.
  ASSERT_TRUE(GivesItems(reader, 0, 10, kBytes));
  EXPECT_EQ(Settled(written_, kFit), kFit);
  ASSERT_TRUE(GivesItems(reader, 10, 40, kBytes));
  const uint64_t more = Settled(written_, kFit + 1);
  EXPECT_GT(more, kFit);
  EXPECT_LE(more, kFit + 40);
  EXPECT_TRUE(GivesItems(reader, 40, 5000, kBytes));
  EXPECT_FALSE(*reader.Read().Wait());
  EXPECT_EQ(written_, 5000u);
}

TEST_P(StreamTest, ClientWritesAWindowForAHandlerThatDoesNotRead) {
  absl::Notification go;
  std::thread counting;
  feed_.on_upload = [&](ServerContext& context, StreamReader<Item> reader,
                        Feed::UploadResults::Builder results) {
    counting =
        std::thread([&go, reader = std::move(reader), results, later = context.Defer()]() mutable {
          ASSERT_TRUE(Happens(go));
          uint64_t count = 0;
          for (const auto& item : reader.Messages()) count += IsItem(item, count, 1000);
          results.setCount(count);
          later.Finish(reader.status());
        });
    return Reply::Later();
  };
  Limits limits;
  limits.stream_window_bytes = 64u << 10;
  Start(limits);
  constexpr uint64_t kFit = (64u << 10) / WireBytes(1000);
  std::atomic<uint64_t> written{0};
  auto upload = stub().Upload();
  std::thread writing([&] {
    for (uint64_t number = 0; number < 3000; ++number) {
      ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, 1000)).Wait(), IsOk());
      ++written;
    }
  });
  EXPECT_EQ(Settled(written, kFit), kFit);
  EXPECT_TRUE(Answers()) << "a stalled stream holds up nobody";
  go.Notify();
  writing.join();
  const auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), 3000u);
  counting.join();
}

TEST_P(StreamTest, WritingWithoutWaitingIsRefusedWhenThereIsNoCredit) {
  absl::Notification go;
  std::thread reading;
  feed_.on_upload = [&](ServerContext& context, StreamReader<Item> reader,
                        Feed::UploadResults::Builder results) {
    reading =
        std::thread([&go, reader = std::move(reader), results, later = context.Defer()]() mutable {
          ASSERT_TRUE(Happens(go));
          uint64_t count = 0;
          for (const auto& item : reader.Messages()) count += IsItem(item, count, 10'000);
          results.setCount(count);
          later.Finish(reader.status());
        });
    return Reply::Later();
  };
  Start();
  auto upload = stub().Upload();
  ASSERT_THAT(upload.Write(NewItem(upload.writer(), 0, 10'000)).Wait(), IsOk());
  uint64_t sent = 1;
  absl::Status refused;
  while (sent < 1000) {
    auto writing = upload.Write(NewItem(upload.writer(), sent, 10'000));
    if (!upload.writer().ready()) break;
    ++sent;
  }
  ++sent;
  EXPECT_EQ(sent, (256u << 10) / WireBytes(10'000) + 1);
  refused = upload.Write(NewItem(upload.writer(), sent, 10'000)).Wait();
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition,
                                "Write before the last one has completed"));
  go.Notify();
  const auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), sent) << "what was written is there, what was refused is not";
  reading.join();
}

TEST_P(StreamTest, MessagesLargerThanTheWindowPassOneByOne) {
  Limits limits;
  limits.stream_window_bytes = 4096;
  Start(limits);
  auto chat = stub().Chat();
  std::thread writing([&] {
    for (uint64_t number = 0; number < 8; ++number) {
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, 1'000'000)).Wait(), IsOk());
    }
    chat.writer().Close();
  });
  EXPECT_TRUE(GivesItems(chat.reader(), 0, 8, 1'000'000));
  EXPECT_FALSE(*chat.reader().Read().Wait());
  writing.join();
}

TEST_P(StreamTest, TheSmallestWindowWorks) {
  Limits limits;
  limits.stream_window_bytes = 1;
  Start(limits);
  auto reader = Watch(100, 100);
  EXPECT_TRUE(GivesItems(reader, 0, 100, 100));
  EXPECT_FALSE(*reader.Read().Wait());
}

TEST_P(StreamTest, EachEndHasAWindowOfItsOwn) {
  feed_.on_watch = CountingSender(written_);
  ServerOptions server;
  server.limits.stream_window_bytes = 8u << 10;
  ChannelOptions channel;
  channel.limits.stream_window_bytes = 200u << 10;
  Start(server, channel);
  auto reader = Watch(1000, 1000);
  constexpr uint64_t kFit = (200u << 10) / WireBytes(1000);
  EXPECT_EQ(Settled(written_, kFit), kFit) << "the client's";
}

TEST_P(StreamTest, MessageThatExceedsALimitIsRefusedAndTheStreamGoesOn) {
  Limits limits;
  limits.message_bytes_max = 100'000;
  Start(limits);
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 1)).Wait(), IsOk());
  EXPECT_THAT(chat.writer().Write(NewItem(chat.writer(), 2, 200'000)).Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       testing::HasSubstr("limits.message_bytes_max")));
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 3, 500)).Wait(), IsOk());
  ASSERT_TRUE(GivesItems(chat.reader(), 1, 2));
  EXPECT_TRUE(GivesItems(chat.reader(), 3, 4, 500));
}

TEST_P(StreamTest, ManyStalledStreamsHoldUpNobody) {
  feed_.on_watch = CountingSender(written_);
  Limits limits;
  limits.stream_window_bytes = 16u << 10;
  Start(limits);
  constexpr uint64_t kFit = (16u << 10) / WireBytes(1000);
  std::vector<StreamReader<Item>> stalled;
  for (int i = 0; i < 100; ++i) stalled.push_back(Watch(1000, 1000));
  EXPECT_EQ(Settled(written_, 100 * kFit), 100 * kFit);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Answers());
  auto flowing = Watch(200, 1000);
  EXPECT_TRUE(GivesItems(flowing, 0, 200, 1000));
  for (auto& reader : stalled) ASSERT_TRUE(GivesItems(reader, 0, kFit, 1000));
}

// More of them, each with a whole window, than a connection keeps by default: 256.
TEST_P(StreamTest, StalledStreamsBeyondWhatAConnectionKeepsEndByTheLimitsName) {
  feed_.on_watch = CountingSender(written_);
  Start();
  constexpr uint64_t kItems = 30;
  constexpr uint64_t kBytes = 10'000;
  static_assert(kItems * WireBytes(kBytes) > Limits{}.stream_window_bytes);
  constexpr uint64_t kFit = Limits{}.stream_window_bytes / WireBytes(kBytes) + 1;
  constexpr size_t kStreams = 300;
  constexpr size_t kKept = Limits{}.stream_kept_bytes_max / (kFit * WireBytes(kBytes));
  std::vector<StreamReader<Item>> stalled;
  for (size_t i = 0; i < kStreams; ++i) stalled.push_back(Watch(kItems, kBytes));
  Settled(written_, kKept * kFit);
  EXPECT_TRUE(Answers()) << "the connection goes on";
  size_t whole = 0;
  size_t failed = 0;
  for (auto& reader : stalled) {
    uint64_t number = 0;
    for (const auto& item : reader.Messages()) {
      ASSERT_TRUE(IsItem(item, number, kBytes));
      ++number;
    }
    if (reader.status().ok()) {
      EXPECT_EQ(number, kItems);
      ++whole;
      continue;
    }
    EXPECT_THAT(reader.status(),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         testing::HasSubstr("limits.stream_kept_bytes_max, 67108864 bytes")));
    ++failed;
  }
  EXPECT_EQ(whole + failed, kStreams);
  EXPECT_GE(whole, kKept - 1) << "no more than need be";
  EXPECT_GE(failed, 1u);
  auto flowing = Watch(kItems, kBytes);
  EXPECT_TRUE(GivesItems(flowing, 0, kItems, kBytes)) << "there is room again";
}

// The connection's own queue is full of streams, not only their windows.
TEST_P(StreamTest, StreamsWaitForRoomInTheConnectionsQueue) {
  feed_.on_watch = CountingSender(written_);
  Limits limits;
  limits.stream_window_bytes = 1u << 20;
  limits.stream_queued_bytes_max = 64u << 10;
  Start(limits);
  std::vector<StreamReader<Item>> readers;
  for (int i = 0; i < 20; ++i) readers.push_back(Watch(300, 10'000));
  for (auto& reader : readers) {
    ASSERT_TRUE(GivesItems(reader, 0, 300, 10'000));
    ASSERT_FALSE(*reader.Read().Wait());
  }
  // And the other way.
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      auto upload = stub().Upload();
      for (uint64_t number = 0; number < 500; ++number) {
        ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, 10'000)).Wait(), IsOk());
      }
      const auto response = upload.Finish().Wait();
      ASSERT_THAT(response, IsOk());
      EXPECT_EQ(response->getCount(), 500u);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

Task<absl::Status> ReadToTheEnd(StreamReader<Item> reader, uint64_t count) {
  for (uint64_t number = 0;; ++number) {
    const ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    if (!*item) co_return number == count ? absl::OkStatus() : absl::DataLossError("items miss");
    if (!IsItem(**item, number, (*item)->getData().size())) co_return absl::DataLossError("order");
  }
}

TEST_P(StreamTest, ManyStreamsAtOnce) {
  Start();
  // Of one thread, all open at once.
  std::vector<StreamReader<Item>> open;
  for (uint64_t i = 0; i < 1000; ++i) open.push_back(Watch(i % 7, 100));
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(GivesItems(open[i], 0, i % 7, 100));
    ASSERT_FALSE(*open[i].Read().Wait());
  }
  // Of several threads and coroutines.
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 50; ++i) {
        if (thread % 2 == 0) {
          EXPECT_THAT(BlockOn(ReadToTheEnd(Watch(40, 2000), 40)), IsOk());
        } else {
          auto reader = Watch(40, 300);
          EXPECT_TRUE(GivesItems(reader, 0, 40, 300));
          EXPECT_FALSE(*reader.Read().Wait());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Answers());
}

TEST_P(StreamTest, AnIdleStreamSurvives) {
  absl::Notification go;
  std::thread sending;
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader,
                       StreamWriter<Item> writer) {
    sending = std::thread([&go, writer = std::move(writer), later = context.Defer()]() mutable {
      EXPECT_THAT(writer.Write(NewItem(writer, 0)).Wait(), IsOk());
      EXPECT_TRUE(Happens(go));
      EXPECT_THAT(writer.Write(NewItem(writer, 1)).Wait(), IsOk());
      later.Finish(absl::OkStatus());
    });
    return Reply::Later();
  };
  Limits limits;
  limits.handshake_timeout = absl::Milliseconds(300);
  limits.write_stall_timeout = absl::Milliseconds(300);
  Start(limits);
  // Not every attempt of a slow machine is that fast.
  const Deadline patience = Deadline::After(kSoon);
  while (!channel_->Connect(patience).ok()) ASSERT_FALSE(patience.passed());
  auto reader = Watch(0);
  ASSERT_TRUE(GivesItems(reader, 0, 1));
  // Longer than every timeout of a connection, which must all mean something else.
  const Deadline idle = Deadline::After(absl::Milliseconds(700));
  EXPECT_FALSE(reader.TryRead());
  transport::Completion never;
  while (never.Sleep(idle) != transport::Completion::Woken::kDeadline) {
  }
  go.Notify();
  EXPECT_TRUE(GivesItems(reader, 1, 2));
  EXPECT_FALSE(*reader.Read().Wait());
  sending.join();
}

TEST_P(StreamTest, MessagesAreReadInPlaceInAnyOrder) {
  Start();
  auto reader = Watch(60, 3000);
  std::vector<StreamMessage<Item>> kept;
  for (int i = 0; i < 60; ++i) {
    ItemRead item = reader.Read().Wait();
    ASSERT_THAT(item, IsOk());
    ASSERT_TRUE(*item);
    kept.push_back(**std::move(item));
  }
  EXPECT_FALSE(*reader.Read().Wait());
  reader = StreamReader<Item>();
  for (size_t i = kept.size(); i-- > 0;) {
    EXPECT_TRUE(IsItem(kept[i], i, 3000));
    kept.erase(kept.begin() + static_cast<ptrdiff_t>(i));
  }
}

}  // namespace
}  // namespace mi7::conformance
