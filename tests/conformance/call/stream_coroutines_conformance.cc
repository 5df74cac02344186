// Coroutines that are destroyed while they wait: in a read, a write, a `-> stream` call, a sleep.

#include <array>
#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// How often a coroutine was resumed that had been destroyed.
std::atomic<int> resumed_after_its_end{0};

// A coroutine whose frame the test owns. What is left of a frame counts who resumes it: its memory
// stays, and begins with the function that resumes, as all compilers have it.
class Owned {
 public:
  struct promise_type {
    static void* operator new(size_t bytes) {
      EXPECT_LE(bytes, sizeof(Frame));
      frames().push_back(std::make_unique<Frame>());
      return frames().back().get();
    }
    static void operator delete(void* frame, size_t) {
      *static_cast<void (**)(void*)>(frame) = [](void*) { ++resumed_after_its_end; };
    }
    Owned get_return_object() {
      return Owned(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };

  bool waits() const { return !handle_.done(); }
  void Destroy() { handle_.destroy(); }

 private:
  struct Frame {
    alignas(std::max_align_t) std::array<std::byte, 4096> bytes;
  };
  static std::vector<std::unique_ptr<Frame>>& frames() {
    static std::vector<std::unique_ptr<Frame>> all;
    return all;
  }
  explicit Owned(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

// Keeps what handlers of chat have got, and the calls of pour.
class Holder {
 public:
  struct Chat {
    StreamReader<Item> reader;
    StreamWriter<Item> writer;
    ServerContext* context;
    DeferredCall call;
  };
  ChatHandler OfChat() {
    return [this](ServerContext& context, StreamReader<Item> reader, StreamWriter<Item> writer) {
      absl::MutexLock lock(&mutex_);
      chats_.push_back({std::move(reader), std::move(writer), &context, context.Defer()});
      return Reply::Later();
    };
  }
  PourHandler OfPour() {
    return [this](ServerContext& context, Item::Reader) {
      absl::MutexLock lock(&mutex_);
      pours_.push_back({&context, context.Defer()});
      return Reply::Later();
    };
  }
  Chat TakeChat() {
    absl::MutexLock lock(&mutex_);
    const auto any = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !chats_.empty(); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&any), kSoon));
    Chat chat = std::move(chats_.back());
    chats_.pop_back();
    return chat;
  }
  bool AwaitPours(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto all = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return pours_.size() == count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&all), kSoon);
  }
  // Of the call of that number, until it is answered.
  const ServerContext& PourContext(size_t number) {
    absl::MutexLock lock(&mutex_);
    return *pours_[number].context;
  }
  void AnswerPours() {
    std::vector<Pour> calls;
    {
      absl::MutexLock lock(&mutex_);
      calls.swap(pours_);
    }
    for (Pour& pour : calls) pour.call.Finish(absl::OkStatus());
  }

 private:
  struct Pour {
    ServerContext* context;
    DeferredCall call;
  };
  absl::Mutex mutex_;
  std::vector<Chat> chats_ ABSL_GUARDED_BY(mutex_);
  std::vector<Pour> pours_ ABSL_GUARDED_BY(mutex_);
};

testing::AssertionResult IsCancelled(const ServerContext& context) {
  const Deadline patience = Deadline::After(kSoon);
  while (!context.cancelled()) {
    if (patience.passed()) return testing::AssertionFailure() << "the server is not told";
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

// In a blocking way.
absl::Status PourOne(FeedStub& sink) {
  auto request = sink.Pour();
  FillItem(*request, 0, 0);
  return request.Send().Wait();
}

TEST_P(StreamTest, CoroutineThatIsDestroyedInAReadEndsItsStream) {
  Holder holder;
  feed_.on_chat = holder.OfChat();
  Start();
  resumed_after_its_end = 0;
  Owned reading = [](FeedStub stub) -> Owned {
    auto chat = stub.Chat();
    static_cast<void>(co_await chat.reader().Read());
  }(stub());
  Holder::Chat held = holder.TakeChat();
  ASSERT_TRUE(reading.waits());
  reading.Destroy();
  EXPECT_TRUE(IsCancelled(*held.context));
  held.call.Finish(absl::CancelledError("as it should"));
  EXPECT_TRUE(Answers());
  EXPECT_EQ(resumed_after_its_end, 0);
}

TEST_P(StreamTest, CoroutineThatIsDestroyedInAWriteEndsItsStream) {
  Holder holder;
  feed_.on_chat = holder.OfChat();
  Limits limits;
  limits.stream_window_bytes = 10'000;
  Start(limits);
  ASSERT_TRUE(Answers());
  resumed_after_its_end = 0;
  // Nobody reads, so that there is no credit left soon.
  Owned writing = [](FeedStub stub) -> Owned {
    auto chat = stub.Chat();
    for (uint64_t number = 0; number < 100; ++number) {
      static_cast<void>(co_await chat.writer().Write(NewItem(chat.writer(), number, 1000)));
    }
  }(stub());
  Holder::Chat held = holder.TakeChat();
  ASSERT_TRUE(writing.waits());
  writing.Destroy();
  EXPECT_TRUE(IsCancelled(*held.context));
  held.call.Finish(absl::CancelledError("as it should"));
  EXPECT_TRUE(Answers());
  EXPECT_EQ(resumed_after_its_end, 0);
}

// At the server the stream goes on, and nothing is lost.
TEST_P(StreamTest, HandlersCoroutineMayBeDestroyedInAReadAndInAWrite) {
  Holder holder;
  feed_.on_chat = holder.OfChat();
  Limits limits;
  limits.stream_window_bytes = 10'000;
  Start(limits);
  resumed_after_its_end = 0;
  auto chat = stub().Chat();
  Holder::Chat held = holder.TakeChat();
  Owned reading = [](StreamReader<Item>& reader) -> Owned {
    static_cast<void>(co_await reader.Read());
  }(held.reader);
  ASSERT_TRUE(reading.waits());
  reading.Destroy();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 5)).Wait(), IsOk());
  EXPECT_TRUE(GivesItems(held.reader, 5, 6));

  uint64_t written = 0;
  Owned writing = [](StreamWriter<Item>& writer, uint64_t& number) -> Owned {
    for (; number < 100; ++number) {
      static_cast<void>(co_await writer.Write(NewItem(writer, number, 1000)));
    }
  }(held.writer, written);
  ASSERT_TRUE(writing.waits());
  writing.Destroy();
  EXPECT_TRUE(GivesItems(chat.reader(), 0, written + 1, 1000)) << "the last one was sent";
  const Deadline patience = Deadline::After(kSoon);
  while (!held.writer.ready()) ASSERT_FALSE(patience.passed()) << "there is credit again";
  ASSERT_THAT(held.writer.Write(NewItem(held.writer, 7)).Wait(), IsOk());
  EXPECT_TRUE(GivesItems(chat.reader(), 7, 8));
  held.call.Finish(absl::OkStatus());
  EXPECT_FALSE(*chat.reader().Read().Wait());
  EXPECT_EQ(resumed_after_its_end, 0);
}

// Those before it go on, and those behind it are not sent, so that no series has a hole.
TEST_P(StreamTest, CoroutineThatIsDestroyedInAPourTakesBackTheCallThatItSentLast) {
  Holder holder;
  feed_.on_pour = holder.OfPour();
  Limits limits;
  limits.stream_window_bytes = 10'000;
  Start(limits);
  const absl::Cleanup answer = [&] { holder.AnswerPours(); };
  ASSERT_TRUE(Answers());
  resumed_after_its_end = 0;
  FeedStub sink = stub();
  size_t sent = 0;
  Owned pouring = [](FeedStub stub, size_t& number) -> Owned {
    for (; number < 100; ++number) {
      auto request = stub.Pour();
      FillItem(*request, number, 1000);
      static_cast<void>(co_await request.Send());
    }
  }(sink, sent);
  ASSERT_TRUE(pouring.waits());
  ASSERT_TRUE(holder.AwaitPours(sent + 1));
  pouring.Destroy();
  ASSERT_TRUE(IsCancelled(holder.PourContext(sent)));
  EXPECT_TRUE(Answers()) << "what was sent before has arrived";
  for (size_t number = 0; number < sent; ++number) {
    EXPECT_FALSE(holder.PourContext(number).cancelled()) << number;
  }
  EXPECT_THAT(PourOne(sink), StatusIs(absl::StatusCode::kCancelled)) << "not sent";
  EXPECT_TRUE(holder.AwaitPours(sent + 1));
  holder.AnswerPours();
  EXPECT_THAT(sink.FinishStream().Wait(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(PourOne(sink), IsOk()) << "begins anew";
  ASSERT_TRUE(holder.AwaitPours(1));
  holder.AnswerPours();
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_EQ(resumed_after_its_end, 0);
}

TEST_P(StreamTest, CoroutineThatIsDestroyedInFinishStreamTakesBackAllCalls) {
  constexpr size_t kCalls = 5;
  Holder holder;
  feed_.on_pour = holder.OfPour();
  Start();
  const absl::Cleanup answer = [&] { holder.AnswerPours(); };
  resumed_after_its_end = 0;
  FeedStub sink = stub();
  for (size_t i = 0; i < kCalls; ++i) ASSERT_THAT(PourOne(sink), IsOk());
  ASSERT_TRUE(holder.AwaitPours(kCalls));
  Owned finishing = [](FeedStub stub) -> Owned {
    static_cast<void>(co_await stub.FinishStream());
  }(sink);
  ASSERT_TRUE(finishing.waits());
  finishing.Destroy();
  for (size_t i = 0; i < kCalls; ++i) ASSERT_TRUE(IsCancelled(holder.PourContext(i))) << i;
  EXPECT_THAT(PourOne(sink), StatusIs(absl::StatusCode::kCancelled)) << "not sent";
  holder.AnswerPours();
  EXPECT_THAT(sink.FinishStream().Wait(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(PourOne(sink), IsOk()) << "begins anew";
  ASSERT_TRUE(holder.AwaitPours(1));
  holder.AnswerPours();
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_EQ(resumed_after_its_end, 0);
}

TEST_P(StreamTest, HandlersCoroutineMayBeDestroyedInASleep) {
  Holder holder;
  feed_.on_chat = holder.OfChat();
  Start();
  resumed_after_its_end = 0;
  std::optional<BidiStream<Item, Item>> chat = stub().Chat();
  Holder::Chat held = holder.TakeChat();
  Owned sleeping = [](ServerContext& context) -> Owned {
    static_cast<void>(co_await context.Sleep(absl::Hours(1)));
  }(*held.context);
  ASSERT_TRUE(sleeping.waits());
  sleeping.Destroy();
  // What would have woken it.
  absl::Notification told;
  std::stop_callback on_cancel(held.context->stop_token(), [&] { told.Notify(); });
  chat.reset();
  ASSERT_TRUE(Happens(told));
  held.call.Finish(absl::CancelledError("as it should"));
  EXPECT_TRUE(Answers());
  EXPECT_EQ(resumed_after_its_end, 0);
}

}  // namespace
}  // namespace mi7::conformance
