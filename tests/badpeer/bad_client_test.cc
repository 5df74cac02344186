// What a client can send wrong to a server: each is answered or closed with its exact status, and
// the server goes on with its other clients.

#include "tests/badpeer/bad_client.h"

#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace mi7::badpeer {
namespace {

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
      {"type is 12", changed(call, [](FrameHeader& h) { h.type = FrameType{12}; })},
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
                        "interface Probe of service Probe has no method @65535 (it has 7)"));
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

}  // namespace
}  // namespace mi7::badpeer
