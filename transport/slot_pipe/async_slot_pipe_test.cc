#include "transport/slot_pipe/async_slot_pipe.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "base/sleep_watch_testing.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;

// A coroutine that runs at once, and goes when it ends.
struct Started {
  struct promise_type {
    Started get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

// The same, for who destroys it.
struct Kept {
  struct promise_type {
    Kept get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> coroutine;
};

// Waits until it was called so many times.
class Countdown {
 public:
  explicit Countdown(int count) : left_(count) {}
  void Down() {
    MutexLock lock(&mutex_);
    --left_;
    changed_.NotifyAll();
  }
  bool Wait() {
    MutexLock lock(&mutex_);
    return changed_.WaitUntil(mutex_, Deadline::After(absl::Seconds(60)),
                              [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return left_ <= 0; });
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int left_ ABSL_GUARDED_BY(mutex_);
};

class AsyncSlotPipeTest : public testing::Test {
 protected:
  static Kept Waits(AsyncSlotPipe& from) { auto message = co_await from.Fetch(); }
  void OnLoop(const std::function<void()>& task) {
    Countdown done(1);
    loop_->Post([&] {
      task();
      done.Down();
    });
    EXPECT_TRUE(done.Wait());
  }

  TestDirectory directory_;
  std::unique_ptr<SlotPipe> pipe_ =
      SlotPipe::Create("async", {.slots = 4, .slot_bytes = 64}).value();
  std::unique_ptr<SlotPipe> other_ = SlotPipe::Connect("async").value();
  // Stopped before the pipes go: it may have a slot on its way to a coroutine.
  std::unique_ptr<transport::EventLoop> loop_ = transport::EventLoop::Create({}).value();
};

TEST_F(AsyncSlotPipeTest, WhatIsReadyIsTakenWithoutSuspending) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  bool done = false;
  [](AsyncSlotPipe& from, bool& ended) -> Started {
    auto slot = co_await from.Hold();
    EXPECT_TRUE(slot.ok() && slot->SendBytes("now").ok());
    auto message = co_await from.Fetch();
    EXPECT_EQ(message->text(), "now");
    EXPECT_TRUE(message->Release().ok());
    ended = true;
  }(async, done);
  EXPECT_TRUE(done);
}

TEST_F(AsyncSlotPipeTest, CoroutinesAreResumedOnTheLoopByMessagesOfOthers) {
  constexpr int kMessages = 2000;
  constexpr int kCoroutines = 5;
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  std::atomic<int> received{0};
  Countdown countdown(kMessages);
  Countdown ended(kCoroutines);
  for (int i = 0; i < kCoroutines; ++i) {
    loop_->Post([&] {
      [](AsyncSlotPipe& from, transport::EventLoop& loop, std::atomic<int>& got, Countdown& counter,
         Countdown& end) -> Started {
        for (;;) {
          auto message = co_await from.Fetch();
          if (!message.ok()) break;
          EXPECT_TRUE(loop.InLoopThread());
          EXPECT_TRUE(message->Release().ok());
          ++got;
          counter.Down();
        }
        end.Down();
      }(async, *loop_, received, countdown, ended);
    });
  }
  for (int i = 0; i < kMessages; ++i) ASSERT_TRUE(other_->SendBytes(absl::StrCat(i)).ok());
  ASSERT_TRUE(countdown.Wait());
  EXPECT_EQ(received, kMessages);
  pipe_->Cancel();
  EXPECT_TRUE(ended.Wait());
}

// What would come after 40 ms otherwise, when the thread that waits looks for itself.
TEST_F(AsyncSlotPipeTest, EachMessageWakesACoroutine) {
  constexpr int kRounds = 500;
  const Deadline deadline = Deadline::After(absl::Seconds(10));
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  auto back = SlotPipe::Create("back", {.slots = 1, .slot_bytes = 64},
                               {.wait = transport::WaitPolicy::kBlock})
                  .value();
  Countdown ended(1);
  [](AsyncSlotPipe& from, SlotPipe& to, Countdown& end) -> Started {
    for (;;) {
      auto message = co_await from.Fetch();
      if (!message.ok()) break;
      EXPECT_TRUE(message->Release().ok());
      EXPECT_TRUE(to.TrySendBytes("back").ok());
    }
    end.Down();
  }(async, *back, ended);
  for (int i = 0; i < kRounds; ++i) {
    EXPECT_TRUE(AwaitOthersAsleep());
    EXPECT_TRUE(other_->SendBytes("to").ok());
    auto message = back->Fetch(deadline);
    EXPECT_TRUE(message.ok()) << "in round " << i << ": " << message.status();
    if (!message.ok() || !message->Release().ok()) break;
  }
  pipe_->Cancel();
  EXPECT_TRUE(ended.Wait());
}

TEST_F(AsyncSlotPipeTest, AHoldWaitsForAnEmptySlot) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(other_->SendBytes("x").ok());
  Countdown countdown(1);
  [](AsyncSlotPipe& from, Countdown& counter) -> Started {
    auto slot = co_await from.Hold();
    EXPECT_TRUE(slot.ok()) << slot.status();
    counter.Down();
  }(async, countdown);
  ASSERT_TRUE(other_->TryFetch()->Release().ok());
  EXPECT_TRUE(countdown.Wait());
}

TEST_F(AsyncSlotPipeTest, DeadlinesAndCancelEndWaits) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  Countdown early(1);
  Countdown late(1);
  const auto expect = [](AsyncSlotPipe& from, Deadline deadline, StatusCode code,
                         Countdown& countdown) -> Started {
    auto message = co_await from.Fetch(deadline);
    EXPECT_EQ(message.status().code(), code) << message.status();
    EXPECT_EQ(SlotPipeErrorOf(message.status()), code == StatusCode::kCancelled
                                                     ? SlotPipeError::kCancelled
                                                     : SlotPipeError::kPipeEmpty);
    EXPECT_TRUE(deadline.infinite() || deadline.passed());
    countdown.Down();
  };
  expect(async, Deadline::Infinite(), StatusCode::kCancelled, late);
  expect(async, Deadline::After(absl::Milliseconds(10)), StatusCode::kDeadlineExceeded, early);
  EXPECT_TRUE(early.Wait());
  pipe_->Cancel();
  EXPECT_TRUE(late.Wait());
}

TEST_F(AsyncSlotPipeTest, DeadlinesAndCancelEndWaitsForAnEmptySlot) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(other_->SendBytes("x").ok());
  Countdown early(2);
  Countdown late(2);
  const auto expect = [](absl::Status status, Deadline deadline, StatusCode code,
                         Countdown& countdown) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_EQ(SlotPipeErrorOf(status), code == StatusCode::kCancelled ? SlotPipeError::kCancelled
                                                                      : SlotPipeError::kPipeFull);
    EXPECT_TRUE(deadline.infinite() || deadline.passed());
    countdown.Down();
  };
  const auto hold = [](AsyncSlotPipe& from, Deadline deadline, StatusCode code, auto then,
                       Countdown& countdown) -> Started {
    auto slot = co_await from.Hold(deadline);
    then(slot.status(), deadline, code, countdown);
  };
  const auto send = [](AsyncSlotPipe& to, Deadline deadline, StatusCode code, auto then,
                       Countdown& countdown) -> Started {
    const absl::Status sent = co_await to.SendBytes("y", deadline);
    then(sent, deadline, code, countdown);
  };
  const Deadline soon = Deadline::After(absl::Milliseconds(10));
  hold(async, Deadline::Infinite(), StatusCode::kCancelled, expect, late);
  hold(async, soon, StatusCode::kDeadlineExceeded, expect, early);
  send(async, soon, StatusCode::kDeadlineExceeded, expect, early);
  send(async, Deadline::Infinite(), StatusCode::kCancelled, expect, late);
  EXPECT_TRUE(early.Wait());
  pipe_->Cancel();
  EXPECT_TRUE(late.Wait());
  EXPECT_EQ(pipe_->Status().ready, 4u) << "nothing was sent";
}

TEST_F(AsyncSlotPipeTest, SendBytesWaitsForAnEmptySlot) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  const auto send = [](AsyncSlotPipe& to, std::string text, absl::Status& status,
                       Countdown& counter) -> Started {
    status = co_await to.SendBytes(text);
    counter.Down();
  };
  absl::Status status = absl::UnknownError("not yet");
  Countdown too_large(1);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(other_->SendBytes("x").ok());
  // No slot will do, so it does not wait for one.
  send(async, std::string(65, 'x'), status, too_large);
  ASSERT_TRUE(too_large.Wait());
  EXPECT_TRUE(Is(status, StatusCode::kInvalidArgument, "65 bytes")) << status;
  Countdown sent(1);
  send(async, "late", status, sent);
  ASSERT_TRUE(other_->TryFetch()->Release().ok());
  ASSERT_TRUE(sent.Wait());
  EXPECT_TRUE(status.ok()) << status;
  for (const char* text : {"x", "x", "x", "late"}) {
    auto message = other_->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->text(), text);
    ASSERT_TRUE(message->Release().ok());
  }
}

// What is wrong with one message is told to one of those who wait, as to one thread.
TEST_F(AsyncSlotPipeTest, AMessageThatWasOverwrittenEndsOneWait) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  absl::Status first;
  absl::Status second;
  Countdown told(1);
  Countdown served(2);
  const auto fetch = [](AsyncSlotPipe& from, absl::Status& status, Countdown& one,
                        Countdown& both) -> Started {
    auto message = co_await from.Fetch();
    status = message.status();
    if (message.ok()) {
      EXPECT_EQ(message->text(), "sound");
      EXPECT_TRUE(message->Release().ok());
    }
    one.Down();
    both.Down();
  };
  fetch(async, first, told, served);
  fetch(async, second, told, served);
  // Of no kind that there is, as if its header had been overwritten.
  ASSERT_TRUE(other_->Hold()->Send(4, static_cast<PayloadKind>(7)).ok());
  ASSERT_TRUE(told.Wait());
  ASSERT_TRUE(other_->SendBytes("sound").ok());
  ASSERT_TRUE(served.Wait());
  EXPECT_TRUE(Is(first, StatusCode::kDataLoss, "was overwritten")) << first;
  EXPECT_TRUE(second.ok()) << second;
  EXPECT_EQ(pipe_->Status().dead_letters, 1u);
}

// Nobody else looks for the dead here.
TEST_F(AsyncSlotPipeTest, AWaitingCoroutineRecoversWhatADeadConsumerHad) {
  other_.reset();
  ASSERT_TRUE(pipe_->SendBytes("again").ok());
  slot_pipe_internal::Doomed consumer([] {
    auto own = SlotPipe::Connect("async");
    return own.ok() && own->release()->TryFetch()->Detach().word != 0;
  });
  ASSERT_TRUE(consumer.ready());
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  Countdown countdown(1);
  [](AsyncSlotPipe& from, Countdown& counter) -> Started {
    auto message = co_await from.Fetch();
    EXPECT_TRUE(message.ok() && message->attempt() == 2) << message.status();
    counter.Down();
  }(async, countdown);
  consumer.Kill();
  EXPECT_TRUE(countdown.Wait());
}

// A coroutine that is destroyed while it waits takes no message with it.
TEST_F(AsyncSlotPipeTest, ADestroyedCoroutineTakesNothing) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  OnLoop([&] {
    const Kept kept = Waits(async);
    EXPECT_TRUE(other_->SendBytes("stays").ok());
    kept.coroutine.destroy();
  });
  auto message = other_->Fetch(Deadline::After(absl::Seconds(60)));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "stays");
  EXPECT_EQ(message->attempt(), 1u);
}

// Nothing is fetched for it, which would put the message behind those that came after it.
TEST_F(AsyncSlotPipeTest, NobodyWaitsForADestroyedCoroutine) {
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  OnLoop([&] {
    const Kept first = Waits(async);
    const Kept second = Waits(async);
    Waits(async).coroutine.destroy();
    first.coroutine.destroy();
    second.coroutine.destroy();
  });
  ASSERT_TRUE(AwaitOthersAsleep());
  for (const char* text : {"1", "2", "3", "4"}) ASSERT_TRUE(other_->SendBytes(text).ok());
  ASSERT_TRUE(AwaitOthersAsleep());
  bool taken = false;
  [](AsyncSlotPipe& from, bool& at_once) -> Started {
    auto message = co_await from.Fetch();
    EXPECT_EQ(message->text(), "1");
    EXPECT_TRUE(message->Release().ok());
    at_once = true;
  }(async, taken);
  EXPECT_TRUE(taken);
  for (const char* text : {"2", "3", "4"}) {
    auto message = other_->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->text(), text);
    EXPECT_TRUE(message->Release().ok());
  }
  EXPECT_EQ(pipe_->Status().redelivered, 0u);
}

// The thread that waits for coroutines has slept longest, so the wake is its own, with nobody left
// for whom it waits. Most times at least: this machine may have something else to do.
TEST_F(AsyncSlotPipeTest, AMessageThatComesAfterADestroyedCoroutineWakesAnother) {
  constexpr int kRounds = 40;
  constexpr int64_t kSoonNs = 20'000'000;  // after 40 ms the other one looks for itself
  AsyncSlotPipe async(pipe_.get(), loop_.get());
  auto blocks = SlotPipe::Connect("async", {.wait = transport::WaitPolicy::kBlock}).value();
  int woken = 0;
  for (int round = 0; round < kRounds; ++round) {
    Kept kept;
    OnLoop([&] { kept = Waits(async); });
    ASSERT_TRUE(AwaitOthersAsleep());
    SleepWatch watch;
    std::thread thread([&] {
      watch.AboutToSleep();
      auto message = blocks->Fetch();
      EXPECT_TRUE(message.ok() && message->Release().ok()) << message.status();
    });
    EXPECT_TRUE(watch.Await());
    OnLoop([&] { kept.coroutine.destroy(); });
    const int64_t start_ns = MonotonicNanos();
    EXPECT_TRUE(other_->SendBytes("x").ok());
    thread.join();
    if (MonotonicNanos() - start_ns < kSoonNs) ++woken;
  }
  EXPECT_GE(woken, kRounds / 2);
}

// Its lock is held at the fork, by a thread that is not there in the child.
TEST_F(AsyncSlotPipeTest, AForkedChildWaitsForNothingAndForNobody) {
  struct Stopped final : slot_pipe_internal::PipeListener {
    void OnMayHave() override {
      told.Down();
      EXPECT_TRUE(go_on.Wait());
    }
    Countdown told{1};
    Countdown go_on{1};
  };
  constexpr auto kFetch = slot_pipe_internal::Direction::kFetch;
  auto async = std::make_unique<AsyncSlotPipe>(pipe_.get(), loop_.get());
  Stopped listener;
  Kept kept;
  OnLoop([&] { kept = Waits(*async); });
  async->Watch(kFetch, &listener);
  ASSERT_TRUE(other_->SendBytes("x").ok());
  ASSERT_TRUE(listener.told.Wait());
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(10);  // it hangs no longer
    SlotPipeError fetched = SlotPipeError::kNone;
    [](AsyncSlotPipe& from, SlotPipeError& error) -> Started {
      error = SlotPipeErrorOf((co_await from.Fetch()).status());
    }(*async, fetched);
    if (fetched != SlotPipeError::kForked) ::_exit(1);
    async->Unwatch(kFetch, &listener);
    kept.coroutine.destroy();
    loop_.reset();
    async.reset();
    ::_exit(0);
  }
  listener.go_on.Down();
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  OnLoop([&] { kept.coroutine.destroy(); });
}

}  // namespace
}  // namespace mi7
