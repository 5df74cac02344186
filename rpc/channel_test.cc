// How a channel's calls wait for its connections, and how they end with them.

#include "rpc/channel.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/functional/any_invocable.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/call_outcome.h"
#include "rpc/channel_fixture.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using testing::Optional;
using transport::FrameType;

auto WouldWaitForItself() {
  return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("would wait for itself"));
}

// Of a call that is not to be waited for for ever, if it comes to that.
CallOptions ForAWhile(Repeat repeat) {
  return {.deadline = Deadline::After(absl::Seconds(10)), .repeat = repeat};
}

// --- Nobody waits inside a callback of the connection on which the answer comes, or may come.

TEST_F(ChannelTest, ACallThatWasQueuedIsNotWaitedForInACallbackOfItsConnection) {
  Make();
  Pending early = Send(ForAWhile(Repeat::kNever));  // there is no connection
  Connect();
  FakeConnection& connection = fakes_->at(0);
  const uint32_t early_id = connection.TakeSent().header().call_id;
  std::optional<absl::Status> waited;
  Send().Then([&](const Pending::Result&) { waited = early.Wait().status(); });
  connection.Deliver(MakeReturn(connection.TakeSent().header().call_id));
  EXPECT_THAT(waited, Optional(WouldWaitForItself()));
  EXPECT_EQ(connection.TakeSent().header().type, FrameType::kCancel);
  connection.Deliver(MakeReturn(early_id));
}

TEST_F(ChannelTest, ACallThatWasMadeAgainIsNotWaitedForInACallbackOfItsConnection) {
  Make();
  Connect();
  FakeConnection& first = fakes_->at(0);
  Pending repeated = Send(ForAWhile(Repeat::kUnlessItRan));
  const transport::IncomingMessage sent = first.TakeSent();
  first.Deliver(MakeControl(FrameType::kGoAway));
  first.DeliverUnsent(sent.header());
  FakeConnection& second = fakes_->at(1);
  second.TakeSent();  // the next attempt
  Connect();          // the channel knows of it
  std::optional<absl::Status> waited;
  Send().Then([&](const Pending::Result&) { waited = repeated.Wait().status(); });
  second.Deliver(MakeReturn(second.TakeSent().header().call_id));
  EXPECT_THAT(waited, Optional(WouldWaitForItself()));
}

// While what has waited is being sent, new calls do not go to the connection yet.
TEST_F(ChannelTest, ACallThatIsStillQueuedIsNotWaitedForInACallbackOfItsConnection) {
  Make();
  absl::Notification all_wait;
  std::optional<absl::Status> waited;
  std::optional<Pending> early;
  fakes_->Prepare([&](FakeConnection& connection) {
    all_wait.WaitForNotification();
    connection.DoAtNextSend([&] {
      connection.DoAtNextSend([&] {
        std::thread([&] { connection.Deliver(MakeReturn(0)); }).join();
        return absl::OkStatus();
      });
      return absl::OkStatus();
    });
    return absl::OkStatus();
  });
  Send().Then([&](const Pending::Result&) { waited = early->Wait().status(); });
  early = Send(ForAWhile(Repeat::kNever));
  all_wait.Notify();
  Connect();
  EXPECT_THAT(waited, Optional(WouldWaitForItself()));
}

// --- Threads that end

// A thread-local object that was made before what the channel keeps for the thread is gone after
// it, and may make calls then; so do static objects.
TEST_F(ChannelTest, CallsAreMadeWhileTheirThreadEnds) {
  struct Late {
    absl::AnyInvocable<void()> call;
    ~Late() { call(); }
  };
  Make();
  Connect();
  std::thread([&] {
    static thread_local Late late;
    late.call = [this] { Send().Cancel(); };
    Send().Cancel();
    // What the thread remembers is of a session that is no more.
    fakes_->at(0).End();
    Connect();
  }).join();
  FakeConnection& second = fakes_->at(1);
  EXPECT_EQ(second.TakeSent().header().type, FrameType::kCall);
  EXPECT_EQ(second.TakeSent().header().type, FrameType::kCancel);
}

}  // namespace
}  // namespace mi7
