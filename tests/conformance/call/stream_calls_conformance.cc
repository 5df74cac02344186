// Cap'n Proto's `-> stream` methods: unary calls without results, with flow control.

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "rpc/call_outcome.h"
#include "rpc/task.h"
#include "tests/conformance/call/flow_repeats.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;
using testing::Not;

// Keeps the calls of pour until the test answers them.
class PourHolder {
 public:
  PourHandler Handler() {
    return [this](ServerContext& context, Item::Reader) -> Reply {
      absl::MutexLock lock(&mutex_);
      ++begun_;
      if (answers_all_) return absl::OkStatus();
      held_.push_back(context.Defer());
      return Reply::Later();
    };
  }
  bool AwaitHeld(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() == count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kSoon);
  }
  void Answer(size_t count, const absl::Status& status = absl::OkStatus()) {
    std::vector<DeferredCall> calls;
    {
      absl::MutexLock lock(&mutex_);
      for (size_t i = 0; i < count; ++i) calls.push_back(std::move(held_[i]));
      held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(count));
    }
    for (DeferredCall& call : calls) call.Finish(status);
  }
  // Answers the calls that are kept, and from now on each at once.
  void AnswerAll() {
    std::vector<DeferredCall> calls;
    {
      absl::MutexLock lock(&mutex_);
      answers_all_ = true;
      calls.swap(held_);
    }
    for (DeferredCall& call : calls) call.Finish(absl::OkStatus());
  }
  // Calls so far.
  uint64_t begun() const {
    absl::MutexLock lock(&mutex_);
    return begun_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
  uint64_t begun_ ABSL_GUARDED_BY(mutex_) = 0;
  bool answers_all_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST_P(StreamTest, PourArrivesInOrder) {
  std::atomic<uint64_t> next{0};
  std::atomic<bool> in_order{true};
  feed_.on_pour = [&](ServerContext&, Item::Reader item) {
    in_order = in_order && IsItem(item, next, 1000);
    ++next;
    return absl::OkStatus();
  };
  Start();
  FeedStub sink = stub();
  for (uint64_t number = 0; number < 2000; ++number) {
    ASSERT_THAT(Pour(sink, number, 1000).Wait(), IsOk());
  }
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
  EXPECT_EQ(next, 2000u);
  EXPECT_TRUE(in_order);
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk()) << "nothing to wait for";
}

Task<absl::Status> PourAll(FeedStub sink, uint64_t count) {
  for (uint64_t number = 0; number < count; ++number) {
    const absl::Status sent = co_await Pour(sink, number, 1000);
    if (!sent.ok()) co_return sent;
  }
  co_return co_await sink.FinishStream();
}

TEST_P(StreamTest, PourInACoroutine) {
  std::atomic<uint64_t> count{0};
  feed_.on_pour = [&](ServerContext&, Item::Reader) {
    ++count;
    return absl::OkStatus();
  };
  Start();
  EXPECT_THAT(BlockOn(PourAll(stub(), 2000)), IsOk());
  EXPECT_EQ(count, 2000u);
}

TEST_P(StreamTest, PourByCallbacks) {
  Start();
  struct Pouring {
    FeedStub sink;
    uint64_t left = 2000;
    absl::Status status = {};
    absl::Notification ended = {};
    void PourOne() {
      if (left-- == 0) {
        return sink.FinishStream().Then([this](absl::Status finished) {
          status = finished;
          ended.Notify();
        });
      }
      Pour(sink, left, 1000).Then([this](absl::Status sent) {
        EXPECT_THAT(sent, IsOk());
        PourOne();
      });
    }
  };
  Pouring pouring{stub()};
  pouring.PourOne();
  ASSERT_TRUE(Happens(pouring.ended));
  EXPECT_THAT(pouring.status, IsOk());
}

TEST_P(StreamTest, PourWaitsForAWindowOfAnswers) {
  PourHolder holder;
  feed_.on_pour = holder.Handler();
  Limits limits;
  limits.stream_window_bytes = 10'000;
  Start(limits);
  FeedStub sink = stub();
  // Of about 1,064 bytes each.
  for (uint64_t number = 0; number < 9; ++number) {
    ASSERT_THAT(Pour(sink, number, 1000).Wait(), IsOk());
  }
  absl::Notification completed;
  Pour(sink, 9, 1000).Then([&](absl::Status status) {
    EXPECT_THAT(status, IsOk());
    completed.Notify();
  });
  EXPECT_THAT(Pour(sink, 10, 1000).Wait(), StatusIs(absl::StatusCode::kFailedPrecondition));
  absl::Status finished;
  sink.FinishStream().Then([&](const absl::Status& status) { finished = status; });
  EXPECT_THAT(finished, StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_TRUE(holder.AwaitHeld(10));
  EXPECT_FALSE(completed.HasBeenNotified());
  EXPECT_TRUE(Answers());
  holder.Answer(2);
  ASSERT_TRUE(Happens(completed));
  auto finishing = sink.FinishStream();
  holder.Answer(8);
  EXPECT_THAT(finishing.Wait(), IsOk());
}

// It comes when that callback has returned.
TEST_P(StreamTest, PourInsideACallbackIsWaitedForBeforeTheNext) {
  feed_.on_pour = [](ServerContext&, Item::Reader) -> Reply { return absl::OkStatus(); };
  Start();
  FeedStub sink = stub();
  absl::Notification told;
  absl::Status first = absl::UnknownError(""), second, finished;
  stub().Ask().Send().Then([&](const auto&) {
    Pour(sink, 0).Then([&](const absl::Status& status) {
      first = status;
      told.Notify();
    });
    Pour(sink, 1).Then([&](const absl::Status& status) { second = status; });
    sink.FinishStream().Then([&](const absl::Status& status) { finished = status; });
  });
  ASSERT_TRUE(Happens(told));
  EXPECT_THAT(first, IsOk());
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(finished, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
}

// Of small messages a window holds more than a connection admits calls.
TEST_P(StreamTest, PourLeavesHalfOfTheConnectionsCallsToOthers) {
  PourHolder holder;
  feed_.on_pour = holder.Handler();
  Limits limits;
  limits.calls_in_flight_max = 8;
  Start(limits);
  ASSERT_TRUE(Answers());
  FeedStub sink = stub();
  for (uint64_t number = 0; number < 3; ++number) {
    ASSERT_THAT(Pour(sink, number).Wait(), IsOk());
  }
  absl::Notification completed;
  Pour(sink, 3).Then([&](absl::Status status) {
    EXPECT_THAT(status, IsOk());
    completed.Notify();
  });
  EXPECT_THAT(Pour(sink, 4).Wait(), StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_TRUE(holder.AwaitHeld(4));
  EXPECT_FALSE(completed.HasBeenNotified());
  EXPECT_TRUE(Answers());
  holder.Answer(1);
  ASSERT_TRUE(Happens(completed));
  holder.AnswerAll();
  for (uint64_t number = 4; number < 100; ++number) {
    ASSERT_THAT(Pour(sink, number).Wait(), IsOk());
  }
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
}

TEST_P(StreamTest, AFailedPourFailsTheFollowingOnesUntilFinishTellsIt) {
  PourHolder holder;
  feed_.on_pour = holder.Handler();
  Start();
  FeedStub sink = stub();
  FeedStub copy = sink;
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_THAT(Pour(copy, 1).Wait(), IsOk());
  ASSERT_TRUE(holder.AwaitHeld(2));
  holder.Answer(1, absl::DataLossError("the disk is full"));
  absl::Status sent;
  const Deadline patience = Deadline::After(kSoon);
  uint64_t completed = 2;
  while (sent.ok() && !patience.passed()) {
    sent = Pour(copy, 2).Wait();
    completed += sent.ok() ? 1 : 0;
  }
  EXPECT_THAT(sent, StatusIs(absl::StatusCode::kDataLoss, "the disk is full"));
  for (int i = 0; i < 5; ++i) EXPECT_THAT(Pour(copy, 2).Wait(), Not(IsOk())) << "unsent";
  auto finishing = sink.FinishStream();
  holder.AnswerAll();
  EXPECT_THAT(finishing.Wait(), StatusIs(absl::StatusCode::kDataLoss, "the disk is full"));
  // The failure may have come while one more was being sent.
  EXPECT_THAT(holder.begun(), testing::AnyOf(completed, completed + 1));
  ASSERT_THAT(Pour(sink, 3).Wait(), IsOk()) << "begins anew";
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
}

TEST_P(StreamTest, PourThatIsCancelledFailsTheFollowingOnes) {
  absl::Notification told, begun;
  absl::Mutex mutex;
  std::vector<std::pair<ServerContext*, DeferredCall>> held;
  feed_.on_pour = [&](ServerContext& context, Item::Reader item) -> Reply {
    if (item.getNumber() > 1) return absl::OkStatus();
    absl::MutexLock lock(&mutex);
    held.emplace_back(&context, context.Defer());
    if (item.getNumber() == 1) begun.Notify();
    return Reply::Later();
  };
  Limits limits;
  limits.stream_window_bytes = 1500;
  Start(limits);
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0, 1000).Wait(), IsOk());
  auto sending = Pour(sink, 1, 1000);  // waits for the window
  const CallCanceller canceller = sending.canceller();
  absl::Status sent;
  sending.Then([&](absl::Status status) {
    sent = std::move(status);
    told.Notify();
  });
  ASSERT_TRUE(Happens(begun));
  EXPECT_FALSE(told.HasBeenNotified());
  canceller.Cancel();
  ASSERT_TRUE(Happens(told));
  const auto cancelled = StatusIs(absl::StatusCode::kCancelled, HasSubstr("Feed.pour: cancelled"));
  EXPECT_THAT(sent, cancelled);
  EXPECT_THAT(sent, OutcomeIs(CallOutcome::kUnknown));
  auto unsent = Pour(sink, 2);
  unsent.canceller().Cancel();  // of nothing
  EXPECT_THAT(unsent.Wait(), cancelled);
  auto finishing = sink.FinishStream();
  finishing.canceller().Cancel();  // the same
  {
    absl::MutexLock lock(&mutex);
    ASSERT_EQ(held.size(), 2u);
    const Deadline patience = Deadline::After(kSoon);
    while (!held[1].first->cancelled()) ASSERT_FALSE(patience.passed()) << "the server is not told";
    EXPECT_FALSE(held[0].first->cancelled());
    for (auto& [context, call] : held) call.Finish(absl::OkStatus());
  }
  EXPECT_THAT(finishing.Wait(), cancelled);
  ASSERT_THAT(Pour(sink, 100).Wait(), IsOk()) << "begins anew";
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
}

TEST_P(StreamTest, PourEndsWithItsConnection) {
  PourHolder holder;
  feed_.on_pour = holder.Handler();
  Start();
  FeedStub sink = stub();
  ASSERT_THAT(Pour(sink, 0).Wait(), IsOk());
  ASSERT_TRUE(holder.AwaitHeld(1));
  auto finishing = sink.FinishStream();
  std::thread closing([&] { channel_->Close(); });
  const absl::Status status = finishing.Wait();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("Feed.pour")));
  EXPECT_THAT(status, OutcomeIs(CallOutcome::kUnknown));
  closing.join();
  holder.Answer(1);
}

}  // namespace
}  // namespace mi7::conformance
