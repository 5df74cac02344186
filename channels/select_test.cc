#include "channels/select.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/detached_task.h"
#include "channels/channel.h"
#include "channels/owned_coroutine_testing.h"
#include "gtest/gtest.h"
#include "transport/event_loop.h"

namespace mi7::channels {
namespace {

using transport::EventLoop;

Deadline Soon() { return Deadline::After(absl::Milliseconds(5)); }
Deadline Late() { return Deadline::After(absl::Seconds(60)); }
void Unexpected() { ADD_FAILURE() << "this was not to be done"; }
// Sends -1 when the channel is closed and at its end.
DetachedTask TellTheEnd(EventLoop* loop, Receiver<int>& of, Sender<int>& to) {
  EXPECT_TRUE(
      (co_await SelectOn(loop, OnClosed(of, [&to] { EXPECT_TRUE(to.Send(-1).ok()); }))).ok());
}

TEST(SelectTest, DoesOneOfTheThingsThatCanBeDone) {
  auto [numbers, number] = Unbounded<int>();
  auto [words, word] = Unbounded<std::string>();
  std::string got;
  const auto take = [&got](auto value) { got = testing::PrintToString(value); };
  EXPECT_TRUE(absl::IsUnavailable(TrySelect(OnReceive(number, take), OnReceive(word, take))));
  ASSERT_TRUE(words.Send("w").ok());
  ASSERT_TRUE(Select(OnReceive(number, take), OnReceive(word, take)).ok());
  EXPECT_EQ(got, "\"w\"");
  ASSERT_TRUE(numbers.Send(7).ok());
  ASSERT_TRUE(TrySelect(OnReceive(number, take), OnReceive(word, take)).ok());
  EXPECT_EQ(got, "7");
  EXPECT_TRUE(absl::IsUnavailable(TrySelect(OnReceive(number, take), OnReceive(word, take))));
}

TEST(SelectTest, SendsWhenThereIsRoomAndKeepsTheValueOtherwise) {
  auto [sender, receiver] = Bounded<std::unique_ptr<int>>(1);
  auto value = std::make_unique<int>(1);
  ASSERT_TRUE(TrySelect(OnSend(sender, std::move(value), [] {})).ok());
  EXPECT_EQ(value, nullptr);
  value = std::make_unique<int>(2);
  EXPECT_TRUE(absl::IsUnavailable(TrySelect(OnSend(sender, std::move(value), &Unexpected))));
  ASSERT_NE(value, nullptr);
  bool late = false;
  EXPECT_TRUE(Select(OnSend(sender, std::move(value), &Unexpected),
                     OnDeadline(Soon(), [&late] { late = true; }))
                  .ok());
  EXPECT_TRUE(late);
  EXPECT_NE(value, nullptr);
  EXPECT_EQ(*receiver.Receive().value(), 1);
}

TEST(SelectTest, GoesOnUntilEverythingIsClosed) {
  auto [numbers, number] = Unbounded<int>();
  auto [words, word] = Unbounded<std::string>();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(numbers.Send(i).ok());
  numbers.Close();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(words.Send("w").ok());
  words.Close();
  int received = 0;
  absl::Status status;
  const auto count = [&received](auto&&) { ++received; };
  while ((status = Select(OnReceive(number, count), OnReceive(word, count),
                          OnDeadline(Late(), &Unexpected)))
             .ok()) {
  }
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(received, 15);
  EXPECT_TRUE(absl::IsCancelled(Select(OnReceive(Receiver<int>(), count)))) << "as closed";
  EXPECT_TRUE(absl::IsCancelled(SelectAmong({})));
}

TEST(SelectTest, NeitherOfTwoBusyChannelsWaitsForEver) {
  auto [numbers, number] = Unbounded<int>();
  auto [others, other] = Unbounded<int>();
  constexpr int kRounds = 1000;
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(numbers.Send(i).ok());
    ASSERT_TRUE(others.Send(i).ok());
  }
  int first = 0;
  int second = 0;
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(Select(OnReceive(number, [&first](int) { ++first; }),
                       OnReceive(other, [&second](int) { ++second; }))
                    .ok());
  }
  // Of 1000 throws of a coin, both sides come up 350 times, but for one run in 10^20.
  EXPECT_GT(first, 350);
  EXPECT_GT(second, 350);
}

TEST(SelectTest, ATimerComesWhenNothingElseDoes) {
  auto [sender, receiver] = Unbounded<int>();
  const Deadline early = Deadline::After(absl::Milliseconds(3));
  int which = 0;
  const auto late = [&which] { which = 2; };
  ASSERT_TRUE(Select(OnReceive(receiver, [](int) { Unexpected(); }), OnDeadline(Late(), late),
                     OnDeadline(early, [&which] { which = 1; }))
                  .ok());
  EXPECT_EQ(which, 1);
  EXPECT_TRUE(early.passed());
}

TEST(SelectTest, AClosedChannelTellsManyToStop) {
  auto [stop, stopped] = Unbounded<int>();
  auto [sender, receiver] = Unbounded<int>();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([in = receiver, stop_it = stopped] {
      bool go_on = true;
      while (go_on) {
        ASSERT_TRUE(
            Select(OnReceive(in, [](int) {}), OnClosed(stop_it, [&go_on] { go_on = false; })).ok());
      }
    });
  }
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(sender.Send(i).ok());
  stop.Close();
  for (std::thread& thread : threads) thread.join();
}

TEST(SelectTest, ClosedMeansThatEverythingWasReceivedToo) {
  auto [sender, receiver] = Unbounded<int>();
  ASSERT_TRUE(sender.Send(1).ok());
  sender.Close();
  EXPECT_TRUE(absl::IsUnavailable(TrySelect(OnClosed(receiver, &Unexpected))));
  std::thread thread([in = receiver] {
    bool closed = false;
    EXPECT_TRUE(Select(OnClosed(in, [&closed] { closed = true; })).ok());
    EXPECT_TRUE(closed);
  });
  EXPECT_EQ(receiver.Receive().value(), 1);
  thread.join();
}

TEST(SelectTest, CasesCanBeMadeOnceAndTheirNumberFoundAtRunTime) {
  constexpr size_t kChannels = 40;
  std::vector<Sender<size_t>> senders;
  std::vector<Receiver<size_t>> receivers;
  size_t sum = 0;
  const auto add = [&sum](size_t value) { sum += value; };
  using AddCase = decltype(OnReceive(receivers[0], add));
  std::vector<std::unique_ptr<AddCase>> cases;
  std::vector<Case*> all;
  for (size_t i = 0; i < kChannels; ++i) {
    auto [sender, receiver] = Bounded<size_t>(1);
    senders.push_back(sender);
    receivers.push_back(receiver);
    cases.push_back(std::unique_ptr<AddCase>(new AddCase(OnReceive(receivers[i], add))));
    all.push_back(cases.back().get());
  }
  for (size_t round = 0; round < 3; ++round) {
    for (size_t i = 0; i < kChannels; ++i) ASSERT_TRUE(senders[i].Send(i).ok());
    for (size_t i = 0; i < kChannels; ++i) ASSERT_TRUE(SelectAmong(all).ok());
  }
  EXPECT_TRUE(absl::IsUnavailable(TrySelectAmong(all)));
  EXPECT_EQ(sum, 3 * kChannels * (kChannels - 1) / 2);
}

TEST(SelectTest, AnExceptionOfAHandlerPassesThrough) {
  auto [sender, receiver] = Unbounded<int>();
  ASSERT_TRUE(sender.Send(1).ok());
  const auto select = [&in = receiver] {
    return Select(OnReceive(in, [](int value) { throw value; }));
  };
  EXPECT_THROW(select().IgnoreError(), int);
}

// --- Coroutines

class SelectOnTest : public testing::Test {
 protected:
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create({}).value();
};

TEST_F(SelectOnTest, WaitsForChannelsAndTimersUntilAllIsClosed) {
  auto [numbers, number] = Bounded<int>(1);
  auto [words, word] = Bounded<std::string>(1);
  auto [told, tell] = Unbounded<std::string>();
  [](EventLoop* loop, Receiver<int> in, Receiver<std::string> text,
     Sender<std::string> out) -> DetachedTask {
    bool late = false;
    absl::Status status;
    do {
      status = co_await SelectOn(
          loop,
          OnReceive(in, [&out](int value) { EXPECT_TRUE(out.Send(std::to_string(value)).ok()); }),
          OnReceive(text, [&out](std::string value) { EXPECT_TRUE(out.Send(value).ok()); }),
          OnDeadline(late ? Late() : Soon(), [&out, &late] {
            late = true;
            EXPECT_TRUE(out.Send("late").ok());
          }));
    } while (status.ok());
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
    EXPECT_TRUE(loop->InLoopThread());
  }(loop_.get(), number, word, told);
  told = {};  // the coroutine has one
  EXPECT_EQ(tell.Receive(Late()).value(), "late");
  ASSERT_TRUE(numbers.Send(1).ok());
  EXPECT_EQ(tell.Receive(Late()).value(), "1");
  ASSERT_TRUE(words.Send("two").ok());
  EXPECT_EQ(tell.Receive(Late()).value(), "two");
  numbers = {};
  ASSERT_TRUE(words.Send("three").ok());
  EXPECT_EQ(tell.Receive(Late()).value(), "three");
  words = {};
  EXPECT_TRUE(absl::IsCancelled(tell.Receive(Late()).status())) << "the coroutine has ended";
}

TEST_F(SelectOnTest, SendsWhenThereIsRoomOrIsToldToStop) {
  auto [sender, receiver] = Bounded<int>(1);
  auto [stop, stopped] = Unbounded<int>();
  auto [told, tell] = Unbounded<std::string>();
  ASSERT_TRUE(sender.Send(1).ok());
  [](EventLoop* loop, Sender<int> out, Receiver<int> stop_it,
     Sender<std::string> to) -> DetachedTask {
    bool go_on = true;
    for (int value = 2; go_on; ++value) {
      const absl::Status status = co_await SelectOn(
          loop, OnSend(out, int{value}, [&to] { EXPECT_TRUE(to.Send("sent").ok()); }),
          OnClosed(stop_it, [&to, &go_on] {
            go_on = false;
            EXPECT_TRUE(to.Send("stopped").ok());
          }));
      EXPECT_TRUE(status.ok()) << status;
    }
  }(loop_.get(), sender, stopped, told);
  EXPECT_EQ(receiver.Receive(Late()).value(), 1);
  EXPECT_EQ(tell.Receive(Late()).value(), "sent");
  stop.Close();
  EXPECT_EQ(tell.Receive(Late()).value(), "stopped");
  EXPECT_EQ(receiver.Receive(Late()).value(), 2);
  EXPECT_TRUE(absl::IsUnavailable(receiver.TryReceive().status()));
}

TEST_F(SelectOnTest, ADestroyedOneTakesNothing) {
  auto [first_out, first] = Unbounded<int>();
  auto [second_out, second] = Unbounded<int>();
  auto [done, wait] = Unbounded<int>();
  loop_->Post([&, &to = second_out, &in1 = first, &in2 = second, &end = done] {
    Owned owned = [](EventLoop* loop, Receiver<int>& a, Receiver<int>& b) -> Owned {
      static_cast<void>(co_await SelectOn(loop, OnReceive(a, [](int) { Unexpected(); }),
                                          OnReceive(b, [](int) { Unexpected(); })));
      Unexpected();
    }(loop_.get(), in1, in2);
    EXPECT_TRUE(to.Send(1).ok());  // to the coroutine, which goes on when this task has ended
    EXPECT_EQ(in2.size(), 0u);
    owned.coroutine.destroy();
    EXPECT_EQ(in2.TryReceive().value(), 1);
    EXPECT_TRUE(absl::IsUnavailable(in1.TryReceive().status()));
    EXPECT_TRUE(end.Send(1).ok());
  });
  ASSERT_TRUE(wait.Receive(Late()).ok());
}

TEST_F(SelectOnTest, AChannelThatIsClosedIsAtItsEndWhenItsLastValueHasArrived) {
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  // Posted: when it has returned, the coroutines that it has begun go on.
  loop_->Post([&, &out = sender, &in = receiver, &to = told] {
    TellTheEnd(loop_.get(), in, to);
    [](EventLoop* loop, Receiver<int>& from, Sender<int>& tells) -> DetachedTask {
      co_await SelectOn(
          loop, OnReceive(from, [&tells](int value) { EXPECT_TRUE(tells.Send(value).ok()); }));
    }(loop_.get(), in, to);
    EXPECT_TRUE(out.Send(7).ok());
    out.Close();
    EXPECT_TRUE(absl::IsUnavailable(
        TrySelect(OnClosed(in, Unexpected), OnReceive(in, [](int) { Unexpected(); }))));
  });
  EXPECT_EQ(tell.Receive(Late()).value(), 7);
  EXPECT_EQ(tell.Receive(Late()).value(), -1);
}

TEST_F(SelectOnTest, ADestroyedOneOfAClosedChannelTakesNothing) {
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  loop_->Post([&, &out = sender, &in = receiver, &to = told] {
    TellTheEnd(loop_.get(), in, to);
    Owned owned = [](EventLoop* loop, Receiver<int>& from) -> Owned {
      co_await SelectOn(loop, OnReceive(from, [](int) { Unexpected(); }));
    }(loop_.get(), in);
    EXPECT_TRUE(out.Send(7).ok());
    out.Close();
    owned.coroutine.destroy();
    EXPECT_TRUE(absl::IsUnavailable(TrySelect(OnClosed(in, Unexpected))));
    EXPECT_EQ(in.TryReceive().value(), 7);
  });
  EXPECT_EQ(tell.Receive(Late()).value(), -1);
  EXPECT_TRUE(absl::IsCancelled(receiver.TryReceive().status()));
}

TEST_F(SelectOnTest, WhatDestroyedOnesHadKeepsItsOrder) {
  auto [sender, receiver] = Unbounded<int>();
  auto [done, wait] = Unbounded<int>();
  loop_->Post([&, &out = sender, &in = receiver, &end = done] {
    for (const int first : {0, 1}) {
      const auto select = [](EventLoop* loop, Receiver<int>& from) -> Owned {
        static_cast<void>(co_await SelectOn(loop, OnReceive(from, [](int) { Unexpected(); })));
        Unexpected();
      };
      Owned waiting[] = {select(loop_.get(), in), select(loop_.get(), in)};
      for (int value = 0; value < 3; ++value) EXPECT_TRUE(out.Send(value).ok());
      waiting[first].coroutine.destroy();
      waiting[1 - first].coroutine.destroy();
      for (int value = 0; value < 3; ++value) EXPECT_EQ(in.TryReceive().value(), value);
    }
    EXPECT_TRUE(end.Send(1).ok());
  });
  ASSERT_TRUE(wait.Receive(Late()).ok());
}

}  // namespace
}  // namespace mi7::channels
