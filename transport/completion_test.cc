#include "transport/completion.h"

#include <atomic>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include "absl/time/time.h"
#include "transport/callback_scope.h"

namespace mi7::transport {
namespace {

using Woken = Completion::Woken;

TEST(CompletionTest, CompletedBeforeSleepReturnsAtOnce) {
  Completion completion;
  EXPECT_FALSE(completion.done());
  completion.Complete();
  EXPECT_TRUE(completion.done());
  EXPECT_EQ(completion.Sleep(Deadline::Infinite()), Woken::kDone);
  EXPECT_EQ(completion.Sleep(Deadline::AtNanos(0)), Woken::kDone) << "stays done";
}

TEST(CompletionTest, CompletingPublishesWhatWasWrittenBefore) {
  for (int i = 0; i < 500; ++i) {
    Completion completion;
    int value = 0;
    std::thread completer([&] {
      value = 42;
      completion.Complete();
    });
    EXPECT_EQ(completion.Sleep(Deadline::Infinite()), Woken::kDone);
    EXPECT_EQ(value, 42);
    completer.join();
  }
}

TEST(CompletionTest, WhatCallbacksHoldBackLeavesBeforeTheSleep) {
  class Scope final : public CallbackScope {
   public:
    Scope() : CallbackScope(nullptr) {}
    int flushed = 0;

   private:
    void Flush() override { ++flushed; }
  };
  Scope outer, inner;
  Completion never;
  EXPECT_EQ(never.Sleep(Deadline::AtNanos(0)), Woken::kDeadline);
  EXPECT_EQ(outer.flushed, 1);
  EXPECT_EQ(inner.flushed, 1);
}

TEST(CompletionTest, SleepEndsAtItsDeadlineNotBefore) {
  Completion completion;
  const int64_t start_ns = MonotonicNanos();
  EXPECT_EQ(completion.Sleep(Deadline::After(absl::Milliseconds(5))), Woken::kDeadline);
  EXPECT_GE(MonotonicNanos() - start_ns, 5'000'000);
  EXPECT_EQ(completion.Sleep(Deadline::AtNanos(0)), Woken::kDeadline);
  EXPECT_FALSE(completion.done());
  completion.Complete();
  EXPECT_EQ(completion.Sleep(Deadline::AtNanos(0)), Woken::kDone);
}

TEST(CompletionTest, AnOfferedTurnIsTakenOnce) {
  Completion completion;
  completion.OfferTurn();
  completion.OfferTurn();
  EXPECT_EQ(completion.Sleep(Deadline::Infinite()), Woken::kTurn);
  EXPECT_EQ(completion.Sleep(Deadline::After(absl::Milliseconds(1))), Woken::kDeadline);
}

TEST(CompletionTest, DoneWinsOverATurn) {
  Completion completion;
  completion.OfferTurn();
  completion.Complete();
  completion.OfferTurn();
  EXPECT_EQ(completion.Sleep(Deadline::Infinite()), Woken::kDone);
}

TEST(CompletionTest, ASleeperIsWokenByATurn) {
  Completion completion;
  std::thread offerer([&] { completion.OfferTurn(); });
  EXPECT_EQ(completion.Sleep(Deadline::Infinite()), Woken::kTurn);
  offerer.join();
}

TEST(CompletionTest, ResetMakesItUsableAgain) {
  Completion completion;
  completion.Complete();
  completion.Reset();
  EXPECT_FALSE(completion.done());
  EXPECT_EQ(completion.Sleep(Deadline::AtNanos(0)), Woken::kDeadline);
}

TEST(CompletionTest, TheWaiterMayDestroyItAsSoonAsItIsWoken) {
  // Turns, deadlines and completion race; the memory is gone right after.
  for (int i = 0; i < 2000; ++i) {
    auto completion = std::make_unique<Completion>();
    std::atomic<bool> started{false};
    std::thread completer([raw = completion.get(), &started, i] {
      started = true;
      if (i % 2 == 0) raw->OfferTurn();
      raw->Complete();
    });
    while (!started) std::this_thread::yield();
    Woken woken;
    do {
      woken = completion->Sleep(Deadline::After(absl::Microseconds(i % 50)));
    } while (woken != Woken::kDone);
    completion.reset();
    completer.join();
  }
}

}  // namespace
}  // namespace mi7::transport
