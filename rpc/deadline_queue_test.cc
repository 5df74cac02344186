#include "rpc/deadline_queue.h"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/request.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

using testing::StartsWith;

// Calls that are never sent: only their deadlines matter.
class DeadlineQueueTest : public testing::Test {
 protected:
  ClientCallRef NewCall(Deadline deadline) {
    return ClientCallRef(channel_->NewCall(kBaseInfo, kBaseMethods[0], {.deadline = deadline}));
  }

  const std::unique_ptr<transport::EventLoop> loop_ = *transport::EventLoop::Create({});
  const std::shared_ptr<Channel> channel_ =
      *Channel::Create("inproc:never-connected", {.event_loop = loop_.get()});
  std::shared_ptr<DeadlineQueue> queue_ = DeadlineQueue::Create(loop_.get());
};

TEST_F(DeadlineQueueTest, CallExpiresOnTheLoopAndNotBeforeItsDeadline) {
  const Deadline deadline = Deadline::After(absl::Milliseconds(20));
  ClientCallRef call = NewCall(deadline);
  absl::Notification done;
  bool on_loop = false, early = true;
  call->OnDone([&](ClientCall&) {
    on_loop = loop_->InLoopThread();
    early = !deadline.passed();
    done.Notify();
  });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(on_loop);
  EXPECT_FALSE(early);
  EXPECT_THAT(call->status(), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                       StartsWith("Base.ping: deadline passed")));
}

TEST_F(DeadlineQueueTest, CallsExpireInTheOrderOfTheirDeadlines) {
  constexpr int kCalls = 200;
  std::vector<int> ms(kCalls);
  for (int i = 0; i < kCalls; ++i) ms[i] = i;
  std::shuffle(ms.begin(), ms.end(), std::mt19937(7));
  absl::Mutex mutex;
  std::vector<int> order;
  absl::BlockingCounter all(kCalls);
  // In the past and present: whatever is due together still ends in order.
  const int64_t now_ns = MonotonicNanos();
  std::vector<ClientCallRef> calls;
  absl::Notification filled;
  loop_->Post([&] { filled.WaitForNotification(); });  // nothing expires while they are added
  for (const int i : ms) {
    calls.push_back(NewCall(Deadline::AtNanos(now_ns + (i - kCalls / 2) * 100'000)));
    calls.back()->OnDone([&, i](ClientCall&) {
      {
        absl::MutexLock lock(&mutex);
        order.push_back(i);
      }
      all.DecrementCount();
    });
  }
  filled.Notify();
  all.Wait();
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(DeadlineQueueTest, RemovedCallsDoNotExpire) {
  std::mt19937 random(11);
  std::vector<ClientCallRef> removed;
  absl::Notification all_removed;
  loop_->Post([&] { all_removed.WaitForNotification(); });  // nothing expires before
  for (int i = 0; i < 500; ++i) {
    removed.push_back(
        NewCall(Deadline::After(absl::Milliseconds(20) + absl::Microseconds(random() % 10'000))));
    queue_->Add(removed.back().get());
  }
  std::shuffle(removed.begin(), removed.end(), random);
  for (ClientCallRef& call : removed) queue_->Remove(call.get());
  for (ClientCallRef& call : removed) queue_->Remove(call.get());  // again: no effect
  all_removed.Notify();
  // One that is due after all of them shows that their time has come and gone.
  ClientCallRef last = NewCall(Deadline::After(absl::Milliseconds(40)));
  absl::Notification done;
  last->OnDone([&](ClientCall&) { done.Notify(); });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
  absl::Notification again;
  queue_->Add(NewCall(Deadline::After(absl::ZeroDuration())).get());
  loop_->Post([&] { again.Notify(); });
  again.WaitForNotification();
  for (ClientCallRef& call : removed) EXPECT_FALSE(call->done());
}

TEST_F(DeadlineQueueTest, EarlierDeadlineAddedLaterIsNotHeldUp) {
  ClientCallRef far = NewCall(Deadline::After(absl::Hours(1)));
  far->OnDone([](ClientCall&) {});
  ClientCallRef near = NewCall(Deadline::After(absl::Milliseconds(5)));
  absl::Notification done;
  near->OnDone([&](ClientCall&) { done.Notify(); });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_FALSE(far->done());
  far->Cancel();
}

TEST_F(DeadlineQueueTest, ContinuationMayAddFurtherDeadlines) {
  absl::Notification done;
  ClientCallRef second = NewCall(Deadline::After(absl::Milliseconds(2)));
  ClientCallRef first = NewCall(Deadline::After(absl::Milliseconds(1)));
  first->OnDone([&](ClientCall&) { second->OnDone([&](ClientCall&) { done.Notify(); }); });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

TEST_F(DeadlineQueueTest, CallIsKeptAliveWhileInTheQueue) {
  absl::Notification done;
  {
    ClientCallRef call = NewCall(Deadline::After(absl::Milliseconds(1)));
    call->OnDone([&](ClientCall& expired) {
      EXPECT_EQ(expired.status().code(), absl::StatusCode::kDeadlineExceeded);
      done.Notify();
    });
  }
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

}  // namespace
}  // namespace mi7
