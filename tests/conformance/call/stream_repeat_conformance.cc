// Streams that are refused and made again by themselves: neither their users nor the handlers that
// run in the end notice anything of it.

#include <algorithm>
#include <atomic>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/interceptor.h"
#include "rpc/metadata.h"
#include "rpc/task.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

// What is copied when it is kept, and what is not; over shared memory in the ring and in slots.
constexpr size_t kSizes[] = {0, 10, 3000, 20'000, 0, 100'000, 1};

// A server that has one place.
ServerOptions OnePlace() {
  ServerOptions options;
  options.load.calls_max = 1;
  options.load.retry_after = absl::Milliseconds(1);
  return options;
}

// Its clients, who try for as long as it takes.
ChannelOptions Patient() {
  ChannelOptions options;
  options.retry.policy.attempts_max = 1'000'000;
  options.retry.budget.tokens_max = 1e9;
  return options;
}

// A call that has the place.
class Holder {
 public:
  Holder(FeedStub stub, Server& server) : server_(server), chat_(stub.Chat()) {
    EXPECT_THAT(chat_.writer().Write(NewItem(chat_.writer(), 7)).Wait(), IsOk());
    EXPECT_TRUE(*chat_.reader().Read().Wait());
  }
  // Gives it up once so many calls have been refused in all.
  void LeaveAfter(uint64_t refused) {
    const Deadline patience = Deadline::After(kSoon);
    while (server_.load().refused < refused && !patience.passed()) std::this_thread::yield();
    EXPECT_GE(server_.load().refused, refused);
    chat_.writer().Close();
    EXPECT_FALSE(*chat_.reader().Read().Wait());
  }

 private:
  Server& server_;
  BidiStream<Item, Item> chat_;
};

// Expects items with data of kSizes, numbered from 0.
Reply CheckItems(ServerContext& context, StreamReader<Item> reader,
                 Feed::UploadResults::Builder results) {
  if (context.attempt() == 1) co_return absl::InternalError("not repeated");
  uint64_t count = 0;
  for (;;) {
    ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    if (!*item) break;
    if (count == std::size(kSizes) || !IsItem(**item, count, kSizes[count])) {
      co_return absl::DataLossError(absl::StrCat((*item)->getNumber(), " came as number ", count));
    }
    ++count;
  }
  results.setCount(count);
  co_return absl::OkStatus();
}

TEST_P(StreamTest, ARefusedStreamOfResultsBeginsWhenThereIsRoom) {
  std::atomic<int> attempt{0};
  feed_.on_watch = [&](ServerContext& context, auto params, auto writer) {
    attempt = context.attempt();
    return SendItems(context, params, std::move(writer));
  };
  Start(OnePlace(), Patient());
  Holder holder(stub(), *server_);
  auto reader = Watch(20, 3000);
  holder.LeaveAfter(2);
  EXPECT_TRUE(GivesItems(reader, 0, 20, 3000));
  EXPECT_FALSE(*reader.Read().Wait());
  EXPECT_EQ(static_cast<uint64_t>(attempt), server_->load().refused + 1);
}

TEST_P(StreamTest, WhatWasWrittenBeforeTheRefusalsComesOnceAndInOrder) {
  feed_.on_upload = CheckItems;
  Start(OnePlace(), Patient());
  for (int i = 0; i < 3; ++i) {
    Holder holder(stub(), *server_);
    auto upload = stub().Upload();
    for (size_t number = 0; number < std::size(kSizes); ++number) {
      ASSERT_THAT(upload.Write(NewItem(upload.writer(), number, kSizes[number])).Wait(), IsOk());
    }
    auto answer = upload.Finish();
    holder.LeaveAfter(server_->load().refused + 3);
    const auto response = answer.Wait();
    ASSERT_THAT(response, IsOk());
    EXPECT_EQ(response->getCount(), std::size(kSizes));
  }
}

// Each has a connection's memory to be built in, or none.
TEST_P(StreamTest, WhatIsWrittenWhileAStreamIsRefusedComesOnceAndInOrder) {
  feed_.on_upload = CheckItems;
  Start(OnePlace(), Patient());
  Holder holder(stub(), *server_);
  auto upload = stub().Upload();
  std::thread leaves([&] { holder.LeaveAfter(40); });
  for (size_t number = 0; number < std::size(kSizes); ++number) {
    auto draft = NewItem(upload.writer(), number, kSizes[number]);
    const uint64_t refused = server_->load().refused;
    const Deadline patience = Deadline::After(kSoon);
    while (server_->load().refused < std::min<uint64_t>(refused + 5, 40) && !patience.passed()) {
      std::this_thread::yield();
    }
    ASSERT_THAT(upload.Write(std::move(draft)).Wait(), IsOk());
  }
  const auto response = upload.Finish().Wait();
  leaves.join();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), std::size(kSizes));
}

TEST_P(StreamTest, ARefusedChatOfCoroutinesBeginsWhenThereIsRoom) {
  Start(OnePlace(), Patient());
  Holder holder(stub(), *server_);
  std::thread leaves([&] { holder.LeaveAfter(3); });
  EXPECT_THAT(BlockOn([](FeedStub stub) -> Task<absl::Status> {
                auto chat = stub.Chat();
                for (uint64_t number = 0; number < 5; ++number) {
                  auto draft = NewItem(chat.writer(), number, 5000);
                  if (absl::Status sent = co_await chat.writer().Write(std::move(draft));
                      !sent.ok()) {
                    co_return sent;
                  }
                }
                chat.writer().Close();
                for (uint64_t number = 0; number < 5; ++number) {
                  const ItemRead item = co_await chat.reader().Read();
                  if (!item.ok()) co_return item.status();
                  if (!*item || !IsItem(**item, number, 5000)) {
                    co_return absl::DataLossError(absl::StrCat("instead of ", number));
                  }
                }
                co_return (co_await chat.reader().Read()).status();
              }(stub())),
              IsOk());
  leaves.join();
}

// The next message is not taken before its credit, whose end the writer waits for as a thread.
TEST_P(StreamTest, ARefusedChatOfThreadsBeginsWhenThereIsRoom) {
  Start(OnePlace(), Patient());
  Holder holder(stub(), *server_);
  auto chat = stub().Chat();
  std::thread writes([&] {
    for (uint64_t number = 0; number < 10; ++number) {
      EXPECT_THAT(chat.writer().Write(NewItem(chat.writer(), number, 100'000)).Wait(), IsOk());
    }
    chat.writer().Close();
  });
  std::thread reads([&] {
    EXPECT_TRUE(GivesItems(chat.reader(), 0, 10, 100'000));
    EXPECT_FALSE(*chat.reader().Read().Wait());
  });
  holder.LeaveAfter(5);
  writes.join();
  reads.join();
}

class Counting final : public Interceptor {
 public:
  void OnStart(InterceptedCall& call) override {
    ++starts;
    call.EditMetadata().Add("key", "value");
  }
  void OnMessage(InterceptedMessage& message) override { ++(message.outgoing() ? written : read); }
  void OnEnd(InterceptedCall& call) override {
    ++ends;
    initial = call.response_metadata().initial;
  }
  std::atomic<int> starts{0}, written{0}, read{0}, ends{0};
  Metadata initial;
};

TEST_P(StreamTest, InterceptorsAndMetadataKnowNothingOfRefusedAttempts) {
  feed_.on_chat = [](ServerContext& context, auto reader, auto writer) {
    context.initial_metadata().Add("attempt", absl::StrCat(context.attempt() > 1));
    context.trailing_metadata().Add("back", context.metadata().Get("key").value_or(""));
    return EchoItems(context, std::move(reader), std::move(writer));
  };
  Start(OnePlace(), Patient());
  Holder holder(stub(), *server_);
  auto counting = std::make_shared<Counting>();
  ChannelOptions options = Patient();
  options.interceptors = {counting};
  channel_ = NewChannel(options);
  CallOptions call;
  call.received = std::make_shared<ResponseMetadata>();
  auto chat = stub().Chat(call);
  for (uint64_t number = 0; number < 3; ++number) {
    ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number)).Wait(), IsOk());
  }
  chat.writer().Close();
  holder.LeaveAfter(3);
  EXPECT_TRUE(GivesItems(chat.reader(), 0, 3));
  EXPECT_EQ(call.received->initial, (Metadata{{"attempt", "1"}}));
  EXPECT_FALSE(*chat.reader().Read().Wait());
  EXPECT_EQ(call.received->trailing, (Metadata{{"back", "value"}}));
  EXPECT_EQ(counting->starts, 1);
  EXPECT_EQ(counting->written, 3);
  EXPECT_EQ(counting->read, 3);
  EXPECT_EQ(counting->ends, 1);
  EXPECT_EQ(counting->initial, (Metadata{{"attempt", "1"}}));
}

TEST_P(StreamTest, CancellationsAndRefusedAttemptsRace) {
  Start(OnePlace(), Patient());
  auto holder = std::make_unique<Holder>(stub(), *server_);
  for (int i = 0; i < 200; ++i) {
    auto chat = stub().Chat();
    static_cast<void>(chat.writer().Write(NewItem(chat.writer(), 1)));
    for (int j = 0; j < i % 50; ++j) std::this_thread::yield();
    if (i % 3 == 0) continue;  // dropped
    chat.Cancel();
    EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kCancelled));
  }
  holder->LeaveAfter(0);
  auto reader = Watch(1);
  EXPECT_TRUE(GivesItems(reader, 0, 1)) << "the place is free";
}

TEST_P(StreamTest, ADeadlineEndsAStreamThatIsRefusedAllTheTime) {
  Start(OnePlace(), Patient());
  Holder holder(stub(), *server_);
  auto chat = stub().Chat({.deadline = Deadline::After(absl::Milliseconds(50))});
  static_cast<void>(chat.writer().Write(NewItem(chat.writer(), 1)));
  const absl::Status end = chat.reader().Read().Wait().status();
  // Where the next attempt would come too late it is not made.
  EXPECT_TRUE(absl::IsDeadlineExceeded(end) || absl::IsResourceExhausted(end)) << end;
  EXPECT_FALSE(chat.writer().Write(NewItem(chat.writer(), 1)).Wait().ok());
  holder.LeaveAfter(1);
}

// What callers do not notice: a server goes away, and refuses what comes meanwhile.
TEST_P(StreamTest, SuccessorTakesOverWhileStreamsAreMade) {
  std::atomic<uint64_t> ran{0}, ended{0};
  std::atomic<bool> stop{false};
  FeedImpl successors_feed;
  feed_.on_chat = successors_feed.on_chat = [&](ServerContext& context, auto reader, auto writer) {
    ++ran;
    return EchoItems(context, std::move(reader), std::move(writer));
  };
  ServerOptions taking_over;
  taking_over.take_over = true;
  Start(taking_over, Patient());
  std::vector<std::thread> callers;
  for (int i = 0; i < 2; ++i) {
    callers.emplace_back([this, &ended, &stop] {
      while (!stop) {
        auto chat = stub().Chat({.deadline = Deadline::After(kSoon)});
        for (uint64_t number = 0; number < 2; ++number) {
          static_cast<void>(chat.writer().Write(NewItem(chat.writer(), number)).Wait());
        }
        chat.writer().Close();
        const testing::AssertionResult items = GivesItems(chat.reader(), 0, 2);
        EXPECT_TRUE(items);
        if (!items) return;
        EXPECT_FALSE(*chat.reader().Read().Wait());
        ++ended;
      }
    });
  }
  const auto goes_on = [&ended] {
    const Deadline patience = Deadline::After(kSoon);
    for (const uint64_t until = ended + 30; ended < until; std::this_thread::yield()) {
      if (patience.passed() || HasFailure()) return false;
    }
    return true;
  };
  for (int replaced = 0; replaced < 4 && !HasFailure(); ++replaced) {
    EXPECT_TRUE(goes_on());
    ServerOptions options = taking_over;
    options.wait = GetParam().wait;
    auto successor =
        ServerBuilder().SetOptions(options).AddService(&successors_feed).Listen(endpoint_).Start();
    EXPECT_THAT(successor, IsOk());
    if (!successor.ok()) break;
    EXPECT_TRUE(goes_on());
    EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
    server_ = *std::move(successor);
  }
  EXPECT_TRUE(goes_on());
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(ran, ended) << "each has run once";
  channel_ = nullptr;
  server_ = nullptr;
}

}  // namespace
}  // namespace mi7::conformance
