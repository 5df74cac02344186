// What a session makes of messages that its connection had accepted and dropped unsent.

#include <optional>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/fake_clock.h"
#include "rpc/call_repeats.h"
#include "rpc/error_codec.h"
#include "rpc/retry_info.h"
#include "rpc/retry_policy.h"
#include "rpc/session_fixture.h"

namespace mi7 {
namespace {

using testing::StartsWith;
using transport::FrameType;
using transport::IncomingMessage;

// What a shared-memory ring carries besides the header.
constexpr size_t kBytesWithoutMemory = 192;

TEST_F(SessionTest, CallThatTheConnectionDroppedUnsentWasNotSent) {
  Start();
  Pending sent = Send(), unsent = Send({.repeat = Repeat::kNever});
  connection_->TakeSent();
  connection_->DeliverUnsent(connection_->TakeSent().header());
  connection_->DeliverClosed(absl::UnavailableError("reset by peer"));
  EXPECT_THAT(sent.Wait(), OutcomeIs(CallOutcome::kUnknown));
  const Pending::Result result = unsent.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               "Base.ping: connection lost; the call was not sent"));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionTest, ConnectionOfAPeerThatGoesIsClosedWhenItHasItsAnswers) {
  Start();
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  connection_->SetUnsent(true);
  connection_->Deliver(MakeControl(FrameType::kGoAway));
  EXPECT_EQ(connection_->closed_with(), std::nullopt);
  connection_->SetUnsent(false);
  EXPECT_THAT(connection_->closed_with(), testing::Optional(IsOk()));
}

TEST_F(SessionTest, CallThatTheConnectionDroppedUnsentGoesToTheChannelsNext) {
  Start();
  Pending unsent = Send();
  connection_->DeliverUnsent(connection_->TakeSent().header());
  EXPECT_TRUE(session_->calls().stopped()) << "this connection gets no more";
  // The channel's endpoint is nobody's.
  const Pending::Result result = unsent.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               testing::HasSubstr("inproc:never-connected")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionTest, CallThatTheConnectionRefusedWhileItEndedGoesToTheChannelsNext) {
  Start();
  Pending sent = Send();
  absl::Notification in_send, ending;
  connection_->DoAtNextSend([&] {
    in_send.Notify();
    ending.WaitForNotification();
    return absl::UnavailableError("fake connection is closed");
  });
  std::optional<Pending> unsent;
  std::thread sender(
      [&] { unsent.emplace(Send({.deadline = Deadline::After(absl::Seconds(10))})); });
  in_send.WaitForNotification();
  // The session ends the calls in turn: at this moment it has taken the second out of its table,
  // and not yet looked whether that was sent.
  sent.Then([&](const Pending::Result&) {
    ending.Notify();
    sender.join();
  });
  connection_->DeliverClosed(absl::UnavailableError("reset by peer"));
  const Pending::Result result = unsent->Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               testing::HasSubstr("inproc:never-connected")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionTest, CallThatIsCancelledAfterTheConnectionRefusedItWasNotSent) {
  Start();
  Pending sent = Send();
  absl::Notification in_send, ending;
  connection_->DoAtNextSend([&] {
    in_send.Notify();
    ending.WaitForNotification();
    return absl::UnavailableError("fake connection is closed");
  });
  std::optional<Pending> unsent;
  std::thread sender([&] { unsent.emplace(Send()); });
  in_send.WaitForNotification();
  // As above: it is refused, and nobody has ended it for that yet.
  sent.Then([&](const Pending::Result&) {
    ending.Notify();
    sender.join();
    unsent->Cancel();
  });
  connection_->DeliverClosed(absl::UnavailableError("reset by peer"));
  const Pending::Result result = unsent->Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled,
                               "Base.ping: cancelled; the call was not sent"));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionTest, CallThatIsCancelledWhileTheConnectionRefusesItLeavesNothingBehind) {
  Start();
  absl::Notification in_send, cancelled;
  connection_->DoAtNextSend([&] {
    in_send.Notify();
    cancelled.WaitForNotification();
    return absl::ResourceExhaustedError("no room");
  });
  ClientCall* const call = NewCall();
  Pending unsent{ClientCallRef(call)};
  std::thread sender([&] { session_->calls().Send(call); });
  in_send.WaitForNotification();
  call->Cancel();
  cancelled.Notify();
  sender.join();
  const Pending::Result result = unsent.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown)) << "at that moment";
  EXPECT_EQ(connection_->sent_count(), 0u) << "nobody is told that it is cancelled";
  EXPECT_TRUE(session_->calls().idle());
}

// Cancel comes, from another thread, right before the channel looks for a connection.
TEST_F(SessionTest, CallThatIsCancelledBeforeItHasAConnectionDoesNotWaitForOne) {
  ClientCall* const call = channel_->NewCall(kBaseInfo, kBaseMethods[0], {});
  Pending cancelled{ClientCallRef(call)};
  call->request().initRoot<TestMessage>().setKey("request");
  call->Cancel();
  channel_->StartCall(call);
  EXPECT_EQ(channel_->state(), ChannelState::kIdle) << "it would be sent";
  const Pending::Result result = cancelled.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled,
                               "Base.ping: cancelled; the call was not sent"));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionTest, CallForWhichThereWasNoMemoryFailsAlone) {
  Start();
  Pending unsent = Send(), sent = Send();
  connection_->DeliverUnsent(connection_->TakeSent().header(),
                             absl::ResourceExhaustedError("shared memory: no memory"));
  const Pending::Result result = unsent.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                               "Base.ping: shared memory: no memory; the call was not sent"));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  EXPECT_THAT(sent.Wait(), IsOk());
}

TEST_F(SessionTest, AnswerForWhichThereWasNoMemoryBecomesAnError) {
  Start();
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  const std::string reason(1000, 'x');
  connection_->DeliverUnsent(connection_->TakeSent().header(),
                             absl::ResourceExhaustedError(reason));
  const IncomingMessage told = connection_->TakeSent();
  EXPECT_EQ(told.header().call_id, 7u);
  EXPECT_THAT(ReturnStatus(told), StatusIs(absl::StatusCode::kResourceExhausted,
                                           StartsWith("the call has run; results: xxx")));
  EXPECT_LE(told.extra().size(), kBytesWithoutMemory) << "needs no memory itself";
}

TEST_F(SessionTest, ErrorForWhoseTextThereWasNoMemoryKeepsItsCode) {
  Start();
  connection_->Deliver(MakeCall(7, kOtherId, kOtherId, 0));
  connection_->DeliverUnsent(connection_->TakeSent().header(),
                             absl::ResourceExhaustedError("no memory"));
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kUnimplemented, "text lost: no memory"));
}

TEST_F(SessionTest, AnswersThatAreLostWithTheConnectionAreNotSentAgain) {
  Start();
  connection_->Deliver(MakeCall(7, kBaseId, kBaseId, 0));
  connection_->DeliverUnsent(connection_->TakeSent().header());
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(SessionTest, CallThatExpiresBeforeItLeftWasNotSent) {
  FakeClock clock;  // or the deadline might pass before the call is sent
  Start();
  connection_->LetWithdraw();
  Pending call = Send({.deadline = Deadline::After(absl::Hours(1))});
  clock.Advance(absl::Hours(1));
  const Pending::Result result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               "Base.ping: deadline passed; the call was not sent"));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_TRUE(session_->calls().idle());
  EXPECT_EQ(connection_->sent_count(), 1u) << "nobody is told that it is cancelled";
}

TEST_F(SessionTest, CallThatIsCancelledBeforeItLeftWasNotSentAndItsIdIsFree) {
  Start();
  connection_->LetWithdraw();
  absl::Status first;
  Pending call = Send();
  const CallCanceller canceller = call.canceller();
  call.Then([&](const Pending::Result& result) { first = result.status(); });
  EXPECT_TRUE(connection_->background());
  canceller.Cancel();
  EXPECT_THAT(first, StatusIs(absl::StatusCode::kCancelled,
                              "Base.ping: cancelled; the call was "
                              "not sent"));
  EXPECT_FALSE(connection_->background());
  const uint32_t id = connection_->TakeSent().header().call_id;
  Pending next = Send();
  EXPECT_EQ(connection_->TakeSent().header().call_id, id);
  connection_->Deliver(MakeReturn(id));
  EXPECT_THAT(next.Wait(), IsOk());
}

TEST_F(SessionTest, CallThatIsCancelledWhileTheServerGoesAwayIsAnsweredAndClosesTheConnection) {
  Start();
  connection_->LetWithdraw();
  Pending call = Send();
  const uint32_t id = connection_->TakeSent().header().call_id;
  connection_->Deliver(MakeControl(FrameType::kGoAway));
  call.Cancel();
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
  EXPECT_FALSE(connection_->closed_with());
  connection_->Deliver(MakeReturn(id));
  EXPECT_TRUE(connection_->closed_with());
}

// It was cancelled at the moment at which its group was to hold it.
TEST_F(SessionTest, RequestOfACallThatIsOverBeforeItIsHeldIsNotCounted) {
  Start();
  const ClientCallRef call(NewCall());
  CallRepeats repeats(*call.get(), Repeat::kUnlessItRan, channel_->retry_policy());
  const size_t all = RetryOptions().kept_bytes_max;
  ASSERT_TRUE(channel_->KeepBytes(all));
  repeats.Stop();
  repeats.HoldUnsent(transport::NewHeapMessage(64), all);
  EXPECT_TRUE(channel_->KeepBytes(all));
  channel_->LetGoBytes(all);
}

// The channel has made its timers only after that.
TEST_F(SessionTest, CallThatWouldBeMadeAgainLaterFailsOnceItsChannelIsClosed) {
  Start();
  Pending call = Send();
  channel_->Close();
  transport::OutgoingMessage refusal =
      MakeControl(FrameType::kReturn, connection_->TakeSent().header().call_id);
  EncodeError(WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Hours(1)),
              /*refused=*/true, {}, *refusal);
  connection_->Deliver(std::move(refusal));
  std::optional<absl::Status> told;
  absl::Notification ended;
  call.Then([&](const Pending::Result& result) {
    told = result.status();
    ended.Notify();
  });
  ASSERT_TRUE(ended.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_THAT(*told, StatusIs(absl::StatusCode::kFailedPrecondition,
                              testing::HasSubstr("channel is closed")));
}

}  // namespace
}  // namespace mi7
