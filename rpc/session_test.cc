#include "rpc/session.h"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/retry_info.h"
#include "rpc/session_fixture.h"

namespace mi7 {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

TEST_F(SessionTest, CallCarriesItsTargetAndItsParams) {
  Start();
  Pending call = Send();
  const IncomingMessage sent = connection_->TakeSent();
  EXPECT_EQ(sent.header().type, FrameType::kCall);
  EXPECT_EQ(sent.header().target, transport::TargetKind::kService);
  EXPECT_EQ(sent.header().interface_id, kBaseId);
  EXPECT_EQ(sent.header().target_id, ServiceKey(kBaseId));
  EXPECT_EQ(sent.header().code, 0);
  EXPECT_EQ(sent.header().timeout, 0u) << "no deadline";
  EXPECT_EQ(KeyIn(sent), "request");
  EXPECT_THAT(transport::CheckFrameHeader(sent.header(), {}), IsOk());
}

TEST_F(SessionTest, ReturnEndsItsCallInAnyOrder) {
  Start();
  Pending first = Send(), second = Send();
  const uint32_t first_id = connection_->TakeSent().header().call_id;
  const uint32_t second_id = connection_->TakeSent().header().call_id;
  ASSERT_NE(first_id, second_id);
  connection_->Deliver(MakeReturn(second_id, "second"));
  connection_->Deliver(MakeReturn(first_id, "first"));
  EXPECT_EQ(first.Wait()->getKey(), "first");
  EXPECT_EQ(second.Wait()->getKey(), "second");
  EXPECT_TRUE(session_->calls().idle());
}

TEST_F(SessionTest, RemainingTimeTravels) {
  Start();
  Pending call = Send({.deadline = Deadline::After(absl::Seconds(100))});
  const int64_t timeout_ns = transport::DecodeTimeout(connection_->TakeSent().header().timeout);
  EXPECT_GT(timeout_ns, int64_t{40'000'000'000});
  EXPECT_LE(timeout_ns, int64_t{100'000'001'000});
}

TEST_F(SessionTest, ReturnForNoCallClosesTheConnection) {
  Start();
  connection_->Deliver(MakeReturn(3));
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_THAT(*connection_->closed_with(), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    "return for call 3, which is not in flight"));
}

TEST_F(SessionTest, SecondReturnForACallClosesTheConnection) {
  Start();
  Pending call = Send();
  const uint32_t id = connection_->TakeSent().header().call_id;
  connection_->Deliver(MakeReturn(id, "the first"));
  connection_->Deliver(MakeReturn(id, "the second"));
  EXPECT_EQ(call.Wait()->getKey(), "the first");
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_EQ(connection_->closed_with()->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionTest, ReturnWithNeitherErrorNorResultsIsInternal) {
  Start();
  Pending call = Send();
  OutgoingMessage message =
      MakeControl(FrameType::kReturn, connection_->TakeSent().header().call_id);
  connection_->Deliver(std::move(message));
  EXPECT_THAT(call.Wait(),
              StatusIs(absl::StatusCode::kInternal,
                       "Base.ping: the server's return has neither error nor results"));
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, ResultsWhoseRootIsMalformedAreInternal) {
  Start();
  Pending call = Send();
  FrameHeader header;
  header.type = FrameType::kReturn;
  header.call_id = connection_->TakeSent().header().call_id;
  // The root pointer itself points beyond the end.
  connection_->Deliver(MakeReceived(header, {0x0000000100000000, 0x0001000000000fff & ~3ull}));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kInternal,
                                    StartsWith("Base.ping: malformed Cap'n Proto message: ")));
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, ResultsOverALimitFailTheirCallOnly) {
  Start();
  Pending large = Send(), other = Send();
  FrameHeader header;
  header.type = FrameType::kReturn;
  header.call_id = connection_->TakeSent().header().call_id;
  connection_->DeliverRejected(header, absl::ResourceExhaustedError("too large"));
  EXPECT_THAT(large.Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted, "Base.ping: results: too large"));
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  EXPECT_THAT(other.Wait(), IsOk());
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, RejectedReturnForNoCallClosesTheConnection) {
  Start();
  FrameHeader header;
  header.type = FrameType::kReturn;
  header.call_id = 1;
  connection_->DeliverRejected(header, absl::ResourceExhaustedError("too large"));
  EXPECT_TRUE(connection_->closed_with());
}

TEST_F(SessionTest, CallOverALimitIsRefusedAndTheConnectionLives) {
  Start();
  FrameHeader header = MakeCall(9, kBaseId, kBaseId, 0)->header;
  connection_->DeliverRejected(header, absl::ResourceExhaustedError("too large"));
  const IncomingMessage answer = connection_->TakeSent();
  EXPECT_EQ(answer.header().call_id, 9u);
  EXPECT_THAT(ReturnStatus(answer),
              StatusIs(absl::StatusCode::kResourceExhausted, StartsWith("too large")));
  EXPECT_THAT(ReturnStatus(answer), OutcomeIs(CallOutcome::kRefused));
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, CallWithoutABodyIsRefused) {
  Start();
  OutgoingMessage call = MakeCall(9, kBaseId, kBaseId, 0);
  call->has_body = false;
  connection_->Deliver(std::move(call));
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("call without a body")));
}

TEST_F(SessionTest, CallIdInUseClosesTheConnection) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(5, kBaseId, kBaseId, 0));
  connection_->Deliver(MakeCall(5, kBaseId, kBaseId, 0));
  EXPECT_EQ(deferred_.size(), 1u);
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_THAT(*connection_->closed_with(), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    "call id 5 is in use by a call in flight"));
}

TEST_F(SessionTest, CallIdIsFreeAgainOnceAnswered) {
  Start();
  defer_ = true;
  for (int i = 0; i < 3; ++i) {
    connection_->Deliver(MakeCall(5, kBaseId, kBaseId, 0));
    deferred_.back().Finish(absl::OkStatus());
    EXPECT_THAT(ReturnStatus(connection_->TakeSent()), IsOk());
  }
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, CallsBeyondTheLimitAreRefused) {
  Limits limits;
  limits.calls_in_flight_max = 2;
  Start(limits);
  defer_ = true;
  for (uint32_t id = 0; id < 3; ++id) connection_->Deliver(MakeCall(id, kBaseId, kBaseId, 0));
  EXPECT_EQ(deferred_.size(), 2u);
  const IncomingMessage answer = connection_->TakeSent();
  EXPECT_EQ(answer.header().call_id, 2u);
  EXPECT_THAT(ReturnStatus(answer), StatusIs(absl::StatusCode::kResourceExhausted,
                                             StartsWith("calls_in_flight_max is 2")));
  EXPECT_THAT(ReturnStatus(answer), OutcomeIs(CallOutcome::kRefused));
  EXPECT_EQ(RetryAfter(ReturnStatus(answer)), LoadLimits().retry_after);
  deferred_[0].Finish(absl::OkStatus());
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()), IsOk());
  connection_->Deliver(MakeCall(3, kBaseId, kBaseId, 0));
  EXPECT_EQ(deferred_.size(), 3u);
}

TEST_F(SessionTest, OurCallsBeyondTheLimitFailUnsent) {
  Limits limits;
  limits.calls_in_flight_max = 2;
  Start(limits);
  Pending first = Send(), second = Send(), third = Send({.repeat = Repeat::kNever});
  EXPECT_EQ(connection_->sent_count(), 2u);
  const Pending::Result result = third.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                               HasSubstr("2 calls in flight, calls_in_flight_max is 2")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_EQ(RetryAfter(result.status()), LoadLimits().retry_after);
}

TEST_F(SessionTest, SideThatServesNothingRefusesCalls) {
  auto connection = std::make_shared<FakeConnection>();
  auto session = std::make_shared<Session>(connection, std::weak_ptr<Session::Observer>(),
                                           std::make_shared<SessionConfig>());
  connection->Start(session);
  connection->Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  const absl::Status status = ReturnStatus(connection->TakeSent());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnimplemented,
                               StartsWith("this end of the connection serves nothing")));
  EXPECT_THAT(status, OutcomeIs(CallOutcome::kRefused));
  connection->End();
}

TEST_F(SessionTest, CancelReachesTheHandler) {
  Start();
  defer_ = true;
  ServerContext* context = nullptr;
  LambdaService keeper(kOtherInfo, [&](uint64_t, uint16_t, ServerCall& call) {
    context = &call.context();
    deferred_.push_back(context->Defer());
    return Reply::Later();
  });
  ASSERT_THAT(dispatcher_.Add(&keeper), IsOk());
  connection_->Deliver(MakeCall(5, kOtherId, kOtherId, 0));
  connection_->Deliver(MakeControl(FrameType::kCancel, 4));
  EXPECT_FALSE(context->cancelled());
  connection_->Deliver(MakeControl(FrameType::kCancel, 5));
  EXPECT_TRUE(context->cancelled());
  deferred_[0].Finish(absl::OkStatus());
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()), IsOk()) << "a return still follows";
  connection_->Deliver(MakeControl(FrameType::kCancel, 5));  // too late: no matter
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, CancellingTellsTheServerAndKeepsTheIdUntilTheReturn) {
  Start();
  Pending call = Send();
  const uint32_t id = connection_->TakeSent().header().call_id;
  call.Cancel();
  const IncomingMessage cancel = connection_->TakeSent();
  EXPECT_EQ(cancel.header().type, FrameType::kCancel);
  EXPECT_EQ(cancel.header().call_id, id);
  EXPECT_THAT(transport::CheckFrameHeader(cancel.header(), {}), IsOk());
  EXPECT_THAT(call.Wait(),
              StatusIs(absl::StatusCode::kCancelled, StartsWith("Base.ping: cancelled")));
  Pending next = Send();
  EXPECT_NE(connection_->TakeSent().header().call_id, id);
  connection_->Deliver(MakeReturn(id));
  EXPECT_FALSE(connection_->closed_with());
  Pending after = Send();
  EXPECT_EQ(connection_->TakeSent().header().call_id, id);
}

TEST_F(SessionTest, DroppedCallIsCancelled) {
  Start();
  { Pending dropped = Send(); }
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCall);
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
}

TEST_F(SessionTest, PingIsAnsweredWithItsId) {
  Start();
  connection_->Deliver(MakeControl(FrameType::kPing, 77));
  const IncomingMessage pong = connection_->TakeSent();
  EXPECT_EQ(pong.header().type, FrameType::kPong);
  EXPECT_EQ(pong.header().call_id, 77u);
  connection_->Deliver(MakeControl(FrameType::kPong, 5));
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, HelloAfterTheHandshakeClosesTheConnection) {
  Start();
  connection_->Deliver(MakeControl(FrameType::kHello));
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_THAT(*connection_->closed_with(), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    "message of type 1 after the handshake"));
}

TEST_F(SessionTest, LostConnectionEndsCallsAsMayHaveRun) {
  Start();
  Pending call = Send();
  std::optional<absl::Status> by_callback;
  Send().Then([&](Pending::Result result) { by_callback = result.status(); });
  EXPECT_TRUE(connection_->background());
  connection_->DeliverClosed(absl::UnavailableError("reset by peer"));
  const Pending::Result result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               "Base.ping: connection lost: reset by peer; the call may have run"));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ASSERT_TRUE(by_callback);
  EXPECT_THAT(*by_callback, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(events_, ElementsAre("UNAVAILABLE: reset by peer"));
}

TEST_F(SessionTest, CallAfterTheEndWasNotSent) {
  Start();
  connection_->DeliverClosed(absl::UnavailableError("reset by peer"));
  const Pending::Result result = Send({.repeat = Repeat::kNever}).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("reset by peer")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionTest, CallThatCannotBeSentFailsWithTheReason) {
  Start();
  connection_->FailSends(absl::ResourceExhaustedError("queue is full"));
  const Pending::Result result = Send().Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                               "Base.ping: queue is full; the call was not sent"));
  EXPECT_TRUE(session_->calls().idle());
}

TEST_F(SessionTest, GoAwayLetsCallsEndAndThenCloses) {
  Start();
  Pending call = Send();
  const uint32_t id = connection_->TakeSent().header().call_id;
  connection_->Deliver(MakeControl(FrameType::kGoAway));
  EXPECT_THAT(events_, ElementsAre("go away"));
  EXPECT_FALSE(connection_->closed_with());
  EXPECT_THAT(Send().Wait(), OutcomeIs(CallOutcome::kNotSent));
  connection_->Deliver(MakeReturn(id));
  EXPECT_THAT(call.Wait(), IsOk());
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_THAT(*connection_->closed_with(), IsOk());
}

TEST_F(SessionTest, GoAwayClosesAnIdleConnectionAtOnce) {
  Start();
  connection_->Deliver(MakeControl(FrameType::kGoAway));
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_THAT(*connection_->closed_with(), IsOk());
}

TEST_F(SessionTest, DrainOfAnIdleSessionIsDoneAtOnce) {
  Start();
  session_->Drain();
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kGoAway);
  EXPECT_THAT(events_, ElementsAre("drained"));
  connection_->Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  const absl::Status refused = ReturnStatus(connection_->TakeSent());
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kUnavailable, StartsWith("server is shutting down")));
  EXPECT_THAT(refused, OutcomeIs(CallOutcome::kRefused));
}

TEST_F(SessionTest, ResultsThatCannotBeSentBecomeAnError) {
  Limits small;
  small.message_bytes_max = 4096;
  small.extra_bytes_max = 1024;
  connection_ = std::make_shared<FakeConnection>(small);
  Start(small);
  const std::string big(8000, 'x');
  LambdaService boaster(kOtherInfo, [&](uint64_t, uint16_t, ServerCall& call) -> Reply {
    call.Results<TestMessage>().setKey(big.c_str());
    return absl::OkStatus();
  });
  ASSERT_THAT(dispatcher_.Add(&boaster), IsOk());
  connection_->Deliver(MakeCall(1, kOtherId, kOtherId, 0));
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(StartsWith("results: "), HasSubstr("4096"))));
  EXPECT_FALSE(connection_->closed_with());
}

TEST_F(SessionTest, CallbacksAndCoroutinesHoldTheBackgroundWhileTheyWait) {
  Start();
  Pending blocking = Send();
  EXPECT_FALSE(connection_->background());
  int done = 0;
  Send().Then([&](Pending::Result) { ++done; });
  Send().Then([&](Pending::Result) { ++done; });
  EXPECT_TRUE(connection_->background());
  connection_->TakeSent();
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  EXPECT_TRUE(connection_->background());
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  EXPECT_FALSE(connection_->background());
  EXPECT_EQ(done, 2);
}

TEST_F(SessionTest, WaitInsideACallbackIsRefused) {
  Start();
  std::optional<absl::Status> nested;
  Pending outer = Send();
  const uint32_t id = connection_->TakeSent().header().call_id;
  std::move(outer).Then([&](Pending::Result) { nested = Send().Wait().status(); });
  connection_->Deliver(MakeReturn(id));
  ASSERT_TRUE(nested);
  EXPECT_THAT(*nested, StatusIs(absl::StatusCode::kFailedPrecondition,
                                AllOf(StartsWith("Base.ping: Wait() inside a callback"),
                                      HasSubstr("use Then() or co_await"))));
}

TEST_F(SessionTest, ThrowingCallbackHurtsNobody) {
  Start();
  Send().Then([](Pending::Result) { throw 42; });
  Pending other = Send();
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  EXPECT_THAT(other.Wait(), IsOk());
}

TEST_F(SessionTest, LargeContinuationIsCalledOnce) {
  Start();
  std::array<char, 500> captured;
  captured.fill('x');
  int calls = 0;
  Send().Then(
      [captured, &calls](Pending::Result result) { calls += result.ok() && captured[499] == 'x'; });
  connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  EXPECT_EQ(calls, 1);
}

TEST_F(SessionTest, ManyCallsAtATimeThenNone) {
  Start();
  std::vector<Pending> calls;
  for (int i = 0; i < 1000; ++i) calls.push_back(Send());
  for (int i = 0; i < 1000; ++i) {
    connection_->Deliver(MakeReturn(connection_->TakeSent().header().call_id));
  }
  for (Pending& call : calls) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_TRUE(session_->calls().idle());
  Pending again = Send();
  EXPECT_EQ(connection_->TakeSent().header().call_id, 0u) << "the table starts anew";
}

}  // namespace
}  // namespace mi7
