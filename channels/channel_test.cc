#include "channels/channel.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/sleep_watch_testing.h"
#include "gtest/gtest.h"

namespace mi7::channels {
namespace {

using absl::StatusCode;

bool Is(const absl::Status& status, StatusCode code, absl::string_view text) {
  return status.code() == code && absl::StrContains(status.message(), text);
}

Deadline Soon() { return Deadline::After(absl::Milliseconds(5)); }
Deadline Late() { return Deadline::After(absl::Seconds(60)); }

TEST(ChannelTest, ValuesAreReceivedInTheOrderTheyWereSent) {
  auto [sender, receiver] = Unbounded<int>();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(sender.Send(i).ok());
  EXPECT_EQ(receiver.size(), 1000u);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(receiver.Receive().value(), i);
}

TEST(ChannelTest, FullEmptyLateAndClosedAreToldApart) {
  auto [sender, receiver] = Bounded<int>(2);
  EXPECT_TRUE(Is(receiver.TryReceive().status(), StatusCode::kUnavailable, "empty"));
  EXPECT_TRUE(Is(receiver.Receive(Soon()).status(), StatusCode::kDeadlineExceeded, "empty until"));
  ASSERT_TRUE(sender.TrySend(1).ok());
  ASSERT_TRUE(sender.Send(2, Soon()).ok());
  EXPECT_TRUE(Is(sender.TrySend(3), StatusCode::kResourceExhausted, "full"));
  EXPECT_TRUE(Is(sender.Send(3, Soon()), StatusCode::kDeadlineExceeded, "full until"));
  sender.Close();
  EXPECT_TRUE(Is(sender.TrySend(3), StatusCode::kCancelled, "closed"));
  EXPECT_TRUE(Is(sender.Send(3), StatusCode::kCancelled, "closed"));
  EXPECT_EQ(receiver.Receive().value(), 1);
  EXPECT_EQ(receiver.TryReceive().value(), 2);
  EXPECT_TRUE(Is(receiver.TryReceive().status(), StatusCode::kCancelled, "everything was"));
  EXPECT_TRUE(Is(receiver.Receive().status(), StatusCode::kCancelled, "everything was"));
}

TEST(ChannelTest, AValueThatIsNotSentIsKept) {
  auto [sender, receiver] = Bounded<std::unique_ptr<int>>(1);
  ASSERT_TRUE(sender.Send(std::make_unique<int>(1)).ok());
  auto value = std::make_unique<int>(2);
  EXPECT_FALSE(sender.TrySend(std::move(value)).ok());
  ASSERT_NE(value, nullptr);
  EXPECT_FALSE(sender.Send(std::move(value), Soon()).ok());
  ASSERT_NE(value, nullptr);
  EXPECT_EQ(*receiver.Receive().value(), 1);
  EXPECT_TRUE(sender.Send(std::move(value)).ok());
  EXPECT_EQ(value, nullptr);
  EXPECT_EQ(*receiver.Receive().value(), 2);
}

TEST(ChannelTest, TheLastSenderClosesTheChannel) {
  auto [sender, receiver] = Unbounded<std::string>();
  Sender<std::string> second = sender;
  ASSERT_TRUE(sender.Send("a").ok());
  sender = {};
  EXPECT_FALSE(sender);
  EXPECT_FALSE(receiver.closed());
  ASSERT_TRUE(second.Send("b").ok());
  { Sender<std::string> third = std::move(second); }
  EXPECT_TRUE(receiver.closed());
  EXPECT_EQ(receiver.Receive().value(), "a");
  EXPECT_EQ(receiver.Receive().value(), "b");
  EXPECT_TRUE(absl::IsCancelled(receiver.Receive().status()));
}

TEST(ChannelTest, TheLastReceiverClosesTheChannelAndDropsWhatIsUnread) {
  auto [sender, receiver] = Bounded<std::shared_ptr<int>>(4);
  auto value = std::make_shared<int>(1);
  ASSERT_TRUE(sender.Send(value).ok());
  Receiver<std::shared_ptr<int>> second = receiver;
  receiver = {};
  ASSERT_TRUE(sender.Send(value).ok());
  EXPECT_EQ(value.use_count(), 3);
  second = {};
  EXPECT_EQ(value.use_count(), 1);
  EXPECT_TRUE(Is(sender.Send(value), StatusCode::kCancelled, "nobody receives"));
}

TEST(ChannelTest, AWaitingReceiverIsServedBySendAndEndedByClose) {
  auto [sender, receiver] = Unbounded<int>();
  SleepWatch watch;
  std::thread thread([&watch, in = receiver] {
    watch.AboutToSleep();
    EXPECT_EQ(in.Receive(Late()).value(), 7);
    watch.AboutToSleep();
    EXPECT_TRUE(absl::IsCancelled(in.Receive(Late()).status()));
  });
  EXPECT_TRUE(watch.Await());
  EXPECT_TRUE(sender.Send(7).ok());
  EXPECT_TRUE(watch.Await());
  sender.Close();
  thread.join();
}

TEST(ChannelTest, AWaitingSenderIsServedByReceiveAndEndedByClose) {
  auto [sender, receiver] = Bounded<int>(1);
  ASSERT_TRUE(sender.Send(0).ok());
  SleepWatch watch;
  std::thread thread([&watch, out = sender] {
    watch.AboutToSleep();
    EXPECT_TRUE(out.Send(1, Late()).ok());
    watch.AboutToSleep();
    EXPECT_TRUE(absl::IsCancelled(out.Send(2, Late())));
  });
  EXPECT_TRUE(watch.Await());
  EXPECT_EQ(receiver.Receive(Late()).value(), 0);
  EXPECT_TRUE(watch.Await());
  receiver.Close();
  thread.join();
  EXPECT_EQ(receiver.Receive(Late()).value(), 1);
  EXPECT_TRUE(absl::IsCancelled(receiver.TryReceive().status()));
}

TEST(ChannelTest, ABoundedChannelHoldsItsSendersBack) {
  constexpr int kValues = 20'000;
  auto [sender, receiver] = Bounded<int>(8);
  EXPECT_EQ(receiver.capacity(), 8u);
  std::atomic<int> sent{0};
  std::thread producer([&sent, out = std::move(sender)] {
    for (int i = 0; i < kValues; ++i) {
      ASSERT_TRUE(out.Send(i, Late()).ok());
      sent.store(i + 1, std::memory_order_relaxed);
    }
  });
  int received = 0;
  int ahead_max = 0;
  for (const int value : receiver.Values(Late())) {
    ASSERT_EQ(value, received);
    ++received;
    ahead_max = std::max(ahead_max, sent.load(std::memory_order_relaxed) - received);
    ASSERT_LE(receiver.size(), 8u);
  }
  producer.join();
  EXPECT_EQ(received, kValues);
  EXPECT_LE(ahead_max, 8);
}

TEST(ChannelTest, ARangeEndsWithItsReason) {
  auto [sender, receiver] = Unbounded<int>();
  for (int i = 1; i <= 3; ++i) ASSERT_TRUE(sender.Send(i).ok());
  int sum = 0;
  auto first = receiver.Values(Soon());
  for (int& value : first) sum += value;
  EXPECT_EQ(sum, 6);
  EXPECT_TRUE(absl::IsDeadlineExceeded(first.status())) << first.status();
  ASSERT_TRUE(sender.Send(4).ok());
  sender.Close();
  auto second = receiver.Values();
  for (int& value : second) sum += value;
  EXPECT_EQ(sum, 10);
  EXPECT_TRUE(absl::IsCancelled(second.status())) << second.status();
}

TEST(ChannelTest, ManySendersAndReceiversShareAChannel) {
  constexpr int kThreads = 4;
  constexpr int kEach = 5000;
  for (const size_t capacity : {size_t{1}, size_t{16}, std::numeric_limits<size_t>::max()}) {
    auto [sender, receiver] = Bounded<int>(capacity);
    std::vector<std::atomic<int>> seen(kThreads * kEach);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([thread, out = sender] {
        for (int i = 0; i < kEach; ++i) ASSERT_TRUE(out.Send(thread * kEach + i, Late()).ok());
      });
      threads.emplace_back([&seen, in = receiver] {
        // Those of one sender come in their order, whoever receives them.
        std::vector<int> last(kThreads, -1);
        for (const int value : in.Values(Late())) {
          ASSERT_GT(value, last[static_cast<size_t>(value / kEach)]);
          last[static_cast<size_t>(value / kEach)] = value;
          ++seen[static_cast<size_t>(value)];
        }
      });
    }
    sender = {};
    for (std::thread& thread : threads) thread.join();
    for (const auto& count : seen) ASSERT_EQ(count, 1);
    EXPECT_TRUE(absl::IsCancelled(receiver.TryReceive().status()));
  }
}

}  // namespace
}  // namespace mi7::channels
