// A client that sends much of what costs it little: each kind of it is bounded, the connection that
// sends more is closed with what it was, and the server goes on with its other clients.

#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fake_clock.h"
#include "tests/badpeer/bad_client.h"

namespace mi7::badpeer {
namespace {

class FloodTest : public BadClientTest {
 protected:
  void StartWithStrayFrames(uint32_t most) {
    Limits limits;
    limits.stray_frames_max = most;
    Start(limits);
  }
  // The same as with one that breaks the protocol; should it go on instead, it says so at once.
  template <typename Matcher>
  void ExpectClosed(RawPeer& peer, const Matcher& why) {
    peer.Send(Message(ControlHeader(FrameType::kPing, 98)));
    std::optional<Received> close;
    do {
      close = peer.ReadMessage();
      ASSERT_TRUE(close) << "ended without a word";
      ASSERT_FALSE(close->header.type == FrameType::kPong && close->header.call_id == 98)
          << "the connection goes on";
    } while (close->header.type != FrameType::kClose);
    EXPECT_THAT(close->status(), why);
    EXPECT_TRUE(peer.Ends());
  }
  uint32_t HeldCalls() {
    const auto health =
        ProbeStub(channel_).Health({.deadline = Deadline::After(kSoon)}).Send().Wait();
    EXPECT_THAT(health, IsOk());
    return health.ok() ? health->getHeld() : ~0u;
  }
};

TEST_F(FloodTest, PingFloodClosesTheConnection) {
  StartWithStrayFrames(1000);
  RawPeer peer = Greeted();
  ASSERT_TRUE(peer.Send(Times(1000, Message(ControlHeader(FrameType::kPing, 1)))));
  for (int i = 0; i < 1000; ++i) {
    const std::optional<Received> pong = peer.ReadMessage();
    ASSERT_TRUE(pong);
    ASSERT_EQ(pong->header.type, FrameType::kPong) << i;
  }
  ExpectServed(peer);
  peer.Send(Message(ControlHeader(FrameType::kPing, 1)));
  ExpectClosed(peer,
               StatusIs(absl::StatusCode::kResourceExhausted,
                        "limits.stray_frames_max, 1000, pings, pongs, and frames of calls and "
                        "streams that are not in flight, within 10s"));
}

TEST_F(FloodTest, FloodsOfWhatServesNothingCloseTheConnection) {
  StartWithStrayFrames(1000);
  for (const FrameType type : {FrameType::kPong, FrameType::kCancel}) {
    RawPeer peer = Greeted();
    ASSERT_TRUE(peer.Send(Times(1000, Message(ControlHeader(type, 99)))));
    ExpectServed(peer);
    peer.Send(Message(ControlHeader(type, 99)));
    ExpectClosed(peer, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("limits.stray_frames_max, 1000")));
    EXPECT_TRUE(GoodClientIsServed());
  }
  // GoAway makes sense once.
  RawPeer peer = Greeted();
  peer.Send(HoldCall(1));
  ASSERT_TRUE(probe_.AwaitHeld(1));
  peer.Send(Times(1002, Message(ControlHeader(FrameType::kGoAway))));
  ExpectClosed(peer, StatusIs(absl::StatusCode::kResourceExhausted,
                              HasSubstr("limits.stray_frames_max, 1000")));
}

TEST_F(FloodTest, CancelFloodOnOneCallClosesTheConnection) {
  StartWithStrayFrames(1000);
  RawPeer peer = Greeted();
  ASSERT_TRUE(peer.Send(HoldCall(3) + Times(1001, Message(ControlHeader(FrameType::kCancel, 3)))));
  ExpectServed(peer);
  peer.Send(Message(ControlHeader(FrameType::kCancel, 3)));
  ExpectClosed(peer, StatusIs(absl::StatusCode::kResourceExhausted,
                              HasSubstr("limits.stray_frames_max, 1000")));
  const ProbeImpl::Held held = probe_.TakeHeld();
  EXPECT_TRUE(IsCancelled(held));
}

TEST_F(FloodTest, StrayFramesAreForgottenAfterAWhile) {
  FakeClock clock;
  StartWithStrayFrames(1000);
  RawPeer peer = Greeted();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(peer.Send(Times(900, Message(ControlHeader(FrameType::kCancel, 99)))));
    ExpectServed(peer);
    clock.Advance(kStrayPeriod);
  }
}

// Cancelling is what a caller may do, however often, with the calls that it makes.
TEST_F(FloodTest, CancellationsOfCallsAreNoFlood) {
  StartWithStrayFrames(5);
  RawPeer peer = Greeted();
  for (uint32_t id = 0; id < 200; ++id) {
    ASSERT_TRUE(peer.Send(HoldCall(id) + Message(ControlHeader(FrameType::kCancel, id))));
    ProbeImpl::Held held = probe_.TakeHeld();
    EXPECT_TRUE(IsCancelled(held));
    held.Answer();
    ExpectReturn(peer, id, IsOk());
  }
  ExpectServed(peer);
}

// What made servers of other protocols fall over: a call that is cancelled makes no room for
// another one, as long as its handler goes on.
TEST_F(FloodTest, CallsThatAreOpenedAndResetInALoopStartNoMoreHandlers) {
  Limits limits;
  limits.calls_in_flight_max = 10;
  Start(limits);
  RawPeer peer = Greeted();
  std::string many;
  for (uint32_t id = 0; id < 5000; ++id) {
    many += HoldCall(id) + Message(ControlHeader(FrameType::kCancel, id));
  }
  ASSERT_TRUE(peer.Send(many));
  for (uint32_t id = 10; id < 5000; ++id) {
    const std::optional<Received> refused = peer.ReadMessage();
    ASSERT_TRUE(refused);
    ASSERT_EQ(refused->header.call_id, id);
    ASSERT_THAT(refused->status(),
                StatusIs(absl::StatusCode::kResourceExhausted, "calls_in_flight_max is 10"));
    ASSERT_TRUE(refused->refused());
  }
  EXPECT_EQ(HeldCalls(), 10u);
  for (int i = 0; i < 10; ++i) probe_.TakeHeld().Answer();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(peer.ReadMessageOf(FrameType::kReturn));
  ExpectServed(peer);
}

// The same from many connections: each has its limit, and the server has one for all of them.
TEST_F(FloodTest, ManyConnectionsTogetherStartNoMoreHandlersThanTheServersLimit) {
  ServerOptions options;
  options.load.calls_max = 20;
  StartWith(options);
  std::vector<RawPeer> peers;
  uint32_t refused = 0;
  for (int i = 0; i < 10; ++i) {
    peers.push_back(Greeted());
    std::string many;
    for (uint32_t id = 0; id < 100; ++id) {
      many += HoldCall(id) + Message(ControlHeader(FrameType::kCancel, id));
    }
    ASSERT_TRUE(peers.back().Send(many + Message(ControlHeader(FrameType::kPing, 7))));
    for (std::optional<Received> received = peers.back().ReadMessage();
         received && received->header.type != FrameType::kPong;
         received = peers.back().ReadMessage()) {
      ++refused;
    }
  }
  EXPECT_EQ(refused, 980u);
  EXPECT_EQ(HeldCalls(), 20u);
  peers.clear();
  for (int i = 0; i < 20; ++i) probe_.TakeHeld().Answer();
}

// An overloaded server has no time to look at parameters.
TEST_F(FloodTest, CallsOverTheServersLimitAreRefusedUnread) {
  ServerOptions options;
  options.load.calls_max = 1;
  options.load.retry_after = absl::Milliseconds(123);
  StartWith(options);
  RawPeer peer = Greeted();
  peer.Send(HoldCall(1));
  ASSERT_TRUE(probe_.AwaitHeld(1));
  // Its root points far beyond its end.
  peer.Send(Message(EchoHeader(2), Body({0x0000'0001'7fff'fffc})));
  const std::optional<Received> answer = peer.ReadMessage();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.call_id, 2u);
  EXPECT_TRUE(answer->refused());
  EXPECT_THAT(answer->status(), StatusIs(absl::StatusCode::kResourceExhausted,
                                         "server is overloaded: load.calls_max is 1"));
  probe_.TakeHeld().Answer();
  ExpectReturn(peer, 1, IsOk());
}

// --- Slow ones

TEST_F(FloodTest, ClientThatWritesByteByByteHoldsUpNobody) {
  Start();
  RawPeer peer = Greeted();
  for (const char byte : EchoCall(5)) {
    ASSERT_TRUE(peer.Send(std::string(1, byte)));
    ASSERT_TRUE(GoodClientIsServed());
  }
  ExpectReturn(peer, 5, IsOk());
}

TEST_F(FloodTest, HalfMessagesKeepNoConnectionForEver) {
  FakeClock clock;
  Start();
  std::vector<RawPeer> peers;
  for (int i = 0; i < 20; ++i) {
    peers.push_back(Greeted());
    const std::string call = EchoCall(5);
    ASSERT_TRUE(peers.back().Send(call.substr(0, call.size() / 2)));
  }
  // Each look of the server takes a moment of real time.
  for (RawPeer& peer : peers) {
    const Deadline patience = Deadline::AtNanos(SystemNanos() + absl::ToInt64Nanoseconds(kSoon));
    while (!peer.Readable(10)) {
      ASSERT_LT(SystemNanos(), patience.at_ns());
      clock.Advance(absl::Seconds(15));
    }
    ExpectClosed(peer, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("limits.message_arrival_timeout, 1m")));
  }
}

}  // namespace
}  // namespace mi7::badpeer
