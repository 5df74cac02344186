// How many attempts at a call there are when what decides on the next one happens at once.

#include "rpc/call_repeats.h"

#include <memory>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "rpc/channel_fixture.h"
#include "rpc/error_codec.h"
#include "rpc/retry_info.h"
#include "transport/event_loop.h"

namespace mi7 {
namespace {

using transport::EventLoop;
using transport::FrameType;

class CallRepeatsTest : public ChannelTest {
 protected:
  // Whether the loop's thread does what it is given within this time.
  bool LoopAnswers(absl::Duration within) {
    const auto answered = std::make_shared<absl::Notification>();
    loop_->Post([answered] { answered->Notify(); });
    return answered->WaitForNotificationWithTimeout(within);
  }
  // Until all that was to be done on the loop by then is done.
  void AwaitLoop(absl::Duration after) {
    absl::Notification passed;
    EventLoop::Timer timer(loop_.get(), [&passed] { passed.Notify(); });
    timer.Schedule(Deadline::After(after));
    ASSERT_TRUE(passed.WaitForNotificationWithTimeout(absl::Seconds(60)));
  }

  void TearDown() override {
    ChannelTest::TearDown();
    channel_.reset();  // before its loop
  }

  const std::unique_ptr<EventLoop> loop_ = EventLoop::Create({}).value();
};

// The loop has taken the hedge out of its timers when the attempt fails, and has to wait for what
// is decided on that.
TEST_F(CallRepeatsTest, AHedgeThatComesWhenItsCallHasFailedIsNone) {
  constexpr absl::Duration kHedgeDelay = absl::Milliseconds(5), kAdvice = absl::Milliseconds(10);
  constexpr int kRounds = 5;  // one that meets the moment would do
  ChannelOptions options;
  options.event_loop = loop_.get();
  options.retry.policy.attempts_max = 2;
  options.retry.policy.hedge_delay = kHedgeDelay;
  Make(options);
  Connect();
  FakeConnection& connection = fakes_->at(0);
  for (int round = 0; round < kRounds; ++round) {
    Pending call = Send({.repeat = Repeat::kIdempotent});
    // Whoever describes the channel holds its mutex meanwhile, which a decision needs.
    absl::Notification held, go_on;
    connection.DoAtNextInfo([&] {
      held.Notify();
      go_on.WaitForNotification();
    });
    std::thread holder([&] { channel_->Describe(); });
    held.WaitForNotification();
    transport::OutgoingMessage failure =
        MakeControl(FrameType::kReturn, connection.TakeSent().header().call_id);
    EncodeError(WithRetryAfter(absl::UnavailableError("busy"), kAdvice), /*refused=*/false, {},
                *failure);
    std::thread peer([&] { connection.Deliver(std::move(failure)); });
    // Until it waits for the decision.
    const Deadline enough = Deadline::After(kHedgeDelay + absl::Seconds(1));
    while (LoopAnswers(absl::Milliseconds(20)) && !enough.passed()) {
    }
    go_on.Notify();
    holder.join();
    peer.join();
    AwaitLoop(kAdvice + absl::Milliseconds(1));
    EXPECT_EQ(connection.sent_count(), 1u) << "one further attempt, whatever made it";
    while (connection.sent_count() != 0) connection.TakeSent();
    call.Cancel();
    EXPECT_EQ(connection.TakeSent().header().type, FrameType::kCancel);
    while (connection.sent_count() != 0) connection.TakeSent();
  }
}

}  // namespace
}  // namespace mi7
