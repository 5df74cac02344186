// What a client can do wrong before the handshake is done, and in how many connections.

#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "tests/badpeer/bad_client.h"

namespace mi7::badpeer {
namespace {

using testing::EndsWith;

// --- Before the handshake ---

TEST_F(BadClientTest, PeersThatSpeakSomethingElseAreClosedWithoutAWord) {
  Start();
  std::mt19937 random(1);
  std::string noise(4096, '\0');
  for (char& byte : noise) byte = static_cast<char>(random());
  const std::string kFirstBytes[] = {
      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),  // TLS ClientHello
      std::string("\0\0\0\0\x05\0\0\0\0\0\0\0\1\0\1\0", 16),            // Cap'n Proto
      std::string("SSH-2.0-OpenSSH_9.2\r\n"),
      std::string("\xD7mi8\1\0\0\0", 8),
      noise,
      std::string(1, '\0'),
  };
  for (const std::string& bytes : kFirstBytes) {
    SCOPED_TRACE(absl::CHexEscape(bytes.substr(0, 16)));
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.Send(bytes);
    EXPECT_EQ(peer.Read(1), "");
    EXPECT_TRUE(GoodClientIsServed());
  }
}

TEST_F(BadClientTest, OtherMajorVersionIsToldBoth) {
  Start();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  peer.Send(Opening(9) + Hello());
  EXPECT_EQ(peer.Read(8), Opening());
  ExpectClosed(peer, StatusIs(absl::StatusCode::kFailedPrecondition,
                              "peer speaks version 9 of the wire format, this end only version 1"));
}

TEST_F(BadClientTest, ReservedBytesOfTheOpeningMustBeZero) {
  Start();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  peer.Send(std::string("\xD7mi7\1\0\7\0", 8));
  EXPECT_EQ(peer.Read(8), Opening());
  ExpectClosed(peer, StatusIs(absl::StatusCode::kFailedPrecondition,
                              "byte 6 of the peer's opening is 7, must be 0"));
}

TEST_F(BadClientTest, NoCommonProtocolVersionIsToldBothRanges) {
  Start();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  peer.Send(Opening() + Hello(7, 9));
  EXPECT_EQ(peer.Read(8), Opening());
  ExpectClosed(peer, StatusIs(absl::StatusCode::kFailedPrecondition,
                              "peer speaks protocol versions 7 to 9, this end 1 to 1"));
}

TEST_F(BadClientTest, FirstMessageMustBeAHello) {
  Start();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  peer.Send(Opening() + EchoCall(1));
  EXPECT_EQ(peer.Read(8), Opening());
  ExpectClosed(peer, StatusIs(absl::StatusCode::kInvalidArgument,
                              "peer's first message is of type 2, must be a hello (1)"));
}

TEST_F(BadClientTest, HelloMustBeSound) {
  Start();
  constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr absl::StatusCode kPrecondition = absl::StatusCode::kFailedPrecondition;
  const FrameHeader header = ControlHeader(FrameType::kHello);
  const struct {
    std::string hello;
    absl::StatusCode code;
    const char* text;
  } kHellos[] = {
      {Message(header), kInvalid, "no body"},
      {Message(header, Body({0x0001'0003'0000'0fa0})), kInvalid, "malformed"},
      {Message(header, Body({2})), kInvalid, "malformed"},
      {Message(header, {0xffff'ffff}), kInvalid, "segment"},
      {Message(header, Words(1000)), kInvalid, "4096"},
      {Message(header, Body({0})), kPrecondition, "versions 0 to 0, this end 1 to 1"},
  };
  for (const auto& test : kHellos) {
    SCOPED_TRACE(test.text);
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.Send(Opening() + test.hello);
    EXPECT_EQ(peer.Read(8), Opening());
    ExpectClosed(peer, StatusIs(test.code, HasSubstr(test.text)));
  }
}

// What it says reaches the log, but neither as further lines of that, nor as what a terminal obeys.
TEST_F(BadClientTest, WordsOfAPeerThatLeavesStayInTheirLineOfTheLog) {
  const auto logged = std::make_shared<std::promise<std::string>>();
  std::future<std::string> line = logged->get_future();
  SetLogSink([logged](LogLevel level, absl::string_view text) {
    if (level == LogLevel::kWarning) logged->set_value(std::string(text));
  });
  Start();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  peer.Send(Opening() + Close("bye\nmi7 error: disk failure\x1b[2J"));
  EXPECT_TRUE(peer.Ends());
  ASSERT_EQ(line.wait_for(absl::ToChronoMilliseconds(kSoon)), std::future_status::ready);
  SetLogSink(nullptr);
  EXPECT_THAT(line.get(), AllOf(StartsWith("refused tcp:127.0.0.1:"),
                                EndsWith("peer closed: bye\\nmi7 error: disk failure\\033[2J")));
}

TEST_F(BadClientTest, HelloOf4GiBFollowedBySilenceIsClosedAtOnce) {
  Start();
  const size_t before = ResidentBytes();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  FrameHeader header = ControlHeader(FrameType::kHello);
  header.size = 0xffff'fff8;
  peer.Send(Opening() + Exactly(header));
  EXPECT_EQ(peer.Read(8), Opening());
  ExpectClosed(peer, StatusIs(absl::StatusCode::kInvalidArgument,
                              "peer's first message: message of 4294967288 bytes exceeds "
                              "limits.message_bytes_max, 4096 bytes"));
  EXPECT_LT(ResidentBytes(), before + (8u << 20));
}

TEST_F(BadClientTest, PeersThatLeaveDuringTheHandshakeAreForgotten) {
  Start();
  const std::string greeting = Greeting();
  for (size_t bytes = 0; bytes <= greeting.size(); ++bytes) {
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.Send(greeting.substr(0, bytes));
    if (bytes % 2 == 0) {
      peer.Reset();
    } else {
      peer.CloseSending();
      EXPECT_TRUE(peer.Ends());
    }
  }
}

TEST_F(BadClientTest, HandshakeInSingleBytesIsFine) {
  Start();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  for (const char byte : Greeting() + EchoCall(3)) ASSERT_TRUE(peer.Send(std::string(1, byte)));
  ASSERT_TRUE(peer.ReadGreeting());
  ExpectReturn(peer, 3, IsOk());
}

TEST_F(BadClientTest, PeerThatSaysNothingIsClosedAfterTheHandshakeTimeout) {
  Limits limits;
  limits.handshake_timeout = absl::Seconds(1);  // the honest client's fits in, on a slow machine
  Start(limits);
  const Deadline timeout = Deadline::After(limits.handshake_timeout);
  RawPeer silent = RawPeer::ConnectTo(endpoint_);
  RawPeer halfway = RawPeer::ConnectTo(endpoint_);
  halfway.Send(Greeting().substr(0, 20));
  EXPECT_TRUE(silent.Ends());
  EXPECT_TRUE(halfway.Ends());
  EXPECT_TRUE(timeout.passed());
  EXPECT_EQ(server_->connection_count(), 1u);
}

TEST_F(BadClientTest, ConnectionsOverTheLimitAreToldAndClosed) {
  Limits limits;
  limits.connections_max = 4;
  Start(limits);
  std::vector<RawPeer> peers;
  for (int i = 0; i < 3; ++i) peers.push_back(Greeted());
  for (int i = 0; i < 50; ++i) {
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    EXPECT_EQ(peer.Read(8), Opening());
    ExpectClosed(peer,
                 StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("connections_max, 4")));
  }
  EXPECT_EQ(server_->connection_count(), 4u);
  for (RawPeer& peer : peers) ExpectServed(peer);
  peers.clear();
  ASSERT_TRUE(HasConnections(1));
  // There is room again, at the latest when the system has told of the ends.
  const Deadline patience = Deadline::After(kSoon);
  for (;;) {
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.Send(Greeting());
    if (peer.ReadGreeting()) break;
    ASSERT_FALSE(patience.passed());
  }
}

}  // namespace
}  // namespace mi7::badpeer
