// Bidirectional streams by callbacks, both halves at once, at either end.

#include <atomic>
#include <functional>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "rpc/client_streams.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// Large enough that messages lie in slots of shared memory, and that credit is needed in between.
constexpr size_t kBytes = 5000;
constexpr uint64_t kCount = 300;

// Reads by callbacks, until the end.
class CallbackReading {
 public:
  // `ended` comes last, with the status of the end; it may destroy this.
  CallbackReading(StreamReader<Item>& reader, std::function<void(absl::Status)> ended)
      : reader_(reader), ended_(std::move(ended)) {}
  void ReadOne() {
    reader_.Read().Then([this](ItemRead item) {
      if (!item.ok() || !*item) return ended_(item.status());
      in_order_ = in_order_ && IsItem(**item, count_, (*item)->getData().size());
      ++count_;
      ReadOne();
    });
  }
  uint64_t count() const { return count_; }
  bool in_order() const { return in_order_; }

 private:
  StreamReader<Item>& reader_;
  const std::function<void(absl::Status)> ended_;
  uint64_t count_ = 0;
  bool in_order_ = true;
};

// Writes `count` items by callbacks, each when the one before has completed.
class CallbackWriting {
 public:
  CallbackWriting(StreamWriter<Item>& writer, uint64_t count, size_t bytes,
                  std::function<void(absl::Status)> ended)
      : writer_(writer), count_(count), bytes_(bytes), ended_(std::move(ended)) {}
  void WriteOne() {
    if (next_ == count_) return ended_(absl::OkStatus());
    writer_.Write(NewItem(writer_, next_++, bytes_)).Then([this](absl::Status sent) {
      sent.ok() ? WriteOne() : ended_(std::move(sent));
    });
  }

 private:
  StreamWriter<Item>& writer_;
  const uint64_t count_;
  const size_t bytes_;
  const std::function<void(absl::Status)> ended_;
  uint64_t next_ = 0;
};

// A client whose reading and writing go on beside each other.
class CallbackChat {
 public:
  CallbackChat(BidiStream<Item, Item> chat, uint64_t count, size_t bytes)
      : chat_(std::move(chat)),
        reading_(chat_.reader(),
                 [this](absl::Status status) {
                   read_ = std::move(status);
                   ended_.DecrementCount();
                 }),
        writing_(chat_.writer(), count, bytes, [this](absl::Status status) {
          written_ = std::move(status);
          chat_.writer().Close();
          ended_.DecrementCount();
        }) {
    reading_.ReadOne();
    writing_.WriteOne();
  }
  // When both halves have.
  void AwaitEnd() { ended_.Wait(); }
  const CallbackReading& reading() const { return reading_; }
  const absl::Status& read() const { return read_; }
  const absl::Status& written() const { return written_; }

 private:
  Countdown ended_{2};
  absl::Status read_, written_;
  BidiStream<Item, Item> chat_;
  CallbackReading reading_;
  CallbackWriting writing_;
};

// A handler of that kind: writes `count` items whatever it reads, and ends when both have.
class CallbackHandler {
 public:
  CallbackHandler(ServerContext& context, StreamReader<Item> reader, StreamWriter<Item> writer,
                  uint64_t count, size_t bytes, std::atomic<uint64_t>& counted)
      : counted_(counted),
        call_(context.Defer()),
        reader_(std::move(reader)),
        writer_(std::move(writer)),
        reading_(reader_, [this](absl::Status status) { End(read_, std::move(status)); }),
        writing_(writer_, count, bytes,
                 [this](absl::Status status) { End(written_, std::move(status)); }) {}
  // Destroys itself in the end.
  void Run() {
    reading_.ReadOne();
    writing_.WriteOne();
    EndOne();
  }

 private:
  void End(absl::Status& half, absl::Status status) {
    half = std::move(status);
    EndOne();
  }
  // Reading, writing, and Run, which begins both.
  void EndOne() {
    if (running_.fetch_sub(1) != 1) return;
    counted_ = reading_.in_order() ? reading_.count() : 0;
    call_.Finish(read_.ok() ? written_ : read_);
    delete this;
  }
  std::atomic<uint64_t>& counted_;
  std::atomic<int> running_{3};
  absl::Status read_, written_;
  DeferredCall call_;
  StreamReader<Item> reader_;
  StreamWriter<Item> writer_;
  CallbackReading reading_;
  CallbackWriting writing_;
};

TEST_P(StreamTest, ChatByCallbacks) {
  Start();
  CallbackChat large(stub().Chat(), kCount, kBytes);
  CallbackChat small(stub().Chat(), 20'000, 0);  // more than a stack holds, were they to nest
  CallbackChat empty(stub().Chat(), 0, 0);
  for (CallbackChat* const chat : {&large, &small, &empty}) {
    chat->AwaitEnd();
    EXPECT_THAT(chat->read(), IsOk());
    EXPECT_THAT(chat->written(), IsOk());
    EXPECT_TRUE(chat->reading().in_order());
  }
  EXPECT_EQ(large.reading().count(), kCount);
  EXPECT_EQ(small.reading().count(), 20'000u);
  EXPECT_EQ(empty.reading().count(), 0u);
  EXPECT_TRUE(Answers());
}

TEST_P(StreamTest, HandlerChatsByCallbacks) {
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                      StreamWriter<Item> writer) {
    (new CallbackHandler(context, std::move(reader), std::move(writer), kCount, kBytes, written_))
        ->Run();
    return Reply::Later();
  };
  Start();
  // By threads at the other end, and by callbacks at both.
  auto chat = stub().Chat();
  std::thread writing([&] {
    for (uint64_t number = 0; number < 2 * kCount; ++number) {
      ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, kBytes)).Wait(), IsOk());
    }
    chat.writer().Close();
  });
  EXPECT_TRUE(GivesItems(chat.reader(), 0, kCount, kBytes));
  const ItemRead end = chat.reader().Read().Wait();
  EXPECT_TRUE(end.ok() && !*end) << end.status();
  EXPECT_EQ(written_, 2 * kCount);
  writing.join();

  CallbackChat other(stub().Chat(), 3 * kCount, kBytes);
  other.AwaitEnd();
  EXPECT_THAT(other.read(), IsOk());
  EXPECT_THAT(other.written(), IsOk());
  EXPECT_TRUE(other.reading().in_order());
  EXPECT_EQ(other.reading().count(), kCount);
  EXPECT_EQ(written_, 3 * kCount);
}

// How a half has ended.
struct HalfEnd {
  absl::Status status;
  absl::Notification told = {};

  std::function<void(absl::Status)> Tell() {
    return [this](absl::Status end) {
      status = std::move(end);
      told.Notify();
    };
  }
};

TEST_P(StreamTest, CancellationTellsTheCallbacksOfBothEnds) {
  // In each direction either the reader waits, for a message, or the writer, for credit.
  for (const bool full : {false, true}) {
    SCOPED_TRACE(full);
    StreamReader<Item> reader;
    StreamWriter<Item> writer;
    DeferredCall call;
    absl::Notification there;
    feed_.on_chat = [&](ServerContext& context, StreamReader<Item> from, StreamWriter<Item> to) {
      reader = std::move(from);
      writer = std::move(to);
      call = context.Defer();
      there.Notify();
      return Reply::Later();
    };
    Start();
    HalfEnd here_end, there_end;
    auto chat = stub().Chat();
    ASSERT_TRUE(Happens(there));
    CallbackReading reading(chat.reader(), here_end.Tell());
    CallbackReading handler_reading(reader, there_end.Tell());
    CallbackWriting writing(chat.writer(), 1000, kBytes, here_end.Tell());
    CallbackWriting handler_writing(writer, 1000, kBytes, there_end.Tell());
    if (full) {
      writing.WriteOne();
      handler_writing.WriteOne();
    } else {
      reading.ReadOne();
      handler_reading.ReadOne();
    }
    EXPECT_TRUE(Answers());
    EXPECT_FALSE(here_end.told.HasBeenNotified());
    EXPECT_FALSE(there_end.told.HasBeenNotified());
    chat.canceller().Cancel();
    ASSERT_TRUE(Happens(here_end.told));
    ASSERT_TRUE(Happens(there_end.told));
    EXPECT_THAT(here_end.status, StatusIs(absl::StatusCode::kCancelled));
    EXPECT_THAT(there_end.status, StatusIs(absl::StatusCode::kCancelled));
    call.Finish(absl::CancelledError("as it should"));
  }
}

}  // namespace
}  // namespace mi7::conformance
