// A server of an older mi7, or of somebody else, that does not recognize calls by their request ids
// and does not say so in its Hello, or is another one than before: what may have run is not
// repeated for the sake of its id.

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/badpeer/bad_server.h"
#include "transport/connection.h"

namespace mi7::badpeer {
namespace {

using testing::Not;

using OnceResult = absl::StatusOr<Response<Probe::OnceResults>>;

class OldServerTest : public BadServerTest {
 protected:
  PendingCall<Probe::OnceResults> SendOnce(CallOptions options = {}) {
    options.deadline = Deadline::After(kSoon);
    return ProbeStub(channel_).Once(options).Send();
  }
  RawPeer AcceptOld() {
    return listener_.AcceptGreeted(/*receive_buffer=*/0, Hello(1, 1, transport::kFeatureStreams));
  }
  // One that recognizes calls; 0: and does not say who it is.
  RawPeer AcceptInstance(uint8_t instance) {
    return listener_.AcceptGreeted(/*receive_buffer=*/0,
                                   Hello(1, 1, transport::kFeaturesOfAll, instance));
  }
  // `server` answers the call that comes next.
  void AnswerOnce(RawPeer& server, uint32_t run) {
    server.Send(Message(ReturnHeader(TakeCall(server)), OnceResults(run)));
  }
  // The next call that `server` gets is one that is made only now.
  void ExpectNothingElseCame(RawPeer& server) {
    Pending echo = Send("made now");
    const std::optional<Received> call = server.ReadMessageOf(FrameType::kCall);
    ASSERT_TRUE(call);
    ASSERT_EQ(call->header.code, EchoHeader(0).code);
    EXPECT_EQ(call->text(), "made now");
    server.Send(Message(ReturnHeader(call->header.call_id), EchoBody()));
    EXPECT_THAT(echo.Wait(), IsOk());
  }
};

TEST_F(OldServerTest, CallThatMayHaveRunIsMadeAgainWhereItIsRecognized) {
  auto call = SendOnce();
  RawPeer first = listener_.AcceptGreeted();
  TakeCall(first);
  first.Close();
  RawPeer second = listener_.AcceptGreeted();
  AnswerOnce(second, 7);
  const OnceResult result = call.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getRun(), 7u);
}

TEST_F(OldServerTest, CallThatMayHaveRunThereIsNotMadeAgain) {
  auto call = SendOnce();
  RawPeer first = AcceptOld();
  TakeCall(first);
  first.Close();
  const OnceResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(StartsWith("Probe.once: connection lost"),
                                     Not(HasSubstr("attempts")))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ExpectRecovers();
}

TEST_F(OldServerTest, CallThatMayHaveRunElsewhereIsNotSentThere) {
  auto call = SendOnce();
  RawPeer first = listener_.AcceptGreeted();
  TakeCall(first);
  first.Close();
  RawPeer second = AcceptOld();
  ASSERT_NO_FATAL_FAILURE(ExpectNothingElseCame(second));
  const OnceResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(StartsWith("Probe.once: an earlier attempt may have run"),
                                     HasSubstr("does not recognize calls that are made again"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(OldServerTest, CallThatMayHaveRunAtAnotherServerIsNotSentThere) {
  auto call = SendOnce();
  RawPeer first = AcceptInstance(1);
  TakeCall(first);
  first.Close();
  RawPeer second = AcceptInstance(2);
  ASSERT_NO_FATAL_FAILURE(ExpectNothingElseCame(second));
  const OnceResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kAborted,
                               AllOf(StartsWith("Probe.once: an earlier attempt may have run"),
                                     HasSubstr("on another server"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(OldServerTest, CallThatMayHaveRunWhereNobodySaysWhoHeIsIsNotMadeAgain) {
  auto call = SendOnce();
  RawPeer first = AcceptInstance(0);
  TakeCall(first);
  first.Close();
  const OnceResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ExpectRecovers();
}

TEST_F(OldServerTest, CallThatHasNotRunIsMadeAgainThere) {
  auto call = SendOnce();
  RawPeer server = AcceptOld();
  server.Send(Refusal(TakeCall(server)));
  AnswerOnce(server, 8);
  const OnceResult result = call.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getRun(), 8u);
}

TEST_F(OldServerTest, CallThatMayRunTwiceIsMadeAgainThere) {
  auto call = SendOnce({.repeat = Repeat::kIdempotent});
  for (int i = 0; i < 2; ++i) {
    RawPeer server = AcceptOld();
    TakeCall(server);
    server.Close();
  }
  RawPeer server = AcceptOld();
  AnswerOnce(server, 9);
  const OnceResult result = call.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getRun(), 9u);
}

}  // namespace
}  // namespace mi7::badpeer
