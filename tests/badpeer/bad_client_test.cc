// What a client can send wrong to a server: each is answered or closed with its exact status, and
// the server goes on with its other clients.

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::badpeer {
namespace {

using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class BadClientTest : public testing::Test {
 protected:
  void Start(const Limits& limits = {}) {
    ServerOptions options;
    options.limits = limits;
    options.event_loops = 1;  // the good client shares it with the bad one
    server_ =
        *ServerBuilder().SetOptions(options).AddService(&probe_).Listen("tcp:127.0.0.1:0").Start();
    endpoint_ = server_->endpoints()[0];
    channel_ = *Channel::Create(endpoint_);
    ASSERT_TRUE(GoodClientIsServed());
  }
  void TearDown() override {
    EXPECT_TRUE(GoodClientIsServed());
    EXPECT_TRUE(HasConnections(1));
  }
  // Over its own connection, which never breaks.
  testing::AssertionResult GoodClientIsServed() {
    auto request = ProbeStub(channel_).Echo({.deadline = Deadline::After(kSoon)});
    request->setText("good");
    const auto result = request.Send().Wait();
    if (!result.ok()) return testing::AssertionFailure() << result.status();
    if (result->getText() != "good") return testing::AssertionFailure() << "wrong answer";
    return testing::AssertionSuccess();
  }
  testing::AssertionResult HasConnections(size_t count) {
    const Deadline patience = Deadline::After(kSoon);
    while (server_->connection_count() != count) {
      if (patience.passed()) {
        return testing::AssertionFailure() << server_->connection_count() << " connections";
      }
      std::this_thread::yield();
    }
    return testing::AssertionSuccess();
  }
  // The handler of the call learns, soon, that nobody waits for it.
  static testing::AssertionResult IsCancelled(const ProbeImpl::Held& held) {
    const Deadline patience = Deadline::After(kSoon);
    while (!held.context->cancelled()) {
      if (patience.passed()) return testing::AssertionFailure() << "not cancelled";
      std::this_thread::yield();
    }
    return testing::AssertionSuccess();
  }
  RawPeer Greeted() { return RawPeer::Greeted(endpoint_); }

  // The server says `why` in a close message and ends the connection.
  template <typename Matcher>
  void ExpectClosed(RawPeer& peer, const Matcher& why) {
    const std::optional<Received> close = peer.ReadMessageOf(FrameType::kClose);
    ASSERT_TRUE(close) << "ended without a word";
    EXPECT_THAT(close->status(), why);
    EXPECT_TRUE(peer.Ends());
  }
  // The server answers call `call_id` with `status`.
  template <typename Matcher>
  void ExpectReturn(RawPeer& peer, uint32_t call_id, const Matcher& status) {
    const std::optional<Received> received = peer.ReadMessage();
    ASSERT_TRUE(received) << "ended without a word";
    ASSERT_EQ(received->header.type, FrameType::kReturn) << received->status();
    EXPECT_EQ(received->header.call_id, call_id);
    EXPECT_THAT(received->status(), status);
  }
  // The bad client is served when it behaves.
  void ExpectServed(RawPeer& peer) {
    ASSERT_TRUE(peer.Send(EchoCall(4711)));
    const std::optional<Received> received = peer.ReadMessage();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->header.call_id, 4711u);
    EXPECT_EQ(received->text(), "hello");
  }

  ProbeImpl probe_;
  std::string endpoint_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

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
  const struct {
    std::string hello;
    const char* text;
  } kHellos[] = {
      {Message(ControlHeader(FrameType::kHello)), "no body"},
      {Message(ControlHeader(FrameType::kHello), Body({0x0001'0003'0000'0fa0})), "malformed"},
      {Message(ControlHeader(FrameType::kHello), Body({2})), "malformed"},
      {Message(ControlHeader(FrameType::kHello), {0xffff'ffff}), "segment"},
      {Message(ControlHeader(FrameType::kHello), Words(1000)), "4096"},
  };
  for (const auto& test : kHellos) {
    SCOPED_TRACE(test.text);
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.Send(Opening() + test.hello);
    EXPECT_EQ(peer.Read(8), Opening());
    const std::optional<Received> close = peer.ReadMessageOf(FrameType::kClose);
    ASSERT_TRUE(close);
    EXPECT_NE(close->header.code, 0);
    EXPECT_THAT(std::string(close->status().message()), HasSubstr(test.text));
    EXPECT_TRUE(peer.Ends());
  }
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
  limits.handshake_timeout = absl::Milliseconds(50);
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

// --- Headers ---

TEST_F(BadClientTest, BrokenHeadersCloseTheConnectionNamingTheField) {
  Start();
  const auto changed = [](FrameHeader header, auto change) {
    header.size = sizeof(header);
    change(header);
    return Exactly(header);
  };
  const FrameHeader call = EchoHeader(1);
  const auto control = [](FrameType type) { return ControlHeader(type); };
  const struct {
    const char* text;
    std::string bytes;
  } kHeaders[] = {
      {"size is 0", changed(call, [](FrameHeader& h) { h.size = 0; })},
      {"size is 24", changed(call, [](FrameHeader& h) { h.size = 24; })},
      {"size is 33", changed(call, [](FrameHeader& h) { h.size = 33; })},
      {"size is 44", changed(call, [](FrameHeader& h) { h.size = 44; })},
      {"type is 0", changed(call, [](FrameHeader& h) { h.type = FrameType{0}; })},
      {"type is 9", changed(call, [](FrameHeader& h) { h.type = FrameType{9}; })},
      {"type is 255", changed(call, [](FrameHeader& h) { h.type = FrameType{255}; })},
      {"target is 0", changed(call, [](FrameHeader& h) { h.target = transport::TargetKind{0}; })},
      {"target is 4", changed(call, [](FrameHeader& h) { h.target = transport::TargetKind{4}; })},
      {"extra_size is 8", changed(call, [](FrameHeader& h) { h.extra_size = 8; })},
      {"extra_size is 4294967288",
       changed(call, [](FrameHeader& h) { h.extra_size = 0xffff'fff8; })},
      {"extra_size is 4", changed(call,
                                  [](FrameHeader& h) {
                                    h.size += 8;
                                    h.extra_size = 4;
                                  })},
      {"target is 1", changed(control(FrameType::kPing),
                              [](FrameHeader& h) { h.target = transport::TargetKind{1}; })},
      {"code is 1", changed(control(FrameType::kPing), [](FrameHeader& h) { h.code = 1; })},
      {"timeout is 5", changed(control(FrameType::kCancel), [](FrameHeader& h) { h.timeout = 5; })},
      {"interface_id is 6",
       changed(control(FrameType::kCancel), [](FrameHeader& h) { h.interface_id = 6; })},
      {"target_id is 7",
       changed(control(FrameType::kPong), [](FrameHeader& h) { h.target_id = 7; })},
      {"call_id is 8", changed(control(FrameType::kGoAway), [](FrameHeader& h) { h.call_id = 8; })},
      {"extra_size is 8", changed(control(FrameType::kPing),
                                  [](FrameHeader& h) {
                                    h.size += 8;
                                    h.extra_size = 8;
                                  })},
      {"size is 40", changed(control(FrameType::kPing), [](FrameHeader& h) { h.size += 8; })},
      {"code is 17", changed(control(FrameType::kReturn), [](FrameHeader& h) { h.code = 17; })},
  };
  for (const auto& test : kHeaders) {
    SCOPED_TRACE(test.text);
    RawPeer peer = Greeted();
    peer.Send(test.bytes);
    ExpectClosed(peer, StatusIs(absl::StatusCode::kInvalidArgument,
                                AllOf(HasSubstr("message header"), HasSubstr(test.text))));
  }
}

TEST_F(BadClientTest, NoiseAfterTheHandshakeClosesTheConnection) {
  Start();
  for (int seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(static_cast<unsigned>(seed));
    std::string noise(1000, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    RawPeer peer = Greeted();
    peer.Send(noise);
    ExpectClosed(peer, StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(BadClientTest, SecondHelloClosesTheConnection) {
  Start();
  RawPeer peer = Greeted();
  peer.Send(Hello());
  ExpectClosed(peer,
               StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a second hello message")));
}

TEST_F(BadClientTest, CallOf4GiBFollowedBySilenceIsAnsweredAndStoresNothing) {
  Start();
  const size_t before = ResidentBytes();
  RawPeer peer = Greeted();
  FrameHeader header = EchoHeader(5);
  header.size = 0xffff'fff8;
  peer.Send(Exactly(header, {0, 0}));
  ExpectReturn(peer, 5,
               StatusIs(absl::StatusCode::kResourceExhausted,
                        AllOf(HasSubstr("4294967288"), HasSubstr("message_bytes_max"))));
  EXPECT_TRUE(GoodClientIsServed());
  EXPECT_LT(ResidentBytes(), before + (8u << 20));
}

TEST_F(BadClientTest, CallOverTheLimitIsSkippedAndTheConnectionLives) {
  Limits limits;
  limits.message_bytes_max = 1 << 20;
  Start(limits);
  RawPeer peer = Greeted();
  for (uint32_t id = 0; id < 5; ++id) {
    ASSERT_TRUE(peer.Send(Message(EchoHeader(id), Words(300'000))));
    const std::optional<Received> answer = peer.ReadMessage();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.call_id, id);
    EXPECT_THAT(answer->status(),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1048576")));
    EXPECT_TRUE(answer->refused());
    ExpectServed(peer);
  }
}

TEST_F(BadClientTest, AnnouncedAndUnsentMessagesCommitNoMemory) {
  Start();
  const size_t before = ResidentBytes();
  std::vector<RawPeer> peers;
  for (int i = 0; i < 50; ++i) {
    peers.push_back(Greeted());
    FrameHeader header = EchoHeader(1);
    header.size = 64 << 20;
    peers.back().Send(Exactly(header, Words(100)));
  }
  EXPECT_TRUE(GoodClientIsServed());
  EXPECT_TRUE(HasConnections(51));
  EXPECT_LT(ResidentBytes(), before + (64u << 20)) << "3 GiB were announced";
  peers.clear();
}

TEST_F(BadClientTest, ExtraOverTheLimitFailsTheCallAlone) {
  Start();
  RawPeer peer = Greeted();
  FrameHeader header = EchoHeader(2);
  header.extra_size = 80'000;
  peer.Send(Message(header, Words(10'000)));
  ExpectReturn(peer, 2,
               StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("extra_bytes_max")));
  ExpectServed(peer);
}

// --- Calls ---

TEST_F(BadClientTest, UnsupportedTargetsAreUnimplemented) {
  Start();
  RawPeer peer = Greeted();
  for (uint8_t target : {2, 3}) {
    FrameHeader header = EchoHeader(target);
    header.target = transport::TargetKind{target};
    peer.Send(Message(header, EchoBody()));
    ExpectReturn(peer, target,
                 StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("are not supported")));
  }
  ExpectServed(peer);
}

TEST_F(BadClientTest, UnknownServicesInterfacesAndMethodsAreUnimplemented) {
  Start();
  RawPeer peer = Greeted();
  FrameHeader header = EchoHeader(1);
  header.target_id ^= 1;
  peer.Send(Message(header, EchoBody()));
  ExpectReturn(peer, 1,
               StatusIs(absl::StatusCode::kUnimplemented,
                        AllOf(HasSubstr("no service for interface"), HasSubstr("Probe"))));
  header = EchoHeader(2);
  header.interface_id = 77;
  peer.Send(Message(header, EchoBody()));
  ExpectReturn(peer, 2,
               StatusIs(absl::StatusCode::kUnimplemented,
                        "service Probe does not have interface 0x000000000000004d"));
  header = EchoHeader(3);
  header.code = 65535;
  peer.Send(Message(header, EchoBody()));
  ExpectReturn(peer, 3,
               StatusIs(absl::StatusCode::kUnimplemented,
                        "interface Probe of service Probe has no method @65535 (it has 3)"));
  ExpectServed(peer);
}

TEST_F(BadClientTest, BrokenSegmentTablesFailTheCallAlone) {
  Start();
  Words of_513_segments = {512};
  of_513_segments.resize(1 + 256 + 513);  // all of them empty
  Words sizes_overflow = {0xffff'ffff'0000'0003, 0xffff'ffff'ffff'ffff, 0x0000'0000'ffff'ffff};
  const struct {
    const char* what;
    Words rest;
  } kBodies[] = {
      {"513 segments", of_513_segments},
      {"2^32 segments", {0xffff'ffff, 0}},
      {"2^32 - 1 segments", {0xffff'fffe, 0}},
      {"the table exceeds the message", {400, 0, 0}},
      {"sizes sum up to less", {0x0000'0001'0000'0000, 0, 0}},
      {"sizes sum up to more", {0x0000'0003'0000'0000, 0, 0}},
      {"sizes overflow", sizes_overflow},
      {"one segment of 2^32 - 1 words", {0xffff'ffff'0000'0000, 0}},
  };
  RawPeer peer = Greeted();
  uint32_t id = 0;
  for (const auto& test : kBodies) {
    SCOPED_TRACE(test.what);
    peer.Send(Message(EchoHeader(++id), test.rest));
    ExpectReturn(peer, id, StatusIs(absl::StatusCode::kInvalidArgument));
    ExpectServed(peer);
  }
}

TEST_F(BadClientTest, CallWithoutABodyIsInvalid) {
  Start();
  RawPeer peer = Greeted();
  peer.Send(Message(EchoHeader(1)));
  ExpectReturn(peer, 1, StatusIs(absl::StatusCode::kInvalidArgument, "call without a body"));
  ExpectServed(peer);
}

TEST_F(BadClientTest, MalformedPointersFailTheCallAlone) {
  Start();
  const uint64_t echo_root = 0x0002'0000'0000'0000;  // no data, two pointers
  const struct {
    const char* what;
    Words body;
  } kBodies[] = {
      {"no words", Body({})},
      {"root beyond the end", Body({0x0002'0000'0000'0fa0})},
      {"root before the begin", Body({0x0002'0000'ffff'ff00})},
      {"root is a list", Body({0x0000'0000'0000'0001})},
      {"root is a capability", Body({3})},
      {"root is far, to itself", Body({2})},
      {"root is far, to a segment that is not there", Body({0x0000'0009'0000'0002})},
      {"root is double far, to itself", Body({6})},
      {"root is double far, landing pads in a circle",
       Body({0x0000'0000'0000'000e, 0x0000'0000'0000'000a, 0x0000'0000'0000'0006})},
      {"two segments whose far pointers point at each other",
       {0x0000'0001'0000'0001, 0x0000'0000'0000'0001, 0x0000'0001'0000'0002, 2}},
      {"text beyond the end", Body({echo_root, 0x0000'7ffa'0000'0001, 0})},
      {"text is a struct", Body({echo_root, 0x0001'0000'0000'0004, 0, 0})},
      {"text has no NUL", Body({echo_root, 0x0000'0042'0000'0005, 0, 0x4141'4141'4141'4141})},
      {"text of 2^29 - 1 empty elements", Body({echo_root, 0xffff'fff8'0000'0005, 0, 0})},
      {"list of structs whose tag says more than there is",
       Body({echo_root, 0x0000'000f'0000'0005, 0, 0x0001'0000'7fff'fffc, 0})},
  };
  RawPeer peer = Greeted();
  uint32_t id = 0;
  for (const auto& test : kBodies) {
    SCOPED_TRACE(test.what);
    peer.Send(Message(EchoHeader(++id), test.body));
    ExpectReturn(peer, id,
                 StatusIs(absl::StatusCode::kInvalidArgument,
                          StartsWith("handler of Probe.echo: malformed Cap'n Proto message: ")));
    ExpectServed(peer);
  }
}

TEST_F(BadClientTest, RandomBodiesNeverHurt) {
  Start();
  RawPeer peer = Greeted();
  for (uint32_t id = 0; id < 500; ++id) {
    SCOPED_TRACE(id);
    std::mt19937_64 random(id);
    Words segment(1 + random() % 12);
    for (uint64_t& word : segment) {
      word = random();
      // Most random words are far beyond every bound; small ones get further.
      if (random() % 2 == 0) word &= 0x0003'0007'0000'001f;
    }
    peer.Send(Message(EchoHeader(id), Body(segment)));
    const std::optional<Received> answer = peer.ReadMessage();
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->header.type, FrameType::kReturn);
    ASSERT_EQ(answer->header.call_id, id);
    if (answer->header.code != 0) {
      ASSERT_THAT(answer->status(), StatusIs(absl::StatusCode::kInvalidArgument));
    }
  }
  ExpectServed(peer);
}

TEST_F(BadClientTest, CallIdInUseClosesTheConnection) {
  Start();
  RawPeer peer = Greeted();
  peer.Send(HoldCall(3));
  ASSERT_TRUE(probe_.AwaitHeld(1));
  peer.Send(EchoCall(3));
  ExpectClosed(peer, StatusIs(absl::StatusCode::kInvalidArgument,
                              "call id 3 is in use by a call in flight"));
  ProbeImpl::Held held = probe_.TakeHeld();
  EXPECT_TRUE(IsCancelled(held));
}

TEST_F(BadClientTest, ReturnForNoCallClosesTheConnection) {
  Start();
  for (const uint32_t id : {0u, 1u, 0xffff'ffffu}) {
    RawPeer peer = Greeted();
    peer.Send(Message(ReturnHeader(id), EchoBody()));
    ExpectClosed(peer, StatusIs(absl::StatusCode::kInvalidArgument,
                                absl::StrCat("return for call ", id, ", which is not in flight")));
  }
}

TEST_F(BadClientTest, HarmlessMessagesAreTaken) {
  Start();
  RawPeer peer = Greeted();
  peer.Send(Message(ControlHeader(FrameType::kCancel, 99)));
  peer.Send(Message(ControlHeader(FrameType::kPong, 99)));
  peer.Send(Message(ControlHeader(FrameType::kPing, 42)));
  const std::optional<Received> pong = peer.ReadMessage();
  ASSERT_TRUE(pong);
  EXPECT_EQ(pong->header.type, FrameType::kPong);
  EXPECT_EQ(pong->header.call_id, 42u);
  ExpectServed(peer);
}

TEST_F(BadClientTest, CallsOverTheLimitAreRefused) {
  Limits limits;
  limits.calls_in_flight_max = 3;
  Start(limits);
  RawPeer peer = Greeted();
  for (uint32_t id = 0; id < 5; ++id) peer.Send(HoldCall(id));
  for (uint32_t id = 3; id < 5; ++id) {
    const std::optional<Received> answer = peer.ReadMessage();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.call_id, id);
    EXPECT_THAT(answer->status(),
                StatusIs(absl::StatusCode::kResourceExhausted, "calls_in_flight_max is 3"));
    EXPECT_TRUE(answer->refused());
  }
  for (uint32_t id = 0; id < 3; ++id) {
    probe_.TakeHeld().Answer();
    ExpectReturn(peer, id, IsOk());
  }
  ExpectServed(peer);
}

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
  peer.Send(EchoCall(1));
  EXPECT_TRUE(HasConnections(2));
  EXPECT_TRUE(HasConnections(1)) << "closed although the peer is still there";
}

TEST_F(BadClientTest, PeerThatReadsSlowlyIsNotClosed) {
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "good") return conformance::Echo(context, params, results);
    results.initData(2 << 20);
    return absl::OkStatus();
  };
  Limits limits;
  limits.write_stall_timeout = absl::Seconds(10);
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_, /*receive_buffer=*/8192);
  peer.Send(EchoCall(1));
  ExpectReturn(peer, 1, IsOk());
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
