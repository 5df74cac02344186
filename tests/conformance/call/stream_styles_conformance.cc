// Streams in order and complete, in every form at both ends.

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

// Large enough that messages lie in slots of shared memory, and that credit is needed in between.
constexpr size_t kBytes = 5000;
constexpr uint64_t kCount = 300;

// --- Server streaming

TEST_P(StreamTest, WatchGivesAllItemsInOrderToAThread) {
  Start();
  for (const size_t bytes : {size_t{0}, size_t{100}, kBytes}) {
    auto reader = Watch(kCount, bytes);
    EXPECT_TRUE(GivesItems(reader, 0, kCount, bytes));
    const ItemRead end = reader.Read().Wait();
    ASSERT_THAT(end, IsOk());
    EXPECT_FALSE(*end);
    EXPECT_FALSE(*reader.Read().Wait()) << "the end stays";
    EXPECT_THAT(reader.status(), IsOk());
  }
  EXPECT_TRUE(Answers());
}

TEST_P(StreamTest, WatchInALoop) {
  Start();
  auto reader = Watch(kCount, 100);
  uint64_t number = 0;
  for (const auto& item : reader.Messages()) ASSERT_TRUE(IsItem(item, number++, 100));
  EXPECT_EQ(number, kCount);
  EXPECT_THAT(reader.status(), IsOk());
}

TEST_P(StreamTest, WatchWithoutItemsEndsAtOnce) {
  Start();
  auto reader = Watch(0);
  const ItemRead end = reader.Read().Wait();
  ASSERT_THAT(end, IsOk());
  EXPECT_FALSE(*end);
}

// Reads with callbacks until the end.
class CallbackReader {
 public:
  explicit CallbackReader(StreamReader<Item> reader) : reader_(std::move(reader)) { ReadOne(); }
  bool Ended() { return Happens(ended_); }
  uint64_t count() const { return count_; }
  bool in_order() const { return in_order_; }
  const absl::Status& status() const { return status_; }

 private:
  void ReadOne() {
    reader_.Read().Then([this](ItemRead item) {
      if (item.ok() && *item) {
        in_order_ &= IsItem(**item, count_, (*item)->getData().size());
        ++count_;
        return ReadOne();
      }
      status_ = item.status();
      ended_.Notify();
    });
  }
  StreamReader<Item> reader_;
  uint64_t count_ = 0;
  bool in_order_ = true;
  absl::Status status_;
  absl::Notification ended_;
};

TEST_P(StreamTest, WatchByCallbacks) {
  Start();
  CallbackReader first(Watch(kCount, kBytes));
  CallbackReader second(Watch(20'000));  // more than a stack holds, were they to nest
  EXPECT_TRUE(first.Ended());
  EXPECT_EQ(first.count(), kCount);
  EXPECT_TRUE(first.in_order());
  EXPECT_THAT(first.status(), IsOk());
  EXPECT_TRUE(second.Ended());
  EXPECT_EQ(second.count(), 20'000u);
  EXPECT_TRUE(second.in_order());
}

// Everything is there already when the first read is made.
TEST_P(StreamTest, CallbacksOfWhatIsThereDoNotNest) {
  absl::Notification sent;
  feed_.on_watch = [&](ServerContext&, Feed::WatchParams::Reader, StreamWriter<Item> writer) {
    for (uint64_t number = 0; number < 4000; ++number) {
      EXPECT_THAT(writer.Write(NewItem(writer, number)).Wait(), IsOk());
    }
    sent.Notify();
    return absl::OkStatus();
  };
  Start();
  auto reader = Watch(0);
  // The end has arrived when a later call is answered.
  ASSERT_TRUE(Answers());
  ASSERT_TRUE(sent.HasBeenNotified());
  CallbackReader all(std::move(reader));
  EXPECT_TRUE(all.Ended());
  EXPECT_EQ(all.count(), 4000u);
  EXPECT_TRUE(all.in_order());
}

Task<absl::Status> ReadAll(StreamReader<Item> reader, uint64_t count, size_t bytes) {
  for (uint64_t number = 0; number < count; ++number) {
    const ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    if (!*item || !IsItem(**item, number, bytes)) co_return absl::DataLossError("wrong item");
  }
  const ItemRead end = co_await reader.Read();
  if (!end.ok()) co_return end.status();
  co_return *end ? absl::DataLossError("no end") : absl::OkStatus();
}

TEST_P(StreamTest, WatchInACoroutine) {
  Start();
  EXPECT_THAT(BlockOn(ReadAll(Watch(kCount, kBytes), kCount, kBytes)), IsOk());
  EXPECT_THAT(BlockOn(ReadAll(Watch(5000), 5000, 0)), IsOk());
}

TEST_P(StreamTest, TryReadNeverWaits) {
  absl::Notification go;
  std::thread writing;
  feed_.on_watch = [&](ServerContext& context, Feed::WatchParams::Reader,
                       StreamWriter<Item> writer) {
    writing = std::thread([&, writer = std::move(writer), later = context.Defer()]() mutable {
      ASSERT_TRUE(Happens(go));
      EXPECT_THAT(writer.Write(NewItem(writer, 0)).Wait(), IsOk());
      later.Finish(absl::OkStatus());
    });
    return Reply::Later();
  };
  Start();
  auto reader = Watch(0);
  ASSERT_TRUE(Answers());
  EXPECT_FALSE(reader.TryRead());
  go.Notify();
  ASSERT_TRUE(GivesItems(reader, 0, 1));
  EXPECT_FALSE(*reader.Read().Wait());
  EXPECT_TRUE(reader.TryRead()) << "the end is there";
  writing.join();
}

// --- Client streaming

TEST_P(StreamTest, UploadFromAThread) {
  Start();
  for (const size_t bytes : {size_t{0}, size_t{100}, kBytes}) {
    auto upload = stub().Upload();
    for (uint64_t number = 0; number < kCount; ++number) {
      ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, bytes)).Wait(), IsOk());
    }
    const auto response = upload.Finish().Wait();
    ASSERT_THAT(response, IsOk());
    EXPECT_EQ(response->getCount(), kCount);
    EXPECT_EQ(response->getBytes(), kCount * bytes);
  }
}

TEST_P(StreamTest, UploadOfNothing) {
  Start();
  const auto response = stub().Upload().Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), 0u);
}

// Writes with callbacks, each when the one before has completed.
class CallbackWriter {
 public:
  CallbackWriter(ClientStream<Item, Feed::UploadResults> stream, uint64_t count, size_t bytes)
      : stream_(std::move(stream)), left_(count), bytes_(bytes) {
    WriteOne();
  }
  bool Ended() { return Happens(ended_); }
  uint64_t counted() const { return counted_; }
  const absl::Status& status() const { return status_; }

 private:
  void WriteOne() {
    if (left_ == 0) {
      stream_.Finish().Then([this](auto response) {
        status_ = response.status();
        if (response.ok()) counted_ = response->getCount();
        ended_.Notify();
      });
      return;
    }
    --left_;
    stream_.Write(NewItem(stream_.writer(), left_, bytes_)).Then([this](absl::Status sent) {
      if (!sent.ok()) left_ = 0;
      WriteOne();
    });
  }
  ClientStream<Item, Feed::UploadResults> stream_;
  uint64_t left_;
  const size_t bytes_;
  uint64_t counted_ = 0;
  absl::Status status_;
  absl::Notification ended_;
};

TEST_P(StreamTest, UploadByCallbacks) {
  Start();
  CallbackWriter large(stub().Upload(), kCount, kBytes);
  CallbackWriter small(stub().Upload(), 20'000, 0);
  EXPECT_TRUE(large.Ended());
  EXPECT_THAT(large.status(), IsOk());
  EXPECT_EQ(large.counted(), kCount);
  EXPECT_TRUE(small.Ended());
  EXPECT_THAT(small.status(), IsOk());
  EXPECT_EQ(small.counted(), 20'000u);
}

Task<absl::StatusOr<uint64_t>> UploadAll(FeedStub stub, uint64_t count, size_t bytes) {
  auto upload = stub.Upload();
  for (uint64_t number = 0; number < count; ++number) {
    const absl::Status sent = co_await upload.Write(NewItem(upload.writer(), number, bytes));
    if (!sent.ok()) co_return sent;
  }
  auto response = co_await upload.Finish();
  if (!response.ok()) co_return response.status();
  co_return response->getCount();
}

TEST_P(StreamTest, UploadInACoroutine) {
  Start();
  const auto counted = BlockOn(UploadAll(stub(), kCount, kBytes));
  ASSERT_THAT(counted, IsOk());
  EXPECT_EQ(*counted, kCount);
}

// --- Handlers by callbacks

// A handler that writes its items by callbacks, and answers after the last one.
class CallbackSender {
 public:
  CallbackSender(ServerContext& context, StreamWriter<Item> writer, uint64_t count, size_t bytes)
      : writer_(std::move(writer)), call_(context.Defer()), count_(count), bytes_(bytes) {}
  // Destroys itself in the end.
  void SendOne() {
    if (next_ == count_) return End(absl::OkStatus());
    writer_.Write(NewItem(writer_, next_++, bytes_)).Then([this](absl::Status sent) {
      sent.ok() ? SendOne() : End(std::move(sent));
    });
  }

 private:
  void End(absl::Status status) {
    call_.Finish(std::move(status));
    delete this;
  }
  StreamWriter<Item> writer_;
  DeferredCall call_;
  const uint64_t count_;
  const size_t bytes_;
  uint64_t next_ = 0;
};

TEST_P(StreamTest, HandlerWritesByCallbacks) {
  feed_.on_watch = [](ServerContext& context, Feed::WatchParams::Reader params,
                      StreamWriter<Item> writer) {
    auto* const sender =
        new CallbackSender(context, std::move(writer), params.getCount(), params.getBytes());
    sender->SendOne();
    return Reply::Later();
  };
  Start();
  for (const size_t bytes : {size_t{0}, kBytes}) {
    auto reader = Watch(kCount, bytes);
    EXPECT_TRUE(GivesItems(reader, 0, kCount, bytes));
    const ItemRead end = reader.Read().Wait();
    EXPECT_TRUE(end.ok() && !*end) << end.status();
  }
  // One whose caller leaves is told, in the callback.
  {
    auto reader = Watch(1'000'000'000, kBytes);
    EXPECT_TRUE(GivesItems(reader, 0, 3, kBytes));
  }
  EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
}

// Reads by callbacks, and answers with what it counted.
class CallbackCounter {
 public:
  CallbackCounter(ServerContext& context, StreamReader<Item> reader,
                  Feed::UploadResults::Builder results)
      : reader_(std::move(reader)), call_(context.Defer()), results_(results) {}
  // Destroys itself in the end.
  void ReadOne() {
    reader_.Read().Then([this](ItemRead item) {
      if (item.ok() && *item) {
        ++count_;
        return ReadOne();
      }
      results_.setCount(count_);
      call_.Finish(item.status());
      delete this;
    });
  }

 private:
  StreamReader<Item> reader_;
  DeferredCall call_;
  Feed::UploadResults::Builder results_;
  uint64_t count_ = 0;
};

TEST_P(StreamTest, HandlerReadsByCallbacks) {
  feed_.on_upload = [](ServerContext& context, StreamReader<Item> reader,
                       Feed::UploadResults::Builder results) {
    auto* const counter = new CallbackCounter(context, std::move(reader), results);
    counter->ReadOne();
    return Reply::Later();
  };
  Start();
  auto upload = stub().Upload();
  for (uint64_t number = 0; number < kCount; ++number) {
    ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, kBytes)).Wait(), IsOk());
  }
  const auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), kCount);
}

// --- Bidirectional

TEST_P(StreamTest, ChatOneByOne) {
  Start();
  auto chat = stub().Chat();
  for (uint64_t number = 0; number < kCount; ++number) {
    ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, kBytes)).Wait(), IsOk());
    ASSERT_TRUE(GivesItems(chat.reader(), number, number + 1, kBytes));
  }
  chat.writer().Close();
  const ItemRead end = chat.reader().Read().Wait();
  ASSERT_THAT(end, IsOk());
  EXPECT_FALSE(*end);
}

TEST_P(StreamTest, ChatOfTwoThreads) {
  Start();
  auto chat = stub().Chat();
  std::thread writing([&] {
    for (uint64_t number = 0; number < kCount; ++number) {
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, kBytes)).Wait(), IsOk());
    }
    chat.writer().Close();
  });
  EXPECT_TRUE(GivesItems(chat.reader(), 0, kCount, kBytes));
  EXPECT_FALSE(*chat.reader().Read().Wait());
  writing.join();
}

Task<absl::Status> WriteAll(StreamWriter<Item>& writer, uint64_t count, size_t bytes) {
  for (uint64_t number = 0; number < count; ++number) {
    const absl::Status sent = co_await writer.Write(NewItem(writer, number, bytes));
    if (!sent.ok()) co_return sent;
  }
  writer.Close();
  co_return absl::OkStatus();
}

TEST_P(StreamTest, ChatOfACoroutineAndAThread) {
  Start();
  auto chat = stub().Chat();
  std::thread writing(
      [&] { EXPECT_THAT(BlockOn(WriteAll(chat.writer(), kCount, kBytes)), IsOk()); });
  EXPECT_TRUE(GivesItems(chat.reader(), 0, kCount, kBytes));
  EXPECT_FALSE(*chat.reader().Read().Wait());
  writing.join();
}

// --- Handlers of every style

TEST_P(StreamTest, HandlersMayBlockOnThreadsOfTheirOwn) {
  std::vector<std::thread> threads;
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                      StreamWriter<Item> writer) {
    threads.emplace_back([reader = std::move(reader), writer = std::move(writer),
                          later = context.Defer()]() mutable {
      absl::Status sent;
      for (const auto& item : reader.Messages()) {
        StreamDraft<Item> draft = writer.NewMessage();
        FillItem(*draft, item.getNumber(), item.getData().size());
        sent = writer.Write(std::move(draft)).Wait();
        if (!sent.ok()) break;
      }
      later.Finish(sent.ok() ? reader.status() : sent);
    });
    return Reply::Later();
  };
  Start();
  auto chat = stub().Chat();
  std::thread writing([&] {
    for (uint64_t number = 0; number < kCount; ++number) {
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, kBytes)).Wait(), IsOk());
    }
    chat.writer().Close();
  });
  EXPECT_TRUE(GivesItems(chat.reader(), 0, kCount, kBytes));
  const ItemRead end = chat.reader().Read().Wait();
  ASSERT_THAT(end, IsOk());
  EXPECT_FALSE(*end);
  writing.join();
  for (std::thread& thread : threads) thread.join();
}

TEST_P(StreamTest, HandlersMayUseCallbacks) {
  // Counts with callbacks, and answers.
  struct Counting {
    StreamReader<Item> reader;
    Feed::UploadResults::Builder results;
    DeferredCall later;
    uint64_t count = 0;
    void ReadOne() {
      reader.Read().Then([this](ItemRead item) {
        if (item.ok() && *item) {
          ++count;
          return ReadOne();
        }
        results.setCount(count);
        later.Finish(item.status());
        delete this;
      });
    }
  };
  feed_.on_upload = [&](ServerContext& context, StreamReader<Item> reader,
                        Feed::UploadResults::Builder results) {
    (new Counting{std::move(reader), results, context.Defer()})->ReadOne();
    return Reply::Later();
  };
  Start();
  const auto counted = BlockOn(UploadAll(stub(), kCount, kBytes));
  ASSERT_THAT(counted, IsOk());
  EXPECT_EQ(*counted, kCount);
}

TEST_P(StreamTest, InlineHandlersMustNotBlock) {
  absl::Status read, written;
  feed_.on_chat = [&](ServerContext&, StreamReader<Item> reader, StreamWriter<Item> writer) {
    read = reader.Read().Wait().status();
    while (written.ok()) written = writer.Write(NewItem(writer, 1, kBytes)).Wait();
    return absl::OkStatus();
  };
  Start();
  auto chat = stub().Chat();
  for (uint64_t last = 0;; last = 1) {
    const ItemRead item = chat.reader().Read().Wait();
    ASSERT_THAT(item, IsOk());
    if (!*item) {
      EXPECT_EQ(last, 1u) << "what was written without waiting has arrived";
      break;
    }
  }
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kFailedPrecondition,
                             testing::HasSubstr("Feed.chat: Wait() on a thread that drives "
                                                "connections would wait for itself")));
  EXPECT_THAT(written, StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_P(StreamTest, CallbacksMustNotBlock) {
  Start();
  auto chat = stub().Chat({.deadline = Deadline::After(kSoon)});
  absl::Notification done;
  absl::Status read;
  auto other = stub().Chat();
  other.reader().Read().Then([&](const ItemRead&) {
    read = chat.reader().Read().Wait().status();
    done.Notify();
  });
  // Comes after Then, which would run the callback on this thread, where it may block.
  ASSERT_THAT(other.writer().Write(NewItem(other.writer(), 1)).Wait(), IsOk());
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kFailedPrecondition,
                             testing::HasSubstr("Feed.chat: Wait() inside a callback")));
  // The stream goes on.
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 7)).Wait(), IsOk());
  EXPECT_TRUE(GivesItems(chat.reader(), 7, 8));
}

}  // namespace
}  // namespace mi7::conformance
