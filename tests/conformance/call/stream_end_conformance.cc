// How streams end: in order, early, by cancellation, deadline, loss of the connection, shutdown.

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/task.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

// A handler of chat that keeps its stream for the test.
struct HeldChat {
  StreamReader<Item> reader;
  StreamWriter<Item> writer;
  ServerContext* context;
  DeferredCall later;
};
class ChatHolder {
 public:
  ChatHandler Handler() {
    return [this](ServerContext& context, StreamReader<Item> reader, StreamWriter<Item> writer) {
      absl::MutexLock lock(&mutex_);
      held_.push_back({std::move(reader), std::move(writer), &context, context.Defer()});
      return Reply::Later();
    };
  }
  HeldChat Take() {
    absl::MutexLock lock(&mutex_);
    const auto any = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !held_.empty(); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&any), kSoon));
    HeldChat held = std::move(held_.front());
    held_.erase(held_.begin());
    return held;
  }

 private:
  absl::Mutex mutex_;
  std::vector<HeldChat> held_ ABSL_GUARDED_BY(mutex_);
};

// The status with which a reader's stream ends; messages before it are skipped.
absl::Status EndOf(StreamReader<Item>& reader) {
  for (const auto& item : reader.Messages()) static_cast<void>(item);
  return reader.status();
}

TEST_P(StreamTest, StatusOfTheHandlerComesAfterItsMessages) {
  feed_.on_watch = [](ServerContext&, Feed::WatchParams::Reader,
                      StreamWriter<Item> writer) -> Reply {
    for (uint64_t number = 0; number < 10; ++number) {
      const absl::Status sent = co_await writer.Write(NewItem(writer, number));
      if (!sent.ok()) co_return sent;
    }
    absl::Status status = absl::NotFoundError("no more of them");
    status.SetPayload("type.example/detail", absl::Cord("detail"));
    co_return status;
  };
  Start();
  auto reader = Watch(0);
  ASSERT_TRUE(GivesItems(reader, 0, 10));
  const ItemRead end = reader.Read().Wait();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kNotFound, "no more of them"));
  EXPECT_EQ(end.status().GetPayload("type.example/detail"), "detail");
  EXPECT_THAT(end.status(), OutcomeIs(CallOutcome::kAnswered));
  EXPECT_THAT(reader.status(), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StreamTest, HalfClosedChatGoesOnTheOtherWay) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 5)).Wait(), IsOk());
  chat.writer().Close();
  chat.writer().Close();
  EXPECT_THAT(chat.writer().Write(NewItem(chat.writer(), 6)).Wait(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "Write after Close"));
  HeldChat held = holder.Take();
  ASSERT_TRUE(GivesItems(held.reader, 5, 6));
  EXPECT_FALSE(*held.reader.Read().Wait());
  for (uint64_t number = 0; number < 20; ++number) {
    ASSERT_THAT(held.writer.Write(NewItem(held.writer, number)).Wait(), IsOk());
  }
  EXPECT_TRUE(GivesItems(chat.reader(), 0, 20));
  held.later.Finish(absl::OkStatus());
  EXPECT_FALSE(*chat.reader().Read().Wait());
}

TEST_P(StreamTest, ServerMayEndWhileTheClientWrites) {
  for (const bool ok : {true, false}) {
    feed_.on_upload = [ok](ServerContext&, StreamReader<Item> reader,
                           Feed::UploadResults::Builder results) -> Reply {
      for (int i = 0; i < 3; ++i) {
        const ItemRead item = co_await reader.Read();
        if (!item.ok()) co_return item.status();
      }
      results.setCount(3);
      co_return ok ? absl::OkStatus() : absl::ResourceExhaustedError("enough");
    };
    Start();
    auto upload = stub().Upload();
    absl::Status sent;
    for (uint64_t number = 0; sent.ok(); ++number) {
      sent = upload.Write(NewItem(upload.writer(), number, 5000)).Wait();
    }
    const auto response = upload.Finish().Wait();
    if (ok) {
      EXPECT_THAT(sent, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 "Feed.upload: the server has ended the stream with OK"));
      ASSERT_THAT(response, IsOk());
      EXPECT_EQ(response->getCount(), 3u);
    } else {
      EXPECT_THAT(sent, StatusIs(absl::StatusCode::kResourceExhausted, "enough"));
      EXPECT_THAT(response, StatusIs(absl::StatusCode::kResourceExhausted, "enough"));
    }
    EXPECT_TRUE(Answers()) << "what crossed the answer harms nobody";
  }
}

TEST_P(StreamTest, AnAnsweredCallsReaderAndWriterSayThatItIsOver) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  HeldChat held = holder.Take();
  held.later.Finish(absl::OkStatus());
  EXPECT_FALSE(*chat.reader().Read().Wait());
  const auto over =
      StatusIs(absl::StatusCode::kFailedPrecondition, "Feed.chat: the call has been answered");
  EXPECT_THAT(held.reader.Read().Wait(), over);
  EXPECT_THAT(held.writer.Write(NewItem(held.writer, 1)).Wait(), over);
  EXPECT_TRUE(Answers());
}

// --- Cancellation

TEST_P(StreamTest, CancellationReachesTheHandlersReaderAndWriter) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  for (const bool by_drop : {false, true}) {
    std::optional<BidiStream<Item, Item>> chat = stub().Chat();
    ASSERT_THAT(chat->writer().Write(NewItem(chat->writer(), 1)).Wait(), IsOk());
    HeldChat held = holder.Take();
    ASSERT_TRUE(GivesItems(held.reader, 1, 2));
    std::thread cancelling([&] {
      if (by_drop) {
        chat.reset();
      } else {
        chat->Cancel();
      }
    });
    const auto cancelled =
        StatusIs(absl::StatusCode::kCancelled, "Feed.chat: cancelled by the caller");
    EXPECT_THAT(held.reader.Read().Wait(), cancelled) << "a blocked reader";
    EXPECT_THAT(held.writer.Write(NewItem(held.writer, 1)).Wait(), cancelled);
    EXPECT_TRUE(held.context->cancelled());
    cancelling.join();
    if (chat) {
      EXPECT_THAT(chat->reader().Read().Wait(),
                  StatusIs(absl::StatusCode::kCancelled, HasSubstr("Feed.chat: cancelled")));
      EXPECT_THAT(chat->writer().Write(NewItem(chat->writer(), 1)).Wait(),
                  StatusIs(absl::StatusCode::kCancelled));
    }
    held.later.Finish(absl::CancelledError("as it should"));
  }
  EXPECT_TRUE(Answers());
}

TEST_P(StreamTest, CancellationWakesAWriterThatWaitsForCredit) {
  // The handler's, which may run on when the test has ended early.
  struct State {
    absl::Notification ended;
    absl::Status last;
  };
  const auto state = std::make_shared<State>();
  feed_.on_watch = [state](ServerContext&, Feed::WatchParams::Reader,
                           StreamWriter<Item> writer) -> Reply {
    absl::Status written;
    do {
      written = co_await writer.Write(NewItem(writer, 0, 10'000));
    } while (written.ok());
    state->last = written;
    state->ended.Notify();
    co_return written;
  };
  Start();
  {
    auto reader = Watch(0);
    ASSERT_TRUE(GivesItems(reader, 0, 1, 10'000));
  }
  ASSERT_TRUE(Happens(state->ended));
  EXPECT_THAT(state->last, StatusIs(absl::StatusCode::kCancelled));
}

TEST_P(StreamTest, CancelFromAnotherThreadEndsABlockedRead) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  HeldChat held = holder.Take();
  std::thread cancelling([canceller = chat.canceller()] { canceller.Cancel(); });
  EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kCancelled));
  cancelling.join();
  EXPECT_THAT(held.reader.Read().Wait(), StatusIs(absl::StatusCode::kCancelled));
}

TEST_P(StreamTest, CancelDropsWhatWasNotRead) {
  Limits limits;
  limits.stream_window_bytes = 10'000;  // the stream is not over before all of it is read
  Start(limits);
  auto reader = Watch(100, 1000);
  ASSERT_TRUE(GivesItems(reader, 0, 1, 1000));
  ASSERT_TRUE(Answers());
  reader.Cancel();
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kCancelled));
}

TEST_P(StreamTest, ADroppedReaderWithACallbackTellsIt) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  absl::Notification told;
  absl::Status status;
  {
    auto chat = stub().Chat();
    chat.reader().Read().Then([&](ItemRead item) {
      status = item.status();
      told.Notify();
    });
    holder.Take();  // and answers INTERNAL, if the cancellation does not come first
  }
  ASSERT_TRUE(Happens(told));
  EXPECT_FALSE(status.ok());
}

// --- Deadlines

// By a fake clock, or a slow machine would let it pass before the stream is under way. Shorter than
// write_stall_timeout.
constexpr absl::Duration kTime = absl::Seconds(40);

TEST_P(StreamTest, TheDeadlineIsTheWholeStreams) {
  FakeClock clock;
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  ASSERT_TRUE(Answers());
  const Deadline deadline = Deadline::After(kTime);
  auto chat = stub().Chat({.deadline = deadline});
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 1)).Wait(), IsOk());
  HeldChat held = holder.Take();
  EXPECT_FALSE(held.context->deadline().infinite());
  ASSERT_TRUE(GivesItems(held.reader, 1, 2));
  std::thread passing([&] { clock.Advance(kTime); });
  EXPECT_THAT(chat.reader().Read().Wait(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("Feed.chat")));
  passing.join();
  EXPECT_TRUE(deadline.passed());
  const absl::Status at_the_server = held.reader.Read().Wait().status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(at_the_server) || absl::IsCancelled(at_the_server))
      << at_the_server;
}

TEST_P(StreamTest, TheDeadlineEndsAStreamOnWhichNobodyWaits) {
  FakeClock clock;
  absl::Notification began, ended;
  feed_.on_watch = [&](ServerContext&, Feed::WatchParams::Reader,
                       StreamWriter<Item> writer) -> Reply {
    began.Notify();
    absl::Status last;
    do {
      last = co_await writer.Write(NewItem(writer, 0, 10'000));
    } while (last.ok());
    ended.Notify();
    co_return last;
  };
  Start();
  auto reader = Watch(0, 0, {.deadline = Deadline::After(kTime)});
  EXPECT_TRUE(Happens(began));
  clock.Advance(kTime);
  ASSERT_TRUE(Happens(ended)) << "the client's loop has told the server";
  EXPECT_THAT(EndOf(reader), StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_P(StreamTest, APassedDeadlineSendsNothing) {
  std::atomic<int> calls{0};
  feed_.on_watch = [&](ServerContext&, Feed::WatchParams::Reader, StreamWriter<Item>) {
    ++calls;
    return absl::OkStatus();
  };
  Start();
  ASSERT_TRUE(Answers());
  auto reader = Watch(0, 0, {.deadline = Deadline::AtNanos(0)});
  EXPECT_THAT(EndOf(reader), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(reader.status(), OutcomeIs(CallOutcome::kNotSent));
  ASSERT_TRUE(Answers());
  EXPECT_EQ(calls, 0);
}

// --- The connection

TEST_P(StreamTest, LossOfTheConnectionEndsBothEnds) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 1)).Wait(), IsOk());
  HeldChat held = holder.Take();
  ASSERT_TRUE(GivesItems(held.reader, 1, 2));
  ASSERT_THAT(held.writer.Write(NewItem(held.writer, 0)).Wait(), IsOk());
  ASSERT_TRUE(GivesItems(chat.reader(), 0, 1));
  std::thread closing([&] { channel_->Close(); });
  const ItemRead read = chat.reader().Read().Wait();
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("Feed.chat")));
  EXPECT_THAT(read.status(), OutcomeIs(CallOutcome::kUnknown)) << "it may have run";
  EXPECT_THAT(chat.writer().Write(NewItem(chat.writer(), 1)).Wait(),
              StatusIs(absl::StatusCode::kUnavailable));
  closing.join();
  const auto lost = StatusIs(absl::StatusCode::kUnavailable, "Feed.chat: connection lost");
  EXPECT_THAT(held.reader.Read().Wait(), lost);
  EXPECT_THAT(held.writer.Write(NewItem(held.writer, 1)).Wait(), lost);
}

TEST_P(StreamTest, WhatHadArrivedBeforeTheLossIsStillRead) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  HeldChat held = holder.Take();
  for (uint64_t number = 0; number < 5; ++number) {
    ASSERT_THAT(held.writer.Write(NewItem(held.writer, number)).Wait(), IsOk());
  }
  ASSERT_TRUE(Answers()) << "and with that answer, the items before it";
  server_ = nullptr;
  EXPECT_TRUE(GivesItems(chat.reader(), 0, 5));
  EXPECT_THAT(EndOf(chat.reader()), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_P(StreamTest, StreamsOpenedBeforeTheConnectionWaitForIt) {
  Start();
  auto upload = stub().Upload();  // nobody has connected yet
  for (uint64_t number = 0; number < 100; ++number) {
    ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, 100)).Wait(), IsOk());
  }
  const auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), 100u);
}

TEST_P(StreamTest, WithoutAServerAStreamFailsAsACallDoes) {
  Start();
  server_ = nullptr;
  auto channel = NewChannel();
  auto upload = FeedStub(channel).Upload();
  EXPECT_THAT(upload.Write(NewItem(upload.writer(), 0)).Wait(),
              StatusIs(absl::StatusCode::kUnavailable));
  const auto response = upload.Finish().Wait();
  EXPECT_THAT(response, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(response, OutcomeIs(CallOutcome::kNotSent));
}

// --- Shutdown

TEST_P(StreamTest, ShutdownWaitsForStreams) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  HeldChat held = holder.Take();
  absl::Status shut_down;
  std::thread shutdown([&] { shut_down = server_->Shutdown(Deadline::After(kSoon)); });
  const Deadline patience = Deadline::After(kSoon);
  while (channel_->state() == ChannelState::kReady) ASSERT_FALSE(patience.passed());
  // It goes on both ways.
  for (uint64_t number = 0; number < 50; ++number) {
    ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number, 10'000)).Wait(), IsOk());
    ASSERT_TRUE(GivesItems(held.reader, number, number + 1, 10'000));
    ASSERT_THAT(held.writer.Write(NewItem(held.writer, number, 10'000)).Wait(), IsOk());
    ASSERT_TRUE(GivesItems(chat.reader(), number, number + 1, 10'000));
  }
  held.later.Finish(absl::OkStatus());
  EXPECT_FALSE(*chat.reader().Read().Wait());
  shutdown.join();
  EXPECT_THAT(shut_down, IsOk());
}

TEST_P(StreamTest, ShutdownEndsStreamsAtItsDeadline) {
  ChatHolder holder;
  feed_.on_chat = holder.Handler();
  Start();
  auto chat = stub().Chat();
  HeldChat held = holder.Take();
  EXPECT_THAT(server_->Shutdown(Deadline::After(absl::Milliseconds(30))),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("1 calls")));
  EXPECT_THAT(EndOf(chat.reader()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("server is shutting down")));
  EXPECT_THAT(held.reader.Read().Wait(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(held.writer.Write(NewItem(held.writer, 1)).Wait(),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_TRUE(held.context->cancelled());
  server_ = nullptr;
  EXPECT_THAT(held.writer.Write(NewItem(held.writer, 2)).Wait(),
              StatusIs(absl::StatusCode::kUnavailable));
}

// --- Under load

TEST_P(StreamTest, StreamsThatAreCancelledAtRandomHarmNoOthers) {
  Start();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([&, seed] {
      uint64_t random = seed;
      while (!stop) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        auto chat = stub().Chat();
        const uint64_t count = random >> 60;
        for (uint64_t number = 0; number < count; ++number) {
          static_cast<void>(chat.writer().Write(NewItem(chat.writer(), number, 700)).Wait());
        }
        // The echo of none would never come.
        if (count != 0 && (random >> 40) % 2 == 0) {
          static_cast<void>(chat.reader().Read().Wait().status());
        }
        if ((random >> 41) % 3 == 0) chat.Cancel();
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    auto reader = Watch(20, 500);
    ASSERT_TRUE(GivesItems(reader, 0, 20, 500));
    ASSERT_FALSE(*reader.Read().Wait());
    ASSERT_TRUE(Answers());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace mi7::conformance
