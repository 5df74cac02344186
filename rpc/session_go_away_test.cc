// GoAway that names the calls that were accepted: what a server says that drains, and what a client
// makes of it.

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/go_away.h"
#include "rpc/session_fixture.h"

namespace mi7 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Optional;
using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

using Ids = std::vector<uint32_t>;

class SessionGoAwayTest : public SessionTest {
 protected:
  void TearDown() override {
    deferred_.clear();  // the last one tells the observer that the session is drained
    SessionTest::TearDown();
  }
  // The next message that was sent is a sound GoAway; what it names.
  std::optional<Ids> TakeGoAway() {
    const IncomingMessage sent = connection_->TakeSent();
    EXPECT_EQ(sent.header().type, FrameType::kGoAway);
    EXPECT_THAT(transport::CheckFrameHeader(sent.header(), {}), IsOk());
    return AcceptedIn(sent, {});
  }
  // Told to go away, without a word of calls; more follows in a callback.
  void DrainAndTakeFirst() {
    session_->Drain();
    EXPECT_EQ(TakeGoAway(), std::nullopt);
    EXPECT_TRUE(connection_->TakeWritableRequest());
    EXPECT_EQ(connection_->sent_count(), 0u);
  }
  std::optional<Ids> DrainAndTakeNames() {
    DrainAndTakeFirst();
    connection_->DeliverWritable();
    return TakeGoAway();
  }
  // A service whose handlers do `action` and then answer at once.
  void Serve(std::function<void(ServerCall&)> action) {
    other_ = std::make_unique<LambdaService>(
        kOtherInfo, [action = std::move(action)](uint64_t, uint16_t, ServerCall& call) -> Reply {
          action(call);
          return EchoKey(call);
        });
    ASSERT_THAT(dispatcher_.Add(other_.get()), IsOk());
  }

  // With a call with this id in flight.
  void StartWithCall(uint32_t id, const Limits& limits) {
    connection_ = std::make_shared<FakeConnection>(limits);
    Start(limits);
    defer_ = true;
    connection_->Deliver(MakeCall(id, kBaseId, kBaseId, 0));
  }
  // With room for ids below 256.
  static Limits LittleRoom() {
    Limits limits;
    limits.extra_bytes_max = 64;  // of which the list has 32
    return limits;
  }
  static Limits WithCalls(uint32_t calls_in_flight_max) {
    Limits limits;
    limits.calls_in_flight_max = calls_in_flight_max;
    return limits;
  }

  // It is on its way to the connection when GoAway is read, and leaves when the server has said it.
  CallOutcome OutcomeOfCallThatCrosses(const Ids& accepted) {
    connection_->DoAtNextSend([&] {
      connection_->Deliver(NewGoAway(accepted));
      Lose();
      return absl::OkStatus();
    });
    return OutcomeOf(Send({.repeat = Repeat::kNever}).Wait().status());
  }

  // Calls of ours, which are not repeated, and their ids.
  Pending SendOne(uint32_t& id, const MethodInfo& method = kBaseMethods[0]) {
    Pending call = Send({.repeat = Repeat::kNever}, method);
    id = connection_->TakeSent().header().call_id;
    return call;
  }
  void Lose() { connection_->DeliverClosed(absl::UnavailableError("reset by peer")); }

  std::unique_ptr<LambdaService> other_;
};

// --- The server

TEST_F(SessionGoAwayTest, DrainNamesTheCallsThatAreAnsweredLater) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(9, kBaseId, kBaseId, 0));
  connection_->Deliver(MakeCall(5, kBaseId, kBaseId, 0));
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(5u, 9u)));
  connection_->DeliverWritable();
  EXPECT_EQ(connection_->sent_count(), 0u) << "once";
}

TEST_F(SessionGoAwayTest, DrainNamesNoCallThatWasAnswered) {
  Start();
  connection_->Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  defer_ = true;
  connection_->Deliver(MakeCall(2, kBaseId, kBaseId, 0));
  connection_->Deliver(MakeCall(3, kBaseId, kBaseId, 0));
  deferred_[0].Finish(absl::OkStatus());
  for (int i = 0; i < 2; ++i) EXPECT_THAT(ReturnStatus(connection_->TakeSent()), IsOk());
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(3u)));
}

TEST_F(SessionGoAwayTest, DrainNamesNoCallThatItRefuses) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  DrainAndTakeFirst();
  connection_->Deliver(MakeCall(2, kBaseId, kBaseId, 0));
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()), OutcomeIs(CallOutcome::kRefused));
  connection_->DeliverWritable();
  EXPECT_THAT(TakeGoAway(), Optional(ElementsAre(1u)));
}

TEST_F(SessionGoAwayTest, CallThatWasCancelledIsNamedUntilItsReturn) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  connection_->Deliver(MakeControl(FrameType::kCancel, 1));
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(1u)));
}

// It is in no table, and its return may be held back.
TEST_F(SessionGoAwayTest, NothingIsSaidWhileACallIsAnsweredInline) {
  Start();
  Serve([this](ServerCall&) { session_->Drain(); });
  connection_->Deliver(MakeCall(7, kOtherId, kOtherId, 0));
  EXPECT_EQ(TakeGoAway(), std::nullopt);
  const IncomingMessage answer = connection_->TakeSent();
  EXPECT_EQ(answer.header().type, FrameType::kReturn);
  EXPECT_EQ(answer.header().call_id, 7u);
  connection_->DeliverWritable();
  EXPECT_THAT(TakeGoAway(), Optional(IsEmpty()));
}

TEST_F(SessionGoAwayTest, CallThatBecomesAsynchronousDuringTheDrainIsNamed) {
  Start();
  LambdaService service(kOtherInfo, [this](uint64_t, uint16_t, ServerCall& call) {
    session_->Drain();
    deferred_.push_back(call.context().Defer());
    return Reply::Later();
  });
  ASSERT_THAT(dispatcher_.Add(&service), IsOk());
  connection_->Deliver(MakeCall(7, kOtherId, kOtherId, 0));
  EXPECT_EQ(TakeGoAway(), std::nullopt);
  connection_->DeliverWritable();
  EXPECT_THAT(TakeGoAway(), Optional(ElementsAre(7u)));
  deferred_[0].Finish(absl::OkStatus());
}

// By another thread than the driving one, which comes to it at this moment.
TEST_F(SessionGoAwayTest, CallWhoseReturnIsBeingSentIsNamed) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(4, kBaseId, kBaseId, 0));
  connection_->Deliver(MakeCall(6, kBaseId, kBaseId, 0));
  DrainAndTakeFirst();
  std::optional<Ids> named;
  connection_->DoAtNextSend([&] {
    connection_->DeliverWritable();
    named = TakeGoAway();
    return absl::OkStatus();
  });
  deferred_[1].Finish(absl::OkStatus());
  EXPECT_THAT(named, Optional(ElementsAre(4u, 6u)));
}

// The caller has its answer, and uses the id again, before the thread that sent it goes on.
TEST_F(SessionGoAwayTest, ReturnThatIsBeingSentDoesNotTakeTheNextCallWithItsIdAlong) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(4, kBaseId, kBaseId, 0));
  connection_->DoAtNextSend([&] {
    connection_->Deliver(MakeCall(4, kBaseId, kBaseId, 0));
    return absl::OkStatus();
  });
  deferred_[0].Finish(absl::OkStatus());
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(4u)));
}

TEST_F(SessionGoAwayTest, IdleServerThatAsksItsClientToCloseNamesNothing) {
  Start();
  session_->EndIdle(/*asked=*/false);
  EXPECT_EQ(TakeGoAway(), std::nullopt);
  EXPECT_FALSE(connection_->TakeWritableRequest());
  connection_->DeliverWritable();
  EXPECT_EQ(connection_->sent_count(), 0u);
  // It answers what crosses that; and may be drained after all.
  defer_ = true;
  connection_->Deliver(MakeCall(3, kBaseId, kBaseId, 0));
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(3u)));
}

TEST_F(SessionGoAwayTest, IdsAreNamedThatFit) {
  StartWithCall(255, LittleRoom());
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(255u)));
}

TEST_F(SessionGoAwayTest, OfIdsThatDoNotFitNothingIsSaid) {
  StartWithCall(256, LittleRoom());
  DrainAndTakeFirst();
  connection_->DeliverWritable();
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(SessionGoAwayTest, IdsOfOurClientsAreNamed) {
  StartWithCall(2 + kControlCallsReserved - 1, WithCalls(2));
  EXPECT_THAT(DrainAndTakeNames(), Optional(ElementsAre(2 + kControlCallsReserved - 1)));
}

// There is room, but a client is not to say how much of it is used.
TEST_F(SessionGoAwayTest, OfIdsThatOurClientsDoNotHaveNothingIsSaid) {
  StartWithCall(2 + kControlCallsReserved, WithCalls(2));
  DrainAndTakeFirst();
  connection_->DeliverWritable();
  EXPECT_EQ(connection_->sent_count(), 0u);
}

// A client may choose any.
TEST_F(SessionGoAwayTest, OfTheHighestIdNothingIsSaid) {
  Start();
  defer_ = true;
  connection_->Deliver(MakeCall(std::numeric_limits<uint32_t>::max(), kBaseId, kBaseId, 0));
  DrainAndTakeFirst();
  connection_->DeliverWritable();
  EXPECT_EQ(connection_->sent_count(), 0u);
}

// --- The client

TEST_F(SessionGoAwayTest, LostCallIsRefusedUnlessItWasNamed) {
  Start();
  uint32_t named_id, unnamed_id;
  Pending named = SendOne(named_id), unnamed = SendOne(unnamed_id);
  std::optional<absl::Status> by_callback;
  Send({.repeat = Repeat::kNever}).Then([&](Pending::Result result) {
    by_callback = result.status();
  });
  connection_->Deliver(NewGoAway(Ids{named_id}));
  EXPECT_THAT(events_, ElementsAre("go away"));
  EXPECT_FALSE(connection_->closed_with());
  EXPECT_FALSE(by_callback) << "its id is taken until the return";
  Lose();
  const Pending::Result unknown = named.Wait(), refused = unnamed.Wait();
  EXPECT_THAT(unknown,
              StatusIs(absl::StatusCode::kUnavailable,
                       "Base.ping: connection lost: reset by peer; the call may have run"));
  EXPECT_THAT(unknown, OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kUnavailable,
                       "Base.ping: connection lost: reset by peer; the call was refused and has "
                       "not run"));
  EXPECT_THAT(refused, OutcomeIs(CallOutcome::kRefused));
  ASSERT_TRUE(by_callback);
  EXPECT_THAT(*by_callback, OutcomeIs(CallOutcome::kRefused));
}

// It may be in flight beyond the limit, with an id that no other call has.
TEST_F(SessionGoAwayTest, CallOfControlPriorityThatWasNamedMayHaveRun) {
  static constexpr MethodInfo kHealth = {.interface_id = kBaseId,
                                         .method_id = 0,
                                         .name = "Base.health",
                                         .priority = Priority::kControl};
  connection_ = std::make_shared<FakeConnection>(WithCalls(1));
  Start(WithCalls(1));
  uint32_t unnamed_id, named_id;
  Pending unnamed = SendOne(unnamed_id), named = SendOne(named_id, kHealth);
  EXPECT_GT(named_id, unnamed_id);
  connection_->Deliver(NewGoAway(Ids{named_id}));
  Lose();
  EXPECT_THAT(named.Wait(), OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(unnamed.Wait(), OutcomeIs(CallOutcome::kRefused));
}

TEST_F(SessionGoAwayTest, GoAwayThatNamesNothingSaysNothing) {
  Start();
  uint32_t id;
  Pending call = SendOne(id);
  connection_->Deliver(NewGoAway());
  Lose();
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(SessionGoAwayTest, NamesMayComeAfterTheFirstGoAway) {
  Start();
  uint32_t named_id, unnamed_id;
  Pending named = SendOne(named_id), unnamed = SendOne(unnamed_id);
  connection_->Deliver(NewGoAway());
  connection_->Deliver(NewGoAway(Ids{named_id}));
  EXPECT_FALSE(connection_->closed_with());
  Lose();
  EXPECT_THAT(named.Wait(), OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(unnamed.Wait(), OutcomeIs(CallOutcome::kRefused));
}

// Whatever the server says of it: it may have run.
TEST_F(SessionGoAwayTest, CallThatWasNamedOnceStaysNamed) {
  Start();
  uint32_t id;
  Pending call = SendOne(id);
  connection_->Deliver(NewGoAway(Ids{id, id}));
  connection_->Deliver(NewGoAway(Ids{}));
  Lose();
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(SessionGoAwayTest, IdsThatAreNotInFlightSayNothing) {
  Start();
  uint32_t id;
  Pending call = SendOne(id);
  uint32_t given_up;
  { Pending dropped = SendOne(given_up); }
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
  connection_->Deliver(NewGoAway(Ids{id + 100, given_up, 200'000}, WithCalls(200'000)));
  EXPECT_FALSE(connection_->closed_with());
  Lose();
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kRefused));
}

TEST_F(SessionGoAwayTest, UnnamedCallsEndWithTheirReturns) {
  Start();
  uint32_t refused_id, answered_id;
  Pending refused = SendOne(refused_id), answered = SendOne(answered_id);
  connection_->Deliver(NewGoAway(Ids{}));
  OutgoingMessage refusal = MakeControl(FrameType::kReturn, refused_id);
  EncodeError(absl::UnavailableError("going away"), /*refused=*/true, {}, *refusal);
  connection_->Deliver(std::move(refusal));
  EXPECT_THAT(refused.Wait(), OutcomeIs(CallOutcome::kRefused));
  EXPECT_FALSE(connection_->closed_with());
  // A server that has accepted it after all: what it answers is the answer.
  connection_->Deliver(MakeReturn(answered_id, "answer"));
  EXPECT_EQ(answered.Wait()->getKey(), "answer");
  ASSERT_TRUE(connection_->closed_with());
  EXPECT_THAT(*connection_->closed_with(), IsOk());
}

TEST_F(SessionGoAwayTest, CallThatIsBeingSentIsRefusedUnlessItWasNamed) {
  Start();
  EXPECT_EQ(OutcomeOfCallThatCrosses({}), CallOutcome::kRefused);
}

TEST_F(SessionGoAwayTest, CallThatIsBeingSentAndWasNamedMayHaveRun) {
  Start();
  EXPECT_EQ(OutcomeOfCallThatCrosses({0}), CallOutcome::kUnknown);
}

TEST_F(SessionGoAwayTest, CallOfWhichNothingWasSentWasNotSent) {
  Start();
  connection_->DoAtNextSend([&] {
    connection_->Deliver(NewGoAway(Ids{0}));
    Lose();
    return absl::UnavailableError("fake connection is closed");
  });
  EXPECT_THAT(Send({.repeat = Repeat::kNever}).Wait(), OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(SessionGoAwayTest, NoCallIsSentAfterNames) {
  Start();
  uint32_t id;
  Pending call = SendOne(id);
  connection_->Deliver(NewGoAway(Ids{id}));
  EXPECT_THAT(Send({.repeat = Repeat::kNever}).Wait(), OutcomeIs(CallOutcome::kNotSent));
  EXPECT_EQ(connection_->sent_count(), 0u);
}

// More names than this end reads of: as if there were none.
TEST_F(SessionGoAwayTest, GoAwayOverALimitSaysNothingOfCalls) {
  Start();
  uint32_t id;
  Pending call = SendOne(id);
  FrameHeader header;
  header.type = FrameType::kGoAway;
  connection_->DeliverRejected(header, absl::ResourceExhaustedError("too large"));
  EXPECT_THAT(events_, ElementsAre("go away"));
  EXPECT_FALSE(connection_->closed_with());
  EXPECT_THAT(Send({.repeat = Repeat::kNever}).Wait(), OutcomeIs(CallOutcome::kNotSent));
  Lose();
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
}

// --- The extra part

IncomingMessage GoAwayOf(const std::vector<uint64_t>& extra) {
  FrameHeader header;
  header.type = FrameType::kGoAway;
  header.extra_size = static_cast<uint32_t>(extra.size() * sizeof(extra[0]));
  return MakeReceived(header, extra);
}

TEST(GoAwayExtraTest, IsReadAsItWasWritten) {
  Ids all(Limits().calls_in_flight_max + kControlCallsReserved);
  std::iota(all.begin(), all.end(), 0);
  for (const Ids& ids : {Ids{}, Ids{0}, Ids{1, 3, 63, 64, 65'535}, all}) {
    OutgoingMessage message = NewGoAway(ids);
    ASSERT_TRUE(message);
    ASSERT_THAT(transport::SealMessage(*message, {}), IsOk());
    EXPECT_THAT(transport::CheckFrameHeader(message->header, {}), IsOk());
    EXPECT_THAT(AcceptedIn(transport::MakeIncoming(std::move(message)), {}), Optional(ids));
  }
}

TEST(GoAwayExtraTest, HasABitForEachId) {
  OutgoingMessage message = NewGoAway(Ids{64, 3, 64});
  ASSERT_THAT(transport::SealMessage(*message, {}), IsOk());
  EXPECT_EQ(message->header.extra_size, 6 * sizeof(uint64_t)) << "two words of bits";
  EXPECT_THAT(AcceptedIn(transport::MakeIncoming(std::move(message)), {}),
              Optional(ElementsAre(3u, 64u)));
}

TEST(GoAwayExtraTest, IdsThatNoCallHasAreLeftOut) {
  Limits others;
  others.calls_in_flight_max = 500'000;
  OutgoingMessage message = NewGoAway(Ids{7, 65'599, 65'600, 500'000}, others);
  ASSERT_THAT(transport::SealMessage(*message, {}), IsOk());
  EXPECT_THAT(AcceptedIn(transport::MakeIncoming(std::move(message)), {}),
              Optional(ElementsAre(7u, 65'599u)));
}

// Of a segment of `words` words behind its table: a struct of a data word and a pointer, as
// GoAwayExtra is, and its list.
constexpr uint64_t Table(uint64_t words) { return words << 32; }
constexpr uint64_t kStruct = uint64_t{1} << 32 | uint64_t{1} << 48;
constexpr uint64_t kIsMeant = 1;
constexpr uint64_t List(uint64_t element_size, uint64_t count) {
  return 1 | element_size << 32 | count << 35;
}

TEST(GoAwayExtraTest, MalformedOnesSayNothing) {
  constexpr uint64_t kMost = (1u << 29) - 1;
  // As the others are but for one thing.
  ASSERT_THAT(AcceptedIn(GoAwayOf({Table(4), kStruct, kIsMeant, List(2, 8), 5}), {}),
              Optional(ElementsAre(0u, 2u)));
  const struct {
    const char* what;
    std::vector<uint64_t> extra;
  } kCases[] = {
      {"nothing", {}},
      {"not meant", {Table(4), kStruct, 0, List(2, 8), 5}},
      {"a table and no segment", {Table(0)}},
      {"more segments than bytes", {Table(1) | 400}},
      {"a segment beyond the end", {Table(4), kStruct, kIsMeant}},
      {"a root beyond the end", {Table(1), kStruct | 1000 << 2}},
      {"a list that is longer than the message", {Table(4), kStruct, kIsMeant, List(2, kMost), 5}},
      {"a long list of nothing", {Table(3), kStruct, kIsMeant, List(0, kMost)}},
      {"a list of numbers", {Table(4), kStruct, kIsMeant, List(4, 2), 5}},
      {"a list of bits", {Table(4), kStruct, kIsMeant, List(1, 64), 5}},
      {"a list of pointers", {Table(4), kStruct, kIsMeant, List(6, 1), List(2, 1)}},
      {"a struct in place of the list", {Table(4), kStruct, kIsMeant, kStruct, 5}},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.what);
    EXPECT_EQ(AcceptedIn(GoAwayOf(test.extra), {}), std::nullopt);
  }
}

TEST_F(SessionGoAwayTest, MalformedNamesCostNothing) {
  Start();
  uint32_t id;
  Pending call = SendOne(id);
  connection_->Deliver(GoAwayOf({Table(4), kStruct, kIsMeant, List(2, 1000), 5}));
  EXPECT_FALSE(connection_->closed_with());
  EXPECT_THAT(events_, ElementsAre("go away"));
  connection_->Deliver(MakeReturn(id));
  EXPECT_THAT(call.Wait(), IsOk());
}

}  // namespace
}  // namespace mi7
