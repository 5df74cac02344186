// What a peer can do wrong, one by one: the exact status, and everybody else goes on.

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/handshake.h"
#include "transport/stream/raw_peer.h"
#include "transport/stream/testing.h"
#include "transport/unique_fd.h"

namespace mi7::transport::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class HostilePeerTest : public ::testing::TestWithParam<Endpoint::Scheme> {
 protected:
  HostilePeerTest() { refusals_.Attach(options_); }
  void StartServer(bool echo = false) {
    server_ = std::make_unique<TestServer>(options_, echo, /*loops=*/1, WaitPolicy::kAdaptive,
                                           GetParam());
  }
  // How texts about a client begin.
  static std::string Client() {
    return GetParam() == Endpoint::Scheme::kUnix ? absl::StrCat("unix:pid=", ::getpid(), ",uid=")
                                                 : "tcp:127.0.0.1:";
  }
  RawPeer ConnectRaw() { return RawPeer::ConnectTo(server_->endpoint()); }
  // The server still serves others.
  void ExpectServing() {
    TestClient client(server_->endpoint());
    Completion completion;
    client.receiver().set_hook([&](IncomingMessage) { completion.Complete(); });
    ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, 1, 8)).ok());
    EXPECT_TRUE(client.connection().Await(completion, Deadline::After(kPatience)));
  }

  Refusals refusals_;
  TransportOptions options_;
  std::unique_ptr<TestServer> server_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, HostilePeerTest,
                         ::testing::Values(Endpoint::Scheme::kTcp, Endpoint::Scheme::kUnix),
                         SchemeName);

TEST_P(HostilePeerTest, HttpPeerIsNamedAndClosed) {
  StartServer(true);
  RawPeer peer = ConnectRaw();
  peer.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(peer.Read(), "") << "no mi7 is spoken to who speaks none";
  const absl::Status why = refusals_.Wait();
  EXPECT_EQ(why.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(why.message()),
              AllOf(HasSubstr("peer speaks HTTP"), HasSubstr("474554202f204854 (\"GET / HT\")")));
  ExpectServing();
}

TEST_P(HostilePeerTest, OtherWireVersionIsAnsweredWithOurs) {
  StartServer(true);
  RawPeer peer = ConnectRaw();
  std::string opening = Opening();
  opening[4] = 2;
  peer.Send(opening);
  const std::string answer = peer.Read();
  EXPECT_EQ(answer.substr(0, kOpeningBytes), Opening());
  EXPECT_EQ(CloseIn(answer),
            absl::FailedPreconditionError(
                "peer closed: peer speaks version 2 of the wire format, this end only version 1"));
  ExpectServing();
}

TEST_P(HostilePeerTest, NoCommonProtocolVersionIsAnsweredNamingBothRanges) {
  StartServer(true);
  RawPeer peer = ConnectRaw();
  std::string hello = BytesOf(MakeHello(Limits{}, {}));
  // The struct's first two fields, after header, segment table and root pointer.
  hello[48] = 7;
  hello[50] = 9;
  peer.Send(Opening() + hello);
  EXPECT_EQ(CloseIn(peer.Read()),
            absl::FailedPreconditionError(
                "peer closed: peer speaks protocol versions 7 to 9, this end 1 to 1"));
  ExpectServing();
}

TEST_P(HostilePeerTest, SilentPeerIsClosedAfterTheHandshakeTimeout) {
  // Long enough for the honest client in the end, on a slow machine.
  options_.limits.handshake_timeout = absl::Seconds(1);
  StartServer(true);
  RawPeer silent = ConnectRaw();
  EXPECT_EQ(silent.Read(), "");
  EXPECT_THAT(refusals_.Wait().ToString(),
              AllOf(HasSubstr("DEADLINE_EXCEEDED"), HasSubstr("said nothing")));
  RawPeer stuck = ConnectRaw();
  stuck.Send(Opening() + "\x40");
  EXPECT_EQ(stuck.Read(), "");
  EXPECT_THAT(refusals_.Wait(1).ToString(), HasSubstr("began and stopped"));
  ExpectServing();
}

TEST_P(HostilePeerTest, PeerThatLeavesDuringTheHandshakeIsForgotten) {
  StartServer(true);
  ConnectRaw().Close();
  EXPECT_THAT(refusals_.Wait().ToString(),
              AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("closed the connection")));
  RawPeer resets = ConnectRaw();
  resets.Send(Opening());
  resets.Reset();
  EXPECT_EQ(refusals_.Wait(1).code(), absl::StatusCode::kUnavailable);
  ExpectServing();
}

TEST_P(HostilePeerTest, FirstMessageThatIsNoHelloIsRefused) {
  StartServer(true);
  RawPeer peer = ConnectRaw();
  peer.Send(Opening() + BytesOf(MakeMessage(FrameType::kCall, 1, 8)));
  EXPECT_THAT(CloseIn(peer.Read()).ToString(), HasSubstr("must be a hello (1)"));
  RawPeer huge = ConnectRaw();
  huge.Send(Opening() + BytesOf(MakeMessage(FrameType::kCall, 1, 100'000)));
  EXPECT_THAT(CloseIn(huge.Read()).ToString(),
              HasSubstr("peer's first message: message of 100048 bytes exceeds"));
  ExpectServing();
}

TEST_P(HostilePeerTest, BytesRightAfterTheHelloAreNotLost) {
  StartServer(true);
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting() + BytesOf(MakeMessage(FrameType::kCall, 3, 16)) +
            BytesOf(MakeMessage(FrameType::kCall, 4, 16)));
  const size_t answer = BytesOf(MakeMessage(FrameType::kReturn, 3, 16)).size();
  const size_t greeting = GreetingBytes();
  EXPECT_EQ(peer.Read(greeting + 2 * answer).size(), greeting + 2 * answer);
}

TEST_P(HostilePeerTest, BrokenHeaderClosesWithTheReasonOnBothSides) {
  StartServer();
  RawPeer peer = ConnectRaw();
  std::string bad = BytesOf(MakeMessage(FrameType::kReturn, 1, 8));
  bad[16] = 1;  // interface_id, which a return does not use
  peer.Send(Greeting() + bad);
  EXPECT_THAT(CloseIn(peer.Read()).ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("interface_id is 1, must be 0")));
  EXPECT_THAT(server_->Accepted(0).second->WaitClosed().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT: stream from " + Client()),
                    HasSubstr("interface_id is 1, must be 0")));
}

TEST_P(HostilePeerTest, SecondHelloClosesTheConnection) {
  StartServer();
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting() + BytesOf(MakeHello(Limits{}, {})));
  EXPECT_THAT(server_->Accepted(0).second->WaitClosed().ToString(),
              HasSubstr("a second hello message"));
}

TEST_P(HostilePeerTest, TruncatedMessageIsUnavailable) {
  StartServer();
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting() + BytesOf(MakeMessage(FrameType::kCall, 1, 64)).substr(0, 50));
  peer.CloseSending();
  EXPECT_THAT(server_->Accepted(0).second->WaitClosed().ToString(),
              AllOf(HasSubstr("UNAVAILABLE: connection to " + Client()),
                    HasSubstr("ended in the middle of a message, after 50 bytes of it")));
}

TEST_P(HostilePeerTest, ResetIsUnavailable) {
  StartServer();
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting());
  auto [connection, receiver] = server_->Accepted(0);
  peer.Reset();
  EXPECT_THAT(receiver->WaitClosed().ToString(),
              AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("Connection reset by peer")));
}

TEST_P(HostilePeerTest, OversizedMessageFailsAloneAndIsNeverStored) {
  options_.limits.message_bytes_max = 8192;
  StartServer();
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting() + BytesOf(MakeMessage(FrameType::kCall, 1, 8)) +
            BytesOf(MakeMessage(FrameType::kCall, 2, 1'000'000)) +
            BytesOf(MakeMessage(FrameType::kCall, 3, 8)));
  auto [connection, receiver] = server_->Accepted(0);
  ASSERT_TRUE(receiver->WaitMessages(2));
  ASSERT_EQ(receiver->rejected().size(), 1u);
  EXPECT_EQ(receiver->rejected()[0].first.call_id, 2u);
  EXPECT_THAT(receiver->rejected()[0].second.ToString(),
              HasSubstr("RESOURCE_EXHAUSTED: message of 1000048 bytes exceeds "
                        "limits.message_bytes_max, 8192"));
}

TEST_P(HostilePeerTest, BadSegmentTableFailsAlone) {
  StartServer();
  RawPeer peer = ConnectRaw();
  std::string bad = BytesOf(MakeMessage(FrameType::kCall, 1, 8));
  bad[36] = 77;  // words of the only segment
  peer.Send(Greeting() + bad + BytesOf(MakeMessage(FrameType::kCall, 2, 8)));
  auto [connection, receiver] = server_->Accepted(0);
  ASSERT_TRUE(receiver->WaitMessages(1));
  ASSERT_EQ(receiver->rejected().size(), 1u);
  EXPECT_EQ(receiver->rejected()[0].second.code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(HostilePeerTest, OneConnectionMoreThanAllowedIsToldAndClosed) {
  options_.limits.connections_max = 2;
  StartServer(true);
  TestClient first(server_->endpoint());
  auto second = std::make_unique<TestClient>(server_->endpoint());
  auto loop = NewLoop();
  const auto third = ConnectTo(server_->endpoint(), loop.get());
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third.status().message()),
              HasSubstr("peer closed: the server has limits.connections_max, 2, connections"));
  EXPECT_EQ(refusals_.Wait().code(), absl::StatusCode::kResourceExhausted);
  // Whose place is free again once it is gone on the server.
  server_->Accepted(1).second.reset();
  second.reset();
  server_->Forget(1);
  TestClient again(server_->endpoint());
}

TEST_P(HostilePeerTest, PeerThatReadsNothingIsClosedAfterTheStallTimeout) {
  options_.limits.write_stall_timeout = absl::Milliseconds(100);
  StartServer();
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting());
  auto [connection, receiver] = server_->Accepted(0);
  uint32_t accepted = 0;  // fewer than 20 only when the sanitizers make it slow
  while (accepted < 20 &&
         connection->Send(MakeMessage(FrameType::kReturn, accepted, 1 << 20)).ok()) {
    ++accepted;
  }
  EXPECT_THAT(receiver->WaitClosed().ToString(),
              AllOf(HasSubstr("UNAVAILABLE"),
                    ContainsRegex("has not read for limits.write_stall_timeout, 100ms, while "
                                  "[0-9]+ bytes wait")));
  const std::vector<uint32_t> unsent = receiver->unsent();
  ASSERT_FALSE(unsent.empty());
  EXPECT_EQ(unsent.back(), accepted - 1);
}

TEST_P(HostilePeerTest, ServerStopsReadingFromAPeerThatDoesNotRead) {
  options_.limits.queued_bytes_max = 1 << 20;
  StartServer(true);
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting());
  auto [connection, receiver] = server_->Accepted(0);
  const size_t greeting = GreetingBytes();
  EXPECT_EQ(peer.Read(greeting).size(), greeting);
  // Far more than the sockets and the queue can hold. A server that went on reading would take it.
  constexpr int kCalls = 800;
  std::string calls;
  for (int i = 0; i < kCalls; ++i) calls += BytesOf(MakeMessage(FrameType::kCall, 1, 64 << 10));
  const size_t sent = peer.SendUntilBlocked(calls, 300);
  EXPECT_LT(sent, calls.size());
  EXPECT_LT(receiver->messages(), kCalls);
  // Once its answers are read it goes on, and answers everything.
  std::thread sender([&] { peer.Send(calls.substr(sent)); });
  const size_t answers = kCalls * BytesOf(MakeMessage(FrameType::kReturn, 1, 64 << 10)).size();
  EXPECT_EQ(peer.Read(answers).size(), answers);
  sender.join();
  EXPECT_EQ(receiver->messages(), kCalls);
  EXPECT_FALSE(receiver->closed());
}

TEST(UnixHostilePeerTest, WhoTakesNothingAndGoesOnSendingLeavesTheLoopToOthers) {
  TestServer server({}, /*echo=*/false, /*loops=*/1, WaitPolicy::kAdaptive,
                    Endpoint::Scheme::kUnix);
  RawPeer peer = RawPeer::ConnectTo(server.endpoint());
  peer.Send(Greeting());
  auto [connection, receiver] = server.Accepted(0);
  peer.CloseReading();
  // Each message that is read is followed by another one, so that there is always one more.
  constexpr int kMessages = 2000;
  const std::string call = BytesOf(MakeMessage(FrameType::kCall, 1, 8));
  int read = 0;
  int read_before_others = kMessages;
  const auto answer_and_go_on = [&, connection = connection.get()](IncomingMessage) {
    ++read;
    if (read == 1) connection->Send(MakeMessage(FrameType::kReturn, 1, 8)).IgnoreError();
    if (read == 50) server.loop(0).Post([&] { read_before_others = read; });
    if (read < kMessages) peer.Send(call);
  };
  receiver->set_hook(answer_and_go_on);
  peer.Send(call);
  EXPECT_TRUE(receiver->WaitClosed().ok());
  EXPECT_EQ(read, kMessages) << "it is read to its end";
  EXPECT_LT(read_before_others, 200);
}

TEST_P(HostilePeerTest, WhoSendsNoMoreGetsWhatWaitsForItAndThenTheEnd) {
  StartServer();
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting());
  auto [connection, receiver] = server_->Accepted(0);
  constexpr uint32_t kAnswers = 20;
  size_t bytes = GreetingBytes();
  for (uint32_t id = 0; id < kAnswers; ++id) {
    ASSERT_TRUE(connection->Send(MakeMessage(FrameType::kReturn, id, 1 << 20)).ok());
    bytes += BytesOf(MakeMessage(FrameType::kReturn, id, 1 << 20)).size();
  }
  EXPECT_TRUE(connection->HasUnsent());
  peer.Send(BytesOf(MakeMessage(FrameType::kCall, 1, 8)));
  peer.CloseSending();
  ASSERT_TRUE(receiver->WaitMessages(1));
  EXPECT_EQ(peer.Read().size(), bytes);
  EXPECT_TRUE(receiver->WaitClosed().ok());
  EXPECT_THAT(receiver->unsent(), ::testing::IsEmpty());
}

// Its buffer is full, so that no write is possible, and it is not read from.
TEST(UnixHostilePeerTest, WhoShutsDownBothWaysAndStaysIsForgottenAtOnce) {
  TestServer server({}, /*echo=*/false, /*loops=*/1, WaitPolicy::kAdaptive,
                    Endpoint::Scheme::kUnix);
  RawPeer peer = RawPeer::ConnectTo(server.endpoint());
  peer.Send(Greeting());
  auto [connection, receiver] = server.Accepted(0);
  for (uint32_t id = 0; id < 20; ++id) {
    ASSERT_TRUE(connection->Send(MakeMessage(FrameType::kReturn, id, 1 << 20)).ok());
  }
  peer.CloseSending();
  peer.CloseReading();
  EXPECT_TRUE(receiver->WaitClosed().ok());
}

TEST_P(HostilePeerTest, ClientIsRefusedWhenItsQueueIsFullAndToldOfRoom) {
  StartServer();
  RawServer server(GetParam());
  TransportOptions options;
  options.limits.queued_bytes_max = 1 << 20;
  std::optional<RawPeer> peer;
  std::thread accepting([&] {
    peer.emplace(server.Accept());
    peer->Send(Greeting());
  });
  TestClient client(server.endpoint(), options);
  accepting.join();
  absl::Status sent;
  size_t bytes = 0;
  for (uint32_t id = 0; sent.ok(); ++id) {
    OutgoingMessage message = MakeMessage(FrameType::kCall, id, 100'000);
    sent = client.connection().Send(std::move(message));
    if (sent.ok()) bytes += 100'048;
    ASSERT_LT(id, 1000u);
  }
  EXPECT_EQ(sent.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(sent.message()),
              HasSubstr("message of 100048 bytes does not fit limits.queued_bytes_max, 1048576"));
  const size_t greeting = GreetingBytes();
  EXPECT_EQ(peer->Read(greeting + bytes).size(), greeting + bytes);
  EXPECT_TRUE(client.receiver().WaitWritable());
  EXPECT_TRUE(client.connection().Reserve(10).ok());
}

TEST_P(HostilePeerTest, ClientNamesAServerThatSpeaksSomethingElse) {
  RawServer server(GetParam());
  auto loop = NewLoop();
  std::thread accepting([&] {
    RawPeer peer = server.Accept();
    peer.Send("HTTP/1.1 400 Bad Request\r\n\r\n");
    peer.Read();
  });
  const auto connected = ConnectTo(server.endpoint(), loop.get());
  accepting.join();
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(connected.status().message()),
              AllOf(HasSubstr(server.endpoint().ToString()), HasSubstr("peer speaks HTTP")));
}

TEST_P(HostilePeerTest, DescriptorsUsedUpPauseAcceptingAndItRecovers) {
  StartServer(true);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<UniqueFd> eaten;
  auto loop = NewLoop();
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  for (;;) {
    UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd) break;
    eaten.push_back(std::move(fd));
  }
  eaten.pop_back();  // one for the client's socket: the server gets none
  RawPeer peer = ConnectRaw();
  peer.Send(Greeting());
  eaten.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_NE(peer.Read(1), "") << "accepted once there is a descriptor again";
  ExpectServing();
}

}  // namespace
}  // namespace mi7::transport::testing
