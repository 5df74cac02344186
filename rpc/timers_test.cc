#include "rpc/timers.h"

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"

namespace mi7 {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(20);

class TimersTest : public testing::Test {
 protected:
  // Once it has run, everything that was due before has.
  void RunTo(Deadline at) {
    absl::Notification done;
    timers_->Schedule(at, [&] { done.Notify(); });
    ASSERT_TRUE(done.WaitForNotificationWithTimeout(kSoon));
  }

  // Keeps the loop busy until Go: what is scheduled meanwhile is not late, however slow this
  // thread.
  void Stop() {
    loop_->Post([this] { go_.WaitForNotification(); });
  }
  void Go() { go_.Notify(); }

  absl::Notification go_;
  const std::unique_ptr<transport::EventLoop> loop_ = *transport::EventLoop::Create({});
  const std::shared_ptr<Timers> timers_ = Timers::Create(loop_.get());
};

TEST_F(TimersTest, FiresOnTheLoopAndNotBeforeItsTime) {
  const Deadline at = Deadline::After(absl::Milliseconds(10));
  absl::Notification done;
  timers_->Schedule(at, [&] {
    EXPECT_TRUE(at.passed());
    EXPECT_TRUE(loop_->InLoopThread());
    done.Notify();
  });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(kSoon));
}

TEST_F(TimersTest, FireInTheOrderOfTheirTimesThenOfTheirSchedule) {
  std::vector<int> order;
  Stop();
  const Deadline now = Deadline::After(absl::Milliseconds(5));
  const Deadline later = Deadline::AtNanos(now.at_ns() + 1'000'000);
  timers_->Schedule(later, [&] { order.push_back(3); });
  timers_->Schedule(now, [&] { order.push_back(1); });
  timers_->Schedule(now, [&] { order.push_back(2); });
  Go();
  RunTo(Deadline::AtNanos(later.at_ns() + 1));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST_F(TimersTest, InAHurryAllFireAtOnce) {
  const Deadline far = Deadline::After(absl::Hours(1));
  absl::Notification waited, scheduled;
  timers_->Schedule(far, [&] { waited.Notify(); });
  timers_->Hurry();
  EXPECT_TRUE(waited.WaitForNotificationWithTimeout(kSoon));
  timers_->Schedule(far, [&] { scheduled.Notify(); });
  EXPECT_TRUE(scheduled.WaitForNotificationWithTimeout(kSoon));
}

TEST_F(TimersTest, CancelledTimerDoesNotFireAndFreesItsCallback) {
  const auto held = std::make_shared<int>(0);
  Stop();
  const Deadline at = Deadline::After(absl::Milliseconds(5));
  const Timers::Handle timer =
      timers_->Schedule(at, [held] { ADD_FAILURE() << "it was cancelled"; });
  EXPECT_TRUE(timers_->Cancel(timer));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(timers_->Cancel(timer));
  Go();
  RunTo(Deadline::AtNanos(at.at_ns() + 1));
}

TEST_F(TimersTest, TimerThatFiredCannotBeCancelled) {
  absl::Notification done;
  const Timers::Handle timer = timers_->Schedule(Deadline::AtNanos(0), [&] { done.Notify(); });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(kSoon));
  EXPECT_FALSE(timers_->Cancel(timer));
  EXPECT_FALSE(timers_->Cancel({}));
}

TEST_F(TimersTest, CallbackMaySchedule) {
  absl::Notification done;
  timers_->Schedule(Deadline::AtNanos(0), [&] {
    timers_->Schedule(Deadline::After(absl::Milliseconds(1)), [&] { done.Notify(); });
  });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(kSoon));
}

TEST_F(TimersTest, NothingFiresAfterClose) {
  const auto held = std::make_shared<int>(0);
  const auto never = [held] { ADD_FAILURE() << "they are closed"; };
  Stop();
  timers_->Schedule(Deadline::After(absl::Milliseconds(5)), never);
  timers_->Close();
  EXPECT_EQ(held.use_count(), 2) << "never's own and held";
  timers_->Schedule(Deadline::AtNanos(0), never);
  EXPECT_EQ(held.use_count(), 2);
  Go();
  // What is posted to the loop now runs after what it would have done.
  absl::Notification done;
  transport::EventLoop::Timer after(loop_.get(), [&] { done.Notify(); });
  after.Schedule(Deadline::After(absl::Milliseconds(10)));
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(kSoon));
}

TEST_F(TimersTest, TimerThatNeverComesIsNone) {
  const auto held = std::make_shared<int>(0);
  EXPECT_EQ(timers_->Schedule(Deadline::Infinite(), [held] {}), Timers::Handle());
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(TimersTest, MayOutliveTheLoopOnceClosed) {
  auto loop = *transport::EventLoop::Create({});
  const std::shared_ptr<Timers> timers = Timers::Create(loop.get());
  const Timers::Handle timer = timers->Schedule(Deadline::After(absl::Hours(1)), [] {});
  timers->Close();
  loop = nullptr;
  EXPECT_FALSE(timers->Cancel(timer));
  timers->Schedule(Deadline::AtNanos(0), [] { ADD_FAILURE(); });
}

}  // namespace
}  // namespace mi7
