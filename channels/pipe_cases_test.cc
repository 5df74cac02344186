#include "channels/pipe_cases.h"

#include <sys/resource.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/detached_task.h"
#include "base/sleep_watch_testing.h"
#include "channels/channel.h"
#include "channels/owned_coroutine_testing.h"
#include "channels/select.h"
#include "gtest/gtest.h"
#include "transport/event_loop.h"
#include "transport/local/testing.h"
#include "transport/refuse_system_call.h"
#include "transport/slot_pipe/async_slot_pipe.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7::channels {
namespace {

using slot_pipe_internal::TestDirectory;
using transport::EventLoop;

Deadline Late() { return Deadline::After(absl::Seconds(60)); }
void Unexpected() { ADD_FAILURE() << "this was not to be done"; }

class PipeCasesTest : public testing::Test {
 protected:
  static std::unique_ptr<SlotPipe> Create(const char* name) {
    return SlotPipe::Create(name, {.slots = 4, .slot_bytes = 64}).value();
  }

  TestDirectory directory_;
  std::unique_ptr<SlotPipe> pipe_ = Create("one");
  std::unique_ptr<SlotPipe> other_ = SlotPipe::Connect("one").value();
  std::unique_ptr<SlotPipe> second_ = Create("two");
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create({}).value();
};

TEST_F(PipeCasesTest, AThreadTakesWhatIsThere) {
  auto [sender, receiver] = Unbounded<int>();
  std::string got;
  const auto select = [&, &in = receiver](bool wait) {
    const auto take = [&got](ReadSlot message) {
      got = std::string(message.text());
      EXPECT_TRUE(message.Release().ok());
    };
    const auto number = [&got](int value) { got = std::to_string(value); };
    return wait ? Select(OnFetch(*pipe_, take), OnFetch(*second_, take), OnReceive(in, number))
                : TrySelect(OnFetch(*pipe_, take), OnFetch(*second_, take), OnReceive(in, number));
  };
  EXPECT_TRUE(absl::IsUnavailable(select(false)));
  ASSERT_TRUE(other_->SendBytes("first").ok());
  ASSERT_TRUE(select(true).ok());
  EXPECT_EQ(got, "first");
  ASSERT_TRUE(second_->SendBytes("second").ok());
  ASSERT_TRUE(select(false).ok());
  EXPECT_EQ(got, "second");
  ASSERT_TRUE(sender.Send(3).ok());
  ASSERT_TRUE(select(true).ok());
  EXPECT_EQ(got, "3");
}

// Each message is sent when the one before has arrived, so that the thread waits, polling or
// asleep, for each of them.
TEST_F(PipeCasesTest, AThreadIsWokenByPipesAndChannels) {
  constexpr int kRounds = 300;
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  std::thread thread([&, in = std::move(receiver), out = std::move(told)] {
    int messages = 0;
    int values = 0;
    absl::Status status;
    const auto release = [&](ReadSlot message) {
      ++messages;
      EXPECT_TRUE(message.Release().ok());
      EXPECT_TRUE(out.Send(0).ok());
    };
    while (values < kRounds || messages < 2 * kRounds) {
      status = Select(OnFetch(*pipe_, release), OnFetch(*second_, release),
                      OnReceive(in,
                                [&](int) {
                                  ++values;
                                  EXPECT_TRUE(out.Send(0).ok());
                                }),
                      OnDeadline(Late(), &Unexpected));
      ASSERT_TRUE(status.ok()) << status;
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(other_->SendBytes("x").ok());
    ASSERT_TRUE(tell.Receive(Late()).ok());
    ASSERT_TRUE(sender.Send(i).ok());
    ASSERT_TRUE(tell.Receive(Late()).ok());
    ASSERT_TRUE(second_->SendBytes("y").ok());
    ASSERT_TRUE(tell.Receive(Late()).ok());
  }
  thread.join();
}

// What would come after 40 ms otherwise, when the thread looks for itself.
TEST_F(PipeCasesTest, EachMessageWakesAThreadThatSleeps) {
  constexpr int kRounds = 500;
  const Deadline deadline = Deadline::After(absl::Seconds(10));
  SleepWatch watch;
  std::thread thread([&] {
    bool late = false;
    for (int i = 0; i < kRounds && !late; ++i) {
      watch.AboutToSleep();
      const absl::Status status =
          Select(OnFetch(*pipe_, [](ReadSlot m) { EXPECT_TRUE(m.Release().ok()); }),
                 OnFetch(*second_, [](ReadSlot m) { EXPECT_TRUE(m.Release().ok()); }),
                 OnDeadline(deadline, [&] { late = true; }));
      EXPECT_TRUE(status.ok()) << status;
    }
    EXPECT_FALSE(late);
  });
  for (int i = 0; i < kRounds && !deadline.passed(); ++i) {
    EXPECT_TRUE(watch.Await());
    EXPECT_TRUE((i % 2 == 0 ? other_ : second_)->SendBytes("x").ok());
  }
  thread.join();
}

TEST_F(PipeCasesTest, EachMessageWakesACoroutineThatSelects) {
  constexpr int kRounds = 500;
  const Deadline deadline = Deadline::After(absl::Seconds(10));
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  auto [told, tell] = Unbounded<int>();
  [](EventLoop* loop, AsyncSlotPipe& from, SlotPipe& to, Sender<int>) -> DetachedTask {
    absl::Status status;
    while (status.ok()) {
      status = co_await SelectOn(loop, OnFetch(from, [&to](ReadSlot message) {
                                   EXPECT_TRUE(message.Release().ok());
                                   EXPECT_TRUE(to.TrySendBytes("back").ok());
                                 }));
    }
  }(loop_.get(), async, *second_, std::move(told));
  for (int i = 0; i < kRounds; ++i) {
    EXPECT_TRUE(AwaitOthersAsleep());
    EXPECT_TRUE(other_->SendBytes("to").ok());
    auto message = second_->Fetch(deadline);
    EXPECT_TRUE(message.ok()) << "in round " << i << ": " << message.status();
    if (!message.ok() || !message->Release().ok()) break;
  }
  pipe_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(tell.Receive(Late()).status())) << "the coroutine has ended";
}

TEST_F(PipeCasesTest, AThreadWaitsForAnEmptySlotAndForATimer) {
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pipe_->SendBytes("x").ok());
  const Deadline soon = Deadline::After(absl::Milliseconds(5));
  bool late = false;
  ASSERT_TRUE(Select(OnHold(*pipe_, [](WriteSlot) { Unexpected(); }),
                     OnDeadline(soon, [&late] { late = true; }))
                  .ok());
  EXPECT_TRUE(late && soon.passed());
  std::thread consumer([&] { EXPECT_TRUE(other_->Fetch()->Release().ok()); });
  ASSERT_TRUE(Select(OnHold(*pipe_, [](WriteSlot slot) { EXPECT_TRUE(slot.SendBytes("y").ok()); }),
                     OnDeadline(Late(), &Unexpected))
                  .ok());
  consumer.join();
  EXPECT_EQ(pipe_->Status().ready, 4u);
}

TEST_F(PipeCasesTest, AThreadSleepsAlsoWhereItCannotWaitForSeveralWords) {
  constexpr uint32_t kFutexWaitv = 449;
  constexpr int kNoFilter = 77;
  for (const int error : {ENOSYS, EPERM}) {
    const int status = transport::testing::WaitFor(transport::testing::Fork([&] {
      if (!transport::testing::RefuseSystemCall(kFutexWaitv, static_cast<uint32_t>(error))) {
        return kNoFilter;
      }
      auto own = SlotPipe::Connect("one");  // a child does not have what its parent has mapped
      // A thread that spins loses its CPU to others, too, but does not give it up.
      const auto sleeps = [] {
        rusage usage{};
        ::getrusage(RUSAGE_THREAD, &usage);
        return usage.ru_nvcsw;
      };
      const int64_t before = sleeps();
      const bool timed =
          own.ok() && Select(OnFetch(**own, [](ReadSlot) { Unexpected(); }),
                             OnDeadline(Deadline::After(absl::Milliseconds(100)), [] {}))
                          .ok();
      return timed && sleeps() - before >= 5 ? 0 : 1;
    }));
    if (status == kNoFilter) {
      std::fprintf(stderr, "NOTICE: test not run, this machine permits no filters\n");
      GTEST_SKIP();
    }
    EXPECT_EQ(status, 0) << "with error " << error;
  }
}

TEST_F(PipeCasesTest, ACancelledPipeIsAsAClosedChannel) {
  std::thread thread([&] { pipe_->Cancel(); });
  const absl::Status status = Select(OnFetch(*pipe_, [](ReadSlot) { Unexpected(); }));
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  thread.join();
  ASSERT_TRUE(second_->SendBytes("x").ok());
  EXPECT_TRUE(Select(OnFetch(*pipe_, [](ReadSlot) { Unexpected(); }),
                     OnFetch(*second_, [](ReadSlot m) { EXPECT_TRUE(m.Release().ok()); }))
                  .ok());
}

TEST_F(PipeCasesTest, AnErrorOfAPipeIsTheSelects) {
  auto checked =
      SlotPipe::Create("checked", {.slots = 4, .slot_bytes = 64, .checksum = true}).value();
  auto slot = checked->Hold();
  std::byte* const stray = slot->data();
  ASSERT_TRUE(slot->SendBytes("precious").ok());
  stray[0] ^= std::byte{1};
  const absl::Status status = Select(OnFetch(*checked, [](ReadSlot) { Unexpected(); }),
                                     OnFetch(*pipe_, [](ReadSlot) { Unexpected(); }));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST_F(PipeCasesTest, ACoroutineWaitsForPipesChannelsAndTimers) {
  constexpr int kRounds = 200;
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  AsyncSlotPipe second(second_.get(), loop_.get());
  auto [sender, receiver] = Unbounded<int>();
  auto [told, tell] = Unbounded<int>();
  [](EventLoop* loop, AsyncSlotPipe& one, AsyncSlotPipe& two, Receiver<int> in,
     Sender<int> out) -> DetachedTask {
    absl::Status status;
    const auto release = [&out](ReadSlot message) {
      EXPECT_EQ(message.attempt(), 1u);
      EXPECT_TRUE(message.Release().ok());
      EXPECT_TRUE(out.Send(0).ok());
    };
    do {
      status = co_await SelectOn(loop, OnFetch(one, release), OnFetch(two, release),
                                 OnReceive(in, [&out](int) { EXPECT_TRUE(out.Send(0).ok()); }),
                                 OnDeadline(Late(), &Unexpected));
    } while (status.ok());
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
  }(loop_.get(), async, second, std::move(receiver), std::move(told));
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(other_->SendBytes("x").ok());
    ASSERT_TRUE(tell.Receive(Late()).ok());
    ASSERT_TRUE(sender.Send(i).ok());
    ASSERT_TRUE(tell.Receive(Late()).ok());
    ASSERT_TRUE(second_->SendBytes("y").ok());
    ASSERT_TRUE(tell.Receive(Late()).ok());
  }
  sender = {};
  second_->Cancel();
  pipe_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(tell.Receive(Late()).status())) << "the coroutine has ended";
}

TEST_F(PipeCasesTest, ACoroutineWaitsForAnEmptySlot) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  auto [told, tell] = Unbounded<int>();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(other_->SendBytes("x").ok());
  [](EventLoop* loop, AsyncSlotPipe& into, Sender<int> out) -> DetachedTask {
    const absl::Status status = co_await SelectOn(
        loop, OnHold(into, [](WriteSlot slot) { EXPECT_TRUE(slot.SendBytes("y").ok()); }),
        OnDeadline(Late(), &Unexpected));
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(loop->InLoopThread());
    EXPECT_TRUE(out.Send(0).ok());
  }(loop_.get(), async, std::move(told));
  ASSERT_TRUE(other_->TryFetch()->Release().ok());
  ASSERT_TRUE(tell.Receive(Late()).ok());
  EXPECT_EQ(pipe_->Status().ready, 4u);
}

TEST_F(PipeCasesTest, AnErrorOfAPipeEndsTheWaitOfACoroutine) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  AsyncSlotPipe second(second_.get(), loop_.get());
  auto [told, tell] = Unbounded<int>();
  absl::Status status;
  [](EventLoop* loop, AsyncSlotPipe& one, AsyncSlotPipe& two, absl::Status& ended,
     Sender<int> out) -> DetachedTask {
    const auto unexpected = [](ReadSlot) { Unexpected(); };
    ended = co_await SelectOn(loop, OnFetch(two, unexpected), OnFetch(one, unexpected));
    EXPECT_TRUE(out.Send(0).ok());
  }(loop_.get(), async, second, status, std::move(told));
  // Of no kind that there is, as if its header had been overwritten.
  ASSERT_TRUE(other_->Hold()->Send(4, static_cast<PayloadKind>(7)).ok());
  ASSERT_TRUE(tell.Receive(Late()).ok());
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST_F(PipeCasesTest, ACoroutineThatIsDestroyedWhileItWaitsTakesNothing) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  AsyncSlotPipe second(second_.get(), loop_.get());
  auto [told, tell] = Unbounded<int>();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(second_->SendBytes("x").ok());
  loop_->Post([&, &out = told] {
    Owned owned = [](EventLoop* loop, AsyncSlotPipe& from, AsyncSlotPipe& into) -> Owned {
      static_cast<void>(co_await SelectOn(loop, OnFetch(from, [](ReadSlot) { Unexpected(); }),
                                          OnHold(into, [](WriteSlot) { Unexpected(); })));
      Unexpected();
    }(loop_.get(), async, second);
    // Told of both, and to go on when this task has ended.
    EXPECT_TRUE(other_->SendBytes("stays").ok());
    EXPECT_TRUE(second_->TryFetch()->Release().ok());
    owned.coroutine.destroy();
    EXPECT_TRUE(out.Send(0).ok());
  });
  ASSERT_TRUE(tell.Receive(Late()).ok());
  auto message = other_->Fetch(Late());
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "stays");
  EXPECT_EQ(message->attempt(), 1u);
  EXPECT_EQ(second_->Status().empty, 1u);
}

void ExpectSecondDelivery(ReadSlot message) {
  EXPECT_EQ(message.attempt(), 2u);
  EXPECT_TRUE(message.Release().ok());
}

// Nobody else looks for the dead here.
TEST_F(PipeCasesTest, AWaitingSelectRecoversWhatADeadConsumerHad) {
  other_.reset();
  const auto consume = [] {
    auto own = SlotPipe::Connect("one");
    return own.ok() && own->release()->TryFetch()->Detach().word != 0;
  };
  {
    ASSERT_TRUE(pipe_->SendBytes("to a thread").ok());
    slot_pipe_internal::Doomed consumer(consume);
    ASSERT_TRUE(consumer.ready());
    std::thread thread([&] {
      EXPECT_TRUE(
          Select(OnFetch(*pipe_, &ExpectSecondDelivery), OnDeadline(Late(), &Unexpected)).ok());
    });
    consumer.Kill();
    thread.join();
  }
  ASSERT_TRUE(pipe_->SendBytes("to a coroutine").ok());
  slot_pipe_internal::Doomed consumer(consume);
  ASSERT_TRUE(consumer.ready());
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  auto [told, tell] = Unbounded<int>();
  [](EventLoop* loop, AsyncSlotPipe& from, Sender<int> out) -> DetachedTask {
    const absl::Status status = co_await SelectOn(loop, OnFetch(from, &ExpectSecondDelivery),
                                                  OnDeadline(Late(), &Unexpected));
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(out.Send(0).ok());
  }(loop_.get(), async, std::move(told));
  consumer.Kill();
  EXPECT_TRUE(tell.Receive(Late()).ok());
}

// Coroutines that wait in Fetch and ones that select share the messages.
TEST_F(PipeCasesTest, SelectingAndWaitingCoroutinesGetOnTogether) {
  constexpr int kMessages = 500;
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  auto [told, tell] = Unbounded<int>();
  loop_->Post([&, &out = told] {
    for (int i = 0; i < 2; ++i) {
      [](EventLoop* loop, AsyncSlotPipe& from, Sender<int> to) -> DetachedTask {
        while ((co_await SelectOn(loop, OnFetch(from,
                                                [&to](ReadSlot message) {
                                                  EXPECT_TRUE(message.Release().ok());
                                                  EXPECT_TRUE(to.Send(0).ok());
                                                })))
                   .ok()) {
        }
      }(loop_.get(), async, out);
      [](AsyncSlotPipe& from, Sender<int> to) -> DetachedTask {
        for (;;) {
          auto message = co_await from.Fetch();
          if (!message.ok()) break;
          EXPECT_TRUE(message->Release().ok());
          EXPECT_TRUE(to.Send(0).ok());
        }
      }(async, out);
    }
    out = {};
  });
  for (int i = 0; i < kMessages; ++i) ASSERT_TRUE(other_->SendBytes("x", Late()).ok());
  for (int i = 0; i < kMessages; ++i) ASSERT_TRUE(tell.Receive(Late()).ok());
  pipe_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(tell.Receive(Late()).status())) << "all have ended";
}

}  // namespace
}  // namespace mi7::channels
