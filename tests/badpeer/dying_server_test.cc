// A server that goes away, names the calls that it has accepted, and ends before it has refused the
// others: those have certainly not run, and are made once more.

#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/badpeer/bad_server.h"

namespace mi7::badpeer {
namespace {

class DyingServerTest : public BadServerTest {
 protected:
  // Two calls that have reached the server. Both are plain ones.
  void CallTwice(RawPeer& server) {
    accepted_.emplace(Send("accepted"));
    server = listener_.AcceptGreeted();
    accepted_id_ = TakeCall(server);
    late_.emplace(Send("late"));
    late_id_ = TakeCall(server);
    ASSERT_NE(accepted_id_, late_id_);
  }
  // The channel has read all that the server has sent.
  static void ExpectRead(RawPeer& server) {
    server.Send(Message(ControlHeader(FrameType::kPing, 1)));
    EXPECT_TRUE(server.ReadMessageOf(FrameType::kPong));
  }
  // The next server gets the late call and nothing else.
  void ExpectLateOneIsMadeAgain() {
    RawPeer next = listener_.AcceptGreeted();
    const std::optional<Received> again = next.ReadMessageOf(FrameType::kCall);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->text(), "late");
    next.Send(Message(ReturnHeader(again->header.call_id), EchoBody()));
    EXPECT_THAT(late_->Wait(), IsOk());
    EXPECT_FALSE(next.Readable(0)) << "nothing else";
  }

  std::optional<Pending> accepted_, late_;
  uint32_t accepted_id_ = 0, late_id_ = 0;
};

TEST_F(DyingServerTest, UnnamedCallIsMadeOnceMoreAndNamedOneMayHaveRun) {
  RawPeer server;
  ASSERT_NO_FATAL_FAILURE(CallTwice(server));
  server.Send(GoAwayNaming({accepted_id_}));
  server.Close();
  ExpectLateOneIsMadeAgain();
  EXPECT_THAT(accepted_->Wait(), OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(DyingServerTest, NamesMayComeWithAFurtherGoAway) {
  RawPeer server;
  ASSERT_NO_FATAL_FAILURE(CallTwice(server));
  server.Send(Message(ControlHeader(FrameType::kGoAway)));
  ExpectRead(server);
  server.Send(GoAwayNaming({accepted_id_}));
  server.Reset();
  // A reset may destroy what the channel has not read.
  if (const EchoResult result = accepted_->Wait(); !result.ok()) {
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  }
}

TEST_F(DyingServerTest, ConnectionThatIsResetAfterTheNamesWereReadIsNoOther) {
  RawPeer server;
  ASSERT_NO_FATAL_FAILURE(CallTwice(server));
  server.Send(GoAwayNaming({accepted_id_}));
  ExpectRead(server);
  server.Reset();
  ExpectLateOneIsMadeAgain();
  EXPECT_THAT(accepted_->Wait(), OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(DyingServerTest, WithoutNamesBothMayHaveRun) {
  RawPeer server;
  ASSERT_NO_FATAL_FAILURE(CallTwice(server));
  server.Send(Message(ControlHeader(FrameType::kGoAway)));
  server.Close();
  EXPECT_THAT(accepted_->Wait(), OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(late_->Wait(), OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(DyingServerTest, AnswersOfTheOtherKindAreTaken) {
  RawPeer server;
  ASSERT_NO_FATAL_FAILURE(CallTwice(server));
  // It refuses what it has named, and answers what it has not.
  server.Send(GoAwayNaming({accepted_id_}) + Message(ReturnHeader(late_id_), EchoBody()) +
              Refusal(accepted_id_));
  EXPECT_THAT(late_->Wait(), IsOk());
  RawPeer next = listener_.AcceptGreeted();
  const std::optional<Received> again = next.ReadMessageOf(FrameType::kCall);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->text(), "accepted");
  next.Send(Message(ReturnHeader(again->header.call_id), EchoBody()));
  EXPECT_THAT(accepted_->Wait(), IsOk());
  EXPECT_TRUE(server.Ends()) << "it has all its answers";
}

TEST_F(DyingServerTest, StrangeNamesSayNothingOfOtherCalls) {
  RawPeer server;
  ASSERT_NO_FATAL_FAILURE(CallTwice(server));
  server.Send(GoAwayNaming({accepted_id_, late_id_ + 1000, 200'000}));
  server.Close();
  ExpectLateOneIsMadeAgain();
  EXPECT_THAT(accepted_->Wait(), OutcomeIs(CallOutcome::kUnknown));
}

// More than limits.extra_bytes_max, and a list that says to be longer than memory is: as if nothing
// was named.
TEST_F(DyingServerTest, NamesThatCannotBeReadSayNothing) {
  FrameHeader malformed = ControlHeader(FrameType::kGoAway);
  const Words words = {uint64_t{4} << 32, uint64_t{1} << 32 | uint64_t{1} << 48, 1,
                       1 | uint64_t{2} << 32 | uint64_t{0x1fff'ffff} << 35, 0};
  malformed.extra_size = static_cast<uint32_t>(words.size() * sizeof(words[0]));
  for (const std::string& go_away :
       {GoAwayNaming({accepted_id_, 600'000}), Message(malformed, words)}) {
    RawPeer server;
    ASSERT_NO_FATAL_FAILURE(CallTwice(server));
    server.Send(go_away);
    ExpectRead(server);
    server.Send(Message(ReturnHeader(accepted_id_), EchoBody()));
    EXPECT_THAT(accepted_->Wait(), IsOk()) << "the connection goes on";
    server.Close();
    EXPECT_THAT(late_->Wait(), OutcomeIs(CallOutcome::kUnknown));
  }
}

}  // namespace
}  // namespace mi7::badpeer
