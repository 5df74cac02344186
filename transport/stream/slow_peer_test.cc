// Peers that begin a message and do not complete it in time (Limits::message_arrival_timeout), and
// those that are slow, but complete it, or read.

#include <sched.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "transport/stream/raw_peer.h"
#include "transport/stream/testing.h"

namespace mi7::transport::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Of real time, for what takes a fraction of a second.
constexpr int64_t kPatienceNanos = 15'000'000'000;

class SlowPeerTest : public ::testing::TestWithParam<Endpoint::Scheme> {
 protected:
  void StartServer() {
    server_ = std::make_unique<TestServer>(options_, /*echo=*/false, /*loops=*/1,
                                           WaitPolicy::kAdaptive, GetParam());
  }
  RawPeer ConnectRaw() {
    RawPeer peer = RawPeer::ConnectTo(server_->endpoint());
    peer.Send(Greeting());
    return peer;
  }
  // Moves the clock on, in steps of `step`, until `receiver`'s connection is closed; by how much.
  // After each step the loops get some milliseconds to notice.
  absl::Duration AdvanceUntilClosed(const Recorder& receiver, absl::Duration step) {
    absl::Duration advanced;
    const int64_t patience_ns = SystemNanos() + kPatienceNanos;
    while (!receiver.closed() && SystemNanos() < patience_ns) {
      clock_.Advance(step);
      advanced += step;
      const int64_t step_ns = SystemNanos() + 20'000'000;
      while (!receiver.closed() && SystemNanos() < step_ns) ::sched_yield();
    }
    return advanced;
  }
  static void ExpectClosedAsSlow(Recorder& receiver) {
    ASSERT_TRUE(receiver.closed());
    EXPECT_THAT(receiver.WaitClosed().ToString(),
                AllOf(HasSubstr("RESOURCE_EXHAUSTED: "),
                      HasSubstr("has begun a message and not completed it within "
                                "limits.message_arrival_timeout, 1m, and the time of its bytes at "
                                "limits.message_arrival_bytes_per_second_min, 65536")));
  }

  FakeClock clock_;
  TransportOptions options_;
  std::unique_ptr<TestServer> server_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, SlowPeerTest,
                         ::testing::Values(Endpoint::Scheme::kTcp, Endpoint::Scheme::kUnix),
                         SchemeName);

TEST_P(SlowPeerTest, PeerThatStopsInsideAMessageIsClosedAndTold) {
  options_.limits.message_bytes_max = 64u << 10;
  StartServer();
  // In its body, in its header, and in what is dropped of a message that is too large.
  const std::string message = BytesOf(MakeMessage(FrameType::kCall, 1, 1000));
  std::string too_large = message.substr(0, 100);
  const uint32_t size = options_.limits.message_bytes_max + 8;
  std::memcpy(too_large.data() + offsetof(FrameHeader, size), &size, sizeof(size));
  int number = 0;
  for (const std::string& part : {message.substr(0, 500), message.substr(0, 5), too_large}) {
    RawPeer peer = ConnectRaw();
    auto [connection, receiver] = server_->Accepted(number++);
    peer.Send(part);
    const absl::Duration advanced = AdvanceUntilClosed(*receiver, absl::Seconds(5));
    ASSERT_NO_FATAL_FAILURE(ExpectClosedAsSlow(*receiver));
    EXPECT_GE(advanced, absl::Seconds(55));
    EXPECT_THAT(CloseIn(peer.Read()).ToString(), HasSubstr("limits.message_arrival_timeout, 1m"));
  }
}

TEST_P(SlowPeerTest, PeerThatSendsAByteNowAndThenIsClosed) {
  StartServer();
  RawPeer peer = ConnectRaw();
  auto [connection, receiver] = server_->Accepted(0);
  const std::string message = BytesOf(MakeMessage(FrameType::kCall, 1, 10'000));
  size_t sent = 0;
  const int64_t patience_ns = SystemNanos() + kPatienceNanos;
  while (!receiver->closed() && SystemNanos() < patience_ns) {
    ASSERT_LT(sent, message.size());
    peer.Send(message.substr(sent++, 1));
    clock_.Advance(absl::Seconds(1));
    const int64_t step_ns = SystemNanos() + 10'000'000;
    while (!receiver->closed() && SystemNanos() < step_ns) ::sched_yield();
  }
  ExpectClosedAsSlow(*receiver);
  EXPECT_GE(sent, 60u);
}

TEST_P(SlowPeerTest, SlowMessagesThatCompleteInTimeAndIdleConnectionsAreKept) {
  StartServer();
  // A large one has as much time as its bytes take.
  RawPeer large = ConnectRaw();
  auto [large_connection, at_large] = server_->Accepted(0);
  constexpr size_t kLarge = 48u << 20;  // 12 minutes
  const std::string message = BytesOf(MakeMessage(FrameType::kCall, 1, kLarge));
  large.Send(message.substr(0, kLarge - 1000));
  // One that came in pieces, and is followed by nothing.
  RawPeer idle = ConnectRaw();
  auto [idle_connection, at_idle] = server_->Accepted(1);
  const std::string small = BytesOf(MakeMessage(FrameType::kCall, 1, 1000));
  for (size_t at = 0; at < small.size(); at += 100) idle.Send(small.substr(at, 100));
  ASSERT_TRUE(at_idle->WaitMessages(1));
  // Meanwhile others are closed, one after the other.
  for (int i = 0; i < 2; ++i) {
    RawPeer stuck = ConnectRaw();
    auto [connection, receiver] = server_->Accepted(2 + i);
    stuck.Send(small.substr(0, 100));
    AdvanceUntilClosed(*receiver, absl::Seconds(2));
    ExpectClosedAsSlow(*receiver);
  }
  EXPECT_FALSE(at_large->closed());
  EXPECT_FALSE(at_idle->closed());
  large.Send(message.substr(kLarge - 1000));
  EXPECT_TRUE(at_large->WaitMessages(1));
  idle.Send(small);
  EXPECT_TRUE(at_idle->WaitMessages(2));
}

TEST_P(SlowPeerTest, RefusedMessageThatWasDroppedToItsEndIsOver) {
  options_.limits.message_bytes_max = 64u << 10;
  StartServer();
  RawPeer peer = ConnectRaw();
  auto [connection, receiver] = server_->Accepted(0);
  RawPeer other = ConnectRaw();
  auto [other_connection, at_other] = server_->Accepted(1);
  const std::string too_large = BytesOf(MakeMessage(FrameType::kCall, 1, 100'000));
  const std::string small = BytesOf(MakeMessage(FrameType::kCall, 1, 1000));
  // The one loop has read what came before it when it has delivered the other's message.
  peer.Send(too_large.substr(0, 50'000));
  other.Send(small);
  ASSERT_TRUE(at_other->WaitMessages(1));
  peer.Send(too_large.substr(50'000));
  for (int i = 0; i < 2; ++i) {
    RawPeer stuck = ConnectRaw();
    auto [stuck_connection, at_stuck] = server_->Accepted(2 + i);
    stuck.Send(small.substr(0, 100));
    AdvanceUntilClosed(*at_stuck, absl::Seconds(2));
    ExpectClosedAsSlow(*at_stuck);
  }
  EXPECT_FALSE(receiver->closed());
  peer.Send(small);
  EXPECT_TRUE(receiver->WaitMessages(1));
}

// Each message has its own time, however many follow each other without a pause in between.
TEST_P(SlowPeerTest, MessagesThatOverlapReadsForLongAreKept) {
  StartServer();
  RawPeer peer = ConnectRaw();
  auto [connection, receiver] = server_->Accepted(0);
  const std::string message = BytesOf(MakeMessage(FrameType::kCall, 1, 1000));
  RawPeer stuck = ConnectRaw();
  auto [stuck_connection, at_stuck] = server_->Accepted(1);
  stuck.Send(message.substr(0, 100));
  peer.Send(message.substr(0, 500));
  int messages = 0;
  const int64_t patience_ns = SystemNanos() + kPatienceNanos;
  while (!at_stuck->closed() && SystemNanos() < patience_ns) {
    peer.Send(message.substr(500) + message.substr(0, 500));
    ASSERT_TRUE(receiver->WaitMessages(++messages));
    clock_.Advance(absl::Seconds(10));
  }
  ExpectClosedAsSlow(*at_stuck);
  clock_.Advance(absl::Seconds(30));
  // The loop has looked at the time when it has served another one.
  RawPeer other = ConnectRaw();
  auto [other_connection, at_other] = server_->Accepted(2);
  other.Send(message);
  ASSERT_TRUE(at_other->WaitMessages(1));
  peer.Send(message.substr(500));
  EXPECT_TRUE(receiver->WaitMessages(messages + 1));
}

TEST_P(SlowPeerTest, ServerThatStopsInsideAnAnswerIsClosedUnderAThreadThatWaits) {
  RawServer server(GetParam());
  std::unique_ptr<RawPeer> peer;
  std::thread accepting([&] {
    peer = std::make_unique<RawPeer>(server.Accept());
    peer->Send(Greeting());
  });
  TestClient client(server.endpoint());
  accepting.join();
  ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, 1, 8)).ok());
  Completion never;
  std::thread waits([&] { client.connection().Await(never, Deadline::Infinite()); });
  peer->Send(BytesOf(MakeMessage(FrameType::kReturn, 1, 1000)).substr(0, 500));
  AdvanceUntilClosed(client.receiver(), absl::Seconds(5));
  ExpectClosedAsSlow(client.receiver());
  never.Complete();
  waits.join();
}

// A part now and then, each within Limits::write_stall_timeout, all together in more than three.
TEST_P(SlowPeerTest, PeerThatReadsSlowlyIsKept) {
  StartServer();
  RawPeer peer = ConnectRaw();
  auto [connection, receiver] = server_->Accepted(0);
  RawPeer other = ConnectRaw();
  auto [other_connection, at_other] = server_->Accepted(1);
  // More than the parts and what the system takes from one who is not read from.
  constexpr size_t kBytes = 48u << 20;
  constexpr size_t kPart = 4u << 20;
  constexpr int kParts = 8;
  const std::string message = BytesOf(MakeMessage(FrameType::kReturn, 1, kBytes));
  const size_t all = GreetingBytes() + message.size();
  ASSERT_TRUE(connection->Send(MakeMessage(FrameType::kReturn, 1, kBytes)).ok());
  const std::string small = BytesOf(MakeMessage(FrameType::kCall, 1, 1000));
  size_t read = 0;
  for (int part = 1; part <= kParts; ++part) {
    clock_.Advance(options_.limits.write_stall_timeout * 2 / 5);
    read += peer.Read(kPart).size();
    // The one loop has written what there was room for, and looked at the time, when it has
    // delivered the other's message.
    other.Send(small);
    ASSERT_TRUE(at_other->WaitMessages(part));
  }
  EXPECT_EQ(read, kParts * kPart);
  EXPECT_FALSE(receiver->closed());
  EXPECT_EQ(read + peer.Read(all - read).size(), all);
}

TEST_P(SlowPeerTest, WithoutALimitOnlyThePeerEndsAMessage) {
  options_.limits.message_arrival_timeout = absl::InfiniteDuration();
  StartServer();
  RawPeer peer = ConnectRaw();
  auto [connection, receiver] = server_->Accepted(0);
  const std::string message = BytesOf(MakeMessage(FrameType::kCall, 1, 1000));
  peer.Send(message + message.substr(0, 500));
  ASSERT_TRUE(receiver->WaitMessages(1));
  clock_.Advance(absl::Hours(1000));
  peer.Send(message.substr(500));
  EXPECT_TRUE(receiver->WaitMessages(2));
}

}  // namespace
}  // namespace mi7::transport::testing
