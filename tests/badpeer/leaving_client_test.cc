// Clients that leave in the middle, or that do not read.

#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/badpeer/bad_client.h"

namespace mi7::badpeer {
namespace {

// --- The end of the connection ---

TEST_F(BadClientTest, PeersThatResetAreForgottenAndTheirCallsCancelled) {
  Start();
  const std::string call = EchoCall(1);
  for (size_t bytes = 0; bytes <= call.size(); bytes += 8) {
    RawPeer peer = Greeted();
    peer.Send(HoldCall(7));
    ASSERT_TRUE(probe_.AwaitHeld(1));
    peer.Send(call.substr(0, bytes));
    peer.Reset();
    ProbeImpl::Held held = probe_.TakeHeld();
    ASSERT_TRUE(IsCancelled(held));
  }
}

TEST_F(BadClientTest, AnswersReachAPeerThatSendsNoMore) {
  Start();
  RawPeer peer = Greeted();
  std::string calls;
  for (uint32_t id = 0; id < 100; ++id) calls += EchoCall(id);
  peer.Send(calls);
  peer.CloseSending();
  for (uint32_t id = 0; id < 100; ++id) ExpectReturn(peer, id, IsOk());
  EXPECT_TRUE(peer.Ends());
}

TEST_F(BadClientTest, ClientThatSaysGoAwayStillGetsItsAnswers) {
  Start();
  RawPeer peer = Greeted();
  peer.Send(HoldCall(1) + HoldCall(2) + Message(ControlHeader(FrameType::kGoAway)) +
            Message(ControlHeader(FrameType::kPing, 3)));
  ASSERT_TRUE(probe_.AwaitHeld(2));
  // The server has read what came before the ping.
  ASSERT_TRUE(peer.ReadMessageOf(FrameType::kPong)) << "closed with calls in flight";
  probe_.TakeHeld().Answer();
  ExpectReturn(peer, 1, IsOk());
  EXPECT_TRUE(HasConnections(2)) << "one call is in flight still";
  probe_.TakeHeld().Answer();
  ExpectReturn(peer, 2, IsOk());
  EXPECT_TRUE(peer.Ends()) << "both sides are done with it";
}

TEST_F(BadClientTest, ClientThatSaysGoAwayWithoutACallIsLetGo) {
  Start();
  RawPeer peer = Greeted();
  peer.Send(EchoCall(1) + Message(ControlHeader(FrameType::kGoAway)));
  ExpectReturn(peer, 1, IsOk());
  EXPECT_TRUE(peer.Ends());
}

TEST_F(BadClientTest, MessageCutOffByTheEndIsForgotten) {
  Start();
  const std::string call = EchoCall(1);
  for (size_t bytes = 1; bytes < call.size(); bytes += 7) {
    RawPeer peer = Greeted();
    peer.Send(call.substr(0, bytes));
    peer.CloseSending();
    EXPECT_TRUE(peer.Ends());
  }
}

// --- Peers that do not read ---

TEST_F(BadClientTest, ServerStopsReadingFromAPeerThatReadsNothing) {
  probe_.on_echo = [](ServerContext&, Probe::EchoParams::Reader,
                      Probe::EchoResults::Builder results) -> Reply {
    results.initData(1 << 20);
    return absl::OkStatus();
  };
  Limits limits;
  limits.message_bytes_max = 2 << 20;
  limits.queued_bytes_max = 8 << 20;
  ServerOptions options;
  options.limits = limits;
  options.event_loops = 1;
  server_ =
      *ServerBuilder().SetOptions(options).AddService(&probe_).Listen("tcp:127.0.0.1:0").Start();
  endpoint_ = server_->endpoints()[0];
  channel_ = *Channel::Create(endpoint_);
  const auto good = [&] {
    auto request = ProbeStub(channel_).Echo({.deadline = Deadline::After(kSoon)});
    return request.Send().Wait().status();
  };
  ASSERT_THAT(good(), IsOk());

  const size_t before = ResidentBytes();
  RawPeer peer = RawPeer::Greeted(endpoint_, /*receive_buffer=*/4096);
  std::string calls;
  for (uint32_t id = 0; id < 100'000; ++id) calls += EchoCall(id);
  const size_t taken = peer.SendUntilBlocked(calls, /*patience_ms=*/500);
  EXPECT_LT(taken, calls.size()) << "the server must stop reading";
  EXPECT_THAT(good(), IsOk()) << "others are served";
  // The queue, one message over it, the system's buffers, and what the pool keeps warm.
  EXPECT_LT(ResidentBytes(), before + (40u << 20))
      << taken / EchoCall(0).size() << " calls of 1 MiB results were taken";
  peer.Reset();
  EXPECT_TRUE(HasConnections(1));
  // TearDown's good client expects an echo.
  channel_ = nullptr;
  server_ = nullptr;
  probe_.on_echo = conformance::Echo;
  Start();
}

TEST_F(BadClientTest, SmallAnswersThatNobodyReadsCountWithTheirMemory) {
  Limits limits;
  limits.message_bytes_max = 2 << 20;
  limits.queued_bytes_max = 8 << 20;
  Start(limits);
  // Many more than the system's buffers take of them, and of their answers.
  std::string calls;
  for (uint32_t id = 0; id < 400'000; ++id) calls += EchoCall(id % 60'000);
  RawPeer peer = RawPeer::Greeted(endpoint_, /*receive_buffer=*/4096);
  const size_t before = ResidentBytes();
  const size_t taken = peer.SendUntilBlocked(calls, /*patience_ms=*/500);
  EXPECT_LT(taken, calls.size()) << "the server must stop reading";
  EXPECT_TRUE(GoodClientIsServed());
  EXPECT_LT(ResidentBytes(), before + (40u << 20))
      << taken / EchoCall(0).size() << " calls were taken";
  // Nothing is lost by that.
  const size_t whole = taken / EchoCall(0).size();
  for (size_t i = 0; i < whole; ++i) {
    const std::optional<Received> answer = peer.ReadMessage();
    ASSERT_TRUE(answer) << "after " << i << " answers of " << whole;
    ASSERT_EQ(answer->header.call_id, i % 60'000);
  }
  peer.Reset();
}

TEST_F(BadClientTest, PeerThatReadsNothingIsClosedAfterTheStallTimeout) {
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "good") return conformance::Echo(context, params, results);
    results.initData(16 << 20);
    return absl::OkStatus();
  };
  Limits limits;
  limits.write_stall_timeout = absl::Milliseconds(200);
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_, /*receive_buffer=*/4096);
  EXPECT_TRUE(HasConnections(2));
  peer.Send(EchoCall(1));
  EXPECT_TRUE(HasConnections(1)) << "closed although the peer is still there";
}

TEST_F(BadClientTest, ManyBadPeersAtATimeHurtNobody) {
  Start();
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 6; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 60; ++i) {
        RawPeer peer = RawPeer::ConnectTo(endpoint_);
        std::string bytes = Greeting();
        for (uint32_t id = 0; id < random() % 5; ++id) bytes += EchoCall(id);
        // One byte changed, and cut off somewhere.
        bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
        bytes.resize(bytes.size() - random() % 64);
        peer.Send(bytes);
        if (random() % 2 == 0) {
          peer.Reset();
        } else {
          peer.CloseSending();
          EXPECT_TRUE(peer.Ends());
        }
      }
    });
  }
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(GoodClientIsServed());
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace mi7::badpeer
