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

// --- Calls that wait for a connection

TEST_F(ChannelTest, CallsThatWaitGoInOrderWhicheverWereGivenUp) {
  Make();
  absl::Notification all_wait, given_up;
  fakes_->Prepare([&](FakeConnection&) {
    all_wait.WaitForNotification();
    return absl::UnavailableError("no room");
  });
  fakes_->Prepare([&](FakeConnection&) {
    given_up.WaitForNotification();
    return absl::OkStatus();
  });
  const CallOptions patient = {.wait_for_ready = true, .repeat = Repeat::kNever};
  Pending a = Send(patient, "a"), b = Send(patient, "b");
  Pending impatient = Send();
  Pending c = Send(patient, "c"), d = Send(patient, "d"), e = Send(patient, "e");
  all_wait.Notify();
  EXPECT_THAT(impatient.Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no room")));
  for (Pending* const call : {&d, &a}) {
    call->Cancel();
    EXPECT_THAT(call->Wait(), OutcomeIs(CallOutcome::kNotSent));
  }
  given_up.Notify();
  FakeConnection& connection = fakes_->at(0);
  for (const char* const key : {"b", "c", "e"}) EXPECT_EQ(KeyIn(connection.TakeSent()), key);
  EXPECT_EQ(connection.sent_count(), 0u);
  e.Cancel();
  EXPECT_EQ(connection.TakeSent().header().type, FrameType::kCancel) << "it was sent";
}

// As many as wait there take a time each that does not depend on where they stand.
TEST_F(ChannelTest, CallsThatWaitAreGivenUpQuicklyInAnyOrder) {
  Make({.backoff = {.initial = absl::Hours(1)}});
  fakes_->Refuse(absl::UnavailableError("no room"));
  const auto time_of = [&](absl::AnyInvocable<void(std::vector<Pending>&)> arrange) {
    std::vector<Pending> calls;
    for (int i = 0; i < 20'000; ++i) {
      calls.push_back(Send({.wait_for_ready = true, .repeat = Repeat::kNever}));
    }
    arrange(calls);
    const int64_t start_ns = MonotonicNanos();
    for (Pending& call : calls) call.Cancel();
    return MonotonicNanos() - start_ns;
  };
  const int64_t first_to_last_ns = time_of([](std::vector<Pending>&) {});
  const int64_t last_to_first_ns =
      time_of([](std::vector<Pending>& calls) { std::reverse(calls.begin(), calls.end()); });
  // If each were searched for it would be some hundred times as much.
  EXPECT_LE(last_to_first_ns, 20 * first_to_last_ns + 500'000'000);
}

// --- What those are told whose connection is lost, or is not made

TEST_F(ChannelTest, AnOldConnectionsEndIsNotWhyTheNextOneIsNotMade) {
  Make({.backoff = {.initial = absl::Hours(1)}});
  Connect();
  FakeConnection& old = fakes_->at(0);
  Pending in_flight = Send();
  old.Deliver(MakeControl(FrameType::kGoAway));
  fakes_->Refuse(absl::UnavailableError("no room"));
  EXPECT_THAT(Send().Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no room")));
  EXPECT_EQ(channel_->state(), ChannelState::kBackoff);
  old.DeliverClosed(absl::InvalidArgumentError("a frame of type 99"));
  EXPECT_THAT(in_flight.Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("type 99")));
  EXPECT_THAT(Send().Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no room")));
  EXPECT_THAT(channel_->Describe(), HasSubstr("no room"));
}

TEST_F(ChannelTest, TheEndOfItsConnectionIsItsLastFailure) {
  Make();
  Connect();
  fakes_->at(0).DeliverClosed(absl::InvalidArgumentError("a frame of type 99"));
  EXPECT_EQ(channel_->state(), ChannelState::kIdle);
  EXPECT_THAT(channel_->Describe(), HasSubstr("type 99"));
}

TEST_F(ChannelTest, CallsInFlightAreToldThatTheChannelWasClosed) {
  Make();
  Connect();
  FakeConnection& old = fakes_->at(0);
  Pending of_old = Send();
  old.Deliver(MakeControl(FrameType::kGoAway));
  Connect();
  Pending in_flight = Send();
  channel_->Close();
  fakes_->End();
  for (Pending* const call : {&of_old, &in_flight}) {
    const Pending::Result result = call->Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                                 HasSubstr("connection lost (the channel was closed)")));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  }
}

TEST_F(ChannelTest, CallsInFlightAreToldThatThePeerHasClosed) {
  Make();
  Connect();
  Pending in_flight = Send();
  fakes_->End();
  EXPECT_THAT(in_flight.Wait(), StatusIs(absl::StatusCode::kUnavailable,
                                         HasSubstr("connection lost (closed by the peer)")));
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
