// Channels in coroutines. A coroutine that is called runs on this thread until it has to wait, so
// what waits, and in which order, is known here.

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
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

Deadline Late() { return Deadline::After(absl::Seconds(60)); }

class CoroutineTest : public testing::Test {
 protected:
  // Receives one value and tells who got which.
  static DetachedTask ReceiveOne(EventLoop* loop, Receiver<int> in, int name, Sender<int> told) {
    auto value = co_await in.ReceiveOn(loop);
    EXPECT_TRUE(told.Send(value.ok() ? 10 * name + *value : -name).ok());
  }
  static DetachedTask SendOne(EventLoop* loop, Sender<int> out, int value, Sender<int> told) {
    const absl::Status status = co_await out.SendOn(loop, int{value});
    EXPECT_TRUE(told.Send(status.ok() ? value : -value).ok());
  }
  // Runs `work` on the loop's thread and waits for it.
  void OnLoop(absl::AnyInvocable<void()> work) {
    auto [done, wait] = Bounded<int>(1);
    loop_->Post([&work, &done = done] {
      work();
      EXPECT_TRUE(done.Send(0).ok());
    });
    ASSERT_TRUE(wait.Receive(Late()).ok());
  }

  std::unique_ptr<EventLoop> loop_ = EventLoop::Create({}).value();
};

TEST_F(CoroutineTest, WhatIsReadyIsDoneWithoutSuspending) {
  auto [sender, receiver] = Bounded<std::string>(1);
  bool done = false;
  [](EventLoop* loop, Sender<std::string>& out, Receiver<std::string>& in,
     bool& ended) -> DetachedTask {
    EXPECT_TRUE((co_await out.SendOn(loop, "now")).ok());
    EXPECT_EQ((co_await in.ReceiveOn(loop)).value(), "now");
    out.Close();
    EXPECT_TRUE(absl::IsCancelled((co_await in.ReceiveOn(loop)).status()));
    EXPECT_TRUE(absl::IsCancelled(co_await out.SendOn(loop, "late")));
    ended = true;
  }(loop_.get(), sender, receiver, done);
  EXPECT_TRUE(done);
}

TEST_F(CoroutineTest, ReceiversAreServedInTheOrderTheyCame) {
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  for (int name = 1; name <= 3; ++name) ReceiveOne(loop_.get(), receiver, name, told);
  for (int value = 1; value <= 3; ++value) ASSERT_TRUE(sender.Send(value).ok());
  EXPECT_EQ(tell.Receive(Late()).value(), 11);
  EXPECT_EQ(tell.Receive(Late()).value(), 22);
  EXPECT_EQ(tell.Receive(Late()).value(), 33);
}

TEST_F(CoroutineTest, SendersAreServedInTheOrderTheyCameAndNobodyOvertakes) {
  auto [sender, receiver] = Bounded<int>(1);
  auto [told, tell] = Unbounded<int>();
  ASSERT_TRUE(sender.Send(0).ok());
  for (int value = 1; value <= 3; ++value) SendOne(loop_.get(), sender, value, told);
  for (int value = 0; value <= 2; ++value) {
    ASSERT_EQ(receiver.TryReceive().value(), value);
    ASSERT_TRUE(absl::IsResourceExhausted(sender.TrySend(9))) << "the next one has sent already";
  }
  EXPECT_EQ(receiver.Receive().value(), 3);
  for (int value = 1; value <= 3; ++value) EXPECT_EQ(tell.Receive(Late()).value(), value);
}

TEST_F(CoroutineTest, ItGoesOnOnItsLoop) {
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  [](EventLoop* loop, Receiver<int> in, Sender<int> out) -> DetachedTask {
    EXPECT_FALSE(loop->InLoopThread());
    auto value = co_await in.ReceiveOn(loop);
    EXPECT_TRUE(value.ok()) << value.status();
    EXPECT_TRUE(out.Send(loop->InLoopThread() ? 1 : 0).ok());
  }(loop_.get(), receiver, told);
  ASSERT_TRUE(sender.Send(1).ok());
  EXPECT_EQ(tell.Receive(Late()).value(), 1);
}

TEST_F(CoroutineTest, DeadlinesEndWaits) {
  auto [sender, receiver] = Bounded<int>(1);
  auto [told, tell] = Unbounded<absl::Status>();
  [](EventLoop* loop, Receiver<int> in, Sender<absl::Status> out) -> DetachedTask {
    const Deadline deadline = Deadline::After(absl::Milliseconds(5));
    auto value = co_await in.ReceiveOn(loop, deadline);
    EXPECT_TRUE(deadline.passed());
    EXPECT_TRUE(out.Send(value.status()).ok());
  }(loop_.get(), receiver, told);
  EXPECT_TRUE(absl::IsDeadlineExceeded(tell.Receive(Late()).value()));
  ASSERT_TRUE(sender.Send(1).ok());
  [](EventLoop* loop, Sender<int> out, Sender<absl::Status> tell_it) -> DetachedTask {
    int value = 2;
    const Deadline deadline = Deadline::After(absl::Milliseconds(5));
    const absl::Status status = co_await out.SendOn(loop, std::move(value), deadline);
    EXPECT_TRUE(deadline.passed());
    EXPECT_TRUE(tell_it.Send(status).ok());
  }(loop_.get(), sender, told);
  EXPECT_TRUE(absl::IsDeadlineExceeded(tell.Receive(Late()).value()));
  EXPECT_EQ(receiver.Receive().value(), 1);
  EXPECT_TRUE(absl::IsUnavailable(receiver.TryReceive().status()));
}

TEST_F(CoroutineTest, CloseEndsWaits) {
  auto [sender, receiver] = Bounded<int>(1);
  auto [told, tell] = Unbounded<int>();
  ReceiveOne(loop_.get(), receiver, 1, told);
  ReceiveOne(loop_.get(), receiver, 2, told);
  sender.Close();
  EXPECT_EQ(tell.Receive(Late()).value(), -1);
  EXPECT_EQ(tell.Receive(Late()).value(), -2);

  auto [out, in] = Bounded<int>(1);
  ASSERT_TRUE(out.Send(5).ok());
  SendOne(loop_.get(), out, 6, told);
  out.Close();
  EXPECT_EQ(tell.Receive(Late()).value(), -6);
  EXPECT_EQ(in.Receive().value(), 5);
  EXPECT_TRUE(absl::IsCancelled(in.Receive().status()));
}

// A coroutine that is destroyed while it waits takes nothing with it, not even when a value is on
// its way to it.
TEST_F(CoroutineTest, ADestroyedReceiverTakesNothing) {
  auto [sender, receiver] = Unbounded<int>();
  const auto wait = [](EventLoop* loop, Receiver<int>& in) -> Owned {
    auto value = co_await in.ReceiveOn(loop);
    ADD_FAILURE() << "is gone";
  };
  OnLoop([&, &out = sender, &in = receiver] {
    Owned before = wait(loop_.get(), in);
    before.coroutine.destroy();
    EXPECT_TRUE(out.Send(1).ok());
    EXPECT_EQ(in.TryReceive().value(), 1);

    Owned after = wait(loop_.get(), in);
    EXPECT_TRUE(out.Send(2).ok());  // to the coroutine, which goes on when this task has ended
    EXPECT_TRUE(out.Send(3).ok());
    EXPECT_EQ(in.size(), 1u);
    after.coroutine.destroy();
    EXPECT_EQ(in.TryReceive().value(), 2);
    EXPECT_EQ(in.TryReceive().value(), 3);
  });
}

// A value that is on its way when its channel is closed is nobody's loss.
TEST_F(CoroutineTest, ADestroyedReceiverOfAClosedChannelTakesNothing) {
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  const auto wait = [](EventLoop* loop, Receiver<int>& in) -> Owned {
    auto value = co_await in.ReceiveOn(loop);
    ADD_FAILURE() << "is gone";
  };
  OnLoop([&, &out = sender, &in = receiver, &to = told] {
    Owned first = wait(loop_.get(), in);
    ReceiveOne(loop_.get(), in, 2, to);
    ReceiveOne(loop_.get(), in, 3, to);
    EXPECT_TRUE(out.Send(7).ok());
    out = {};  // the last one: closed
    EXPECT_TRUE(in.closed());
    EXPECT_TRUE(absl::IsUnavailable(in.TryReceive().status())) << "it may come yet";
    first.coroutine.destroy();
    EXPECT_TRUE(absl::IsUnavailable(in.TryReceive().status())) << "to another coroutine";
  });
  EXPECT_EQ(tell.Receive(Late()).value(), 27);
  EXPECT_EQ(tell.Receive(Late()).value(), -3);
  EXPECT_TRUE(absl::IsCancelled(receiver.TryReceive().status()));

  auto [other_out, other] = Unbounded<int>();
  OnLoop([&, &out = other_out, &in = other] {
    Owned only = wait(loop_.get(), in);
    EXPECT_TRUE(out.Send(8).ok());
    out.Close();
    only.coroutine.destroy();
    EXPECT_EQ(in.TryReceive().value(), 8) << "nobody waited";
    EXPECT_TRUE(absl::IsCancelled(in.TryReceive().status()));
  });
}

// Who waits behind a value that is on its way to another one hears of the end when it has arrived.
TEST_F(CoroutineTest, TheEndComesWhenTheLastValueHasArrived) {
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  OnLoop([&, &out = sender, &in = receiver, &to = told, &tells = tell] {
    ReceiveOne(loop_.get(), in, 1, to);
    ReceiveOne(loop_.get(), in, 2, to);
    EXPECT_TRUE(out.Send(7).ok());
    out.Close();
    EXPECT_TRUE(absl::IsUnavailable(tells.TryReceive().status()));
  });
  EXPECT_EQ(tell.Receive(Late()).value(), 17);
  EXPECT_EQ(tell.Receive(Late()).value(), -2);
}

TEST_F(CoroutineTest, WhatSeveralDestroyedReceiversHadKeepsItsOrder) {
  auto [sender, receiver] = Unbounded<int>();
  const auto wait = [](EventLoop* loop, Receiver<int>& in) -> Owned {
    auto value = co_await in.ReceiveOn(loop);
    ADD_FAILURE() << "is gone";
  };
  OnLoop([&, &out = sender, &in = receiver] {
    std::vector<int> order{0, 1, 2};  // in which they are destroyed
    do {
      Owned waiting[] = {wait(loop_.get(), in), wait(loop_.get(), in), wait(loop_.get(), in)};
      for (int value = 0; value < 5; ++value) EXPECT_TRUE(out.Send(value).ok());
      for (const int one : order) waiting[one].coroutine.destroy();
      for (int value = 0; value < 5; ++value) EXPECT_EQ(in.TryReceive().value(), value);
    } while (std::next_permutation(order.begin(), order.end()));
    // One that was put back is received before the next is.
    Owned first = wait(loop_.get(), in);
    Owned second = wait(loop_.get(), in);
    for (int value = 0; value < 3; ++value) EXPECT_TRUE(out.Send(value).ok());
    first.coroutine.destroy();
    EXPECT_EQ(in.TryReceive().value(), 0);
    second.coroutine.destroy();
    EXPECT_EQ(in.TryReceive().value(), 1);
    EXPECT_EQ(in.TryReceive().value(), 2);
    // And one that goes to somebody else who waits, and comes back from there.
    first = wait(loop_.get(), in);
    second = wait(loop_.get(), in);
    Owned third = wait(loop_.get(), in);
    for (int value = 0; value < 2; ++value) EXPECT_TRUE(out.Send(value).ok());
    first.coroutine.destroy();
    EXPECT_EQ(in.size(), 0u) << "it was given to the third";
    second.coroutine.destroy();
    third.coroutine.destroy();
    EXPECT_EQ(in.TryReceive().value(), 0);
    EXPECT_EQ(in.TryReceive().value(), 1);
  });
}

TEST_F(CoroutineTest, ADestroyedSenderHasNotSent) {
  auto [sender, receiver] = Bounded<int>(1);
  OnLoop([&, &out = sender, &in = receiver] {
    EXPECT_TRUE(out.Send(1).ok());
    Owned wait = [](EventLoop* loop, Sender<int>& to) -> Owned {
      static_cast<void>(co_await to.SendOn(loop, 2));
      ADD_FAILURE() << "is gone";
    }(loop_.get(), out);
    wait.coroutine.destroy();
    EXPECT_EQ(in.TryReceive().value(), 1);
    EXPECT_TRUE(absl::IsUnavailable(in.TryReceive().status()));
  });
}

}  // namespace
}  // namespace mi7::channels
