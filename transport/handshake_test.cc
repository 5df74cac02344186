#include "transport/handshake.h"

#include <cstring>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schema/protocol.capnp.h"

namespace mi7::transport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Status Check(absl::string_view bytes) {
  return CheckOpening({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
}

IncomingMessage Incoming(OutgoingMessage message) {
  EXPECT_EQ(SealMessage(*message, Limits{}), absl::OkStatus());
  return MakeIncoming(std::move(message));
}

absl::string_view Opening() {
  return {reinterpret_cast<const char*>(kOpening.data()), kOpening.size()};
}

TEST(HandshakeTest, EveryPrefixOfTheOpeningIsFine) {
  for (size_t bytes = 0; bytes <= kOpeningBytes; ++bytes) {
    EXPECT_EQ(Check(Opening().substr(0, bytes)), absl::OkStatus()) << bytes;
  }
}

TEST(HandshakeTest, OtherProtocolsAreNamed) {
  const struct {
    absl::string_view bytes;
    const char* name;
  } cases[] = {
      {"GET / HT", "peer speaks HTTP"},
      {"PRI * HT", "peer speaks HTTP"},
      {absl::string_view("\x16\x03\x01\x02\x00", 5), "peer speaks TLS"},
      {absl::string_view("\0\0\0\0\x10\0\0\0", 8), "peer speaks plain Cap'n Proto RPC"},
      {"SSH-2.0-", "peer speaks SSH"},
      {"hi", "peer speaks no mi7"},
  };
  for (const auto& test : cases) {
    const absl::Status status = Check(test.bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(test.name), HasSubstr("begins with d76d6937")));
  }
  EXPECT_THAT(std::string(Check("hi").message()), HasSubstr("6869 (\"hi\")"));
}

TEST(HandshakeTest, OtherMajorVersionNamesBoth) {
  std::string opening(Opening());
  opening[4] = 3;
  const absl::Status status = Check(opening);
  EXPECT_EQ(status, absl::FailedPreconditionError("peer speaks version 3 of the wire format, this "
                                                  "end only version 1"));
  opening[4] = 1;
  opening[6] = 5;
  EXPECT_EQ(Check(opening),
            absl::FailedPreconditionError("byte 6 of the peer's opening is 5, must be 0"));
}

IncomingMessage HelloOf(uint16_t min, uint16_t max, uint32_t bytes = 1 << 20, uint32_t calls = 9) {
  OutgoingMessage message = NewHeapMessage(256);
  message->header.type = FrameType::kHello;
  auto hello = message->initRoot<protocol::Hello>();
  hello.setVersionMin(min);
  hello.setVersionMax(max);
  hello.setMessageBytesMax(bytes);
  hello.setCallsInFlightMax(calls);
  return Incoming(std::move(message));
}

TEST(HandshakeTest, OwnHelloIsAgreedOn) {
  Limits limits;
  limits.message_bytes_max = 1 << 20;
  limits.calls_in_flight_max = 77;
  limits.stream_window_bytes = 5000;
  const absl::StatusOr<Negotiated> negotiated = ReadHello(Incoming(MakeHello(limits, {})));
  ASSERT_TRUE(negotiated.ok()) << negotiated.status();
  EXPECT_EQ(negotiated->version, 1);
  EXPECT_EQ(negotiated->features, kFeatureStreams | kFeatureRequestIds);
  EXPECT_EQ(negotiated->message_bytes_max, 1u << 20);
  EXPECT_EQ(negotiated->calls_in_flight_max, 77u);
  EXPECT_EQ(negotiated->stream_window_bytes, 5000u);
}

TEST(HandshakeTest, StreamsNeedAWindow) {
  OutgoingMessage message = MakeHello(Limits{}, {});
  message->getRoot<protocol::Hello>().setStreamWindowBytes(0);
  EXPECT_EQ(ReadHello(Incoming(std::move(message))).status(),
            absl::InvalidArgumentError(
                "peer's hello offers streams and accepts 0 bytes of them, must be at least 1"));
}

TEST(HandshakeTest, FeaturesAndTheReasonAgainstSharedMemoryAreRead) {
  const auto hello = ReadHello(
      Incoming(MakeHello(Limits{}, {}, kFeatureSharedMemory | 0x80, "no memory\n is left")));
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->features, kFeatureSharedMemory | kFeaturesOfAll | 0x80);
  EXPECT_EQ(hello->local_refusal, "no memory\\n is left") << "fit for a log";
  const auto cut = ReadHello(Incoming(MakeHello(Limits{}, {}, 0, std::string(1000, 'x'))));
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(cut->local_refusal, std::string(kLocalRefusalBytesMax, 'x'));
}

TEST(HandshakeTest, NewerPeerThatStillSpeaksOurVersionIsFine) {
  EXPECT_EQ(ReadHello(HelloOf(1, 9))->version, 1);
}

TEST(HandshakeTest, NoCommonVersionNamesBothRanges) {
  EXPECT_EQ(ReadHello(HelloOf(2, 5)).status(),
            absl::FailedPreconditionError("peer speaks protocol versions 2 to 5, this end 1 to 1"));
}

TEST(HandshakeTest, UselessLimitsAreRefused) {
  EXPECT_EQ(ReadHello(HelloOf(1, 1, 100, 1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadHello(HelloOf(1, 1, 1 << 20, 0)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(HandshakeTest, FirstMessageMustBeHello) {
  OutgoingMessage message = NewHeapMessage(0);
  message->header.type = FrameType::kPing;
  message->has_body = false;
  EXPECT_THAT(std::string(ReadHello(Incoming(std::move(message))).status().message()),
              HasSubstr("first message is of type 7, must be a hello (1)"));
}

TEST(HandshakeTest, MalformedHelloIsInvalid) {
  OutgoingMessage message = NewHeapMessage(64);
  message->header.type = FrameType::kHello;
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(8);  // no struct
  EXPECT_THAT(std::string(ReadHello(Incoming(std::move(message))).status().message()),
              HasSubstr("hello is malformed"));
}

TEST(HandshakeTest, CloseCarriesCodeAndText) {
  EXPECT_EQ(ReadClose(Incoming(MakeClose(absl::AbortedError("because of that")))),
            absl::AbortedError("peer closed: because of that"));
  EXPECT_EQ(ReadHello(Incoming(MakeClose(absl::AbortedError("no")))).status(),
            absl::AbortedError("peer closed: no"));
}

TEST(HandshakeTest, CloseWithoutReadableReasonHasItsCode) {
  OutgoingMessage message = NewHeapMessage(0);
  message->header.type = FrameType::kClose;
  message->header.code = 10;
  message->has_body = false;
  EXPECT_EQ(ReadClose(Incoming(std::move(message))),
            absl::AbortedError("peer closed: (no reason given)"));
  message = NewHeapMessage(0);
  message->header.type = FrameType::kClose;
  message->has_body = false;
  const uint64_t garbage[2] = {0x0000000100000000, 0xffffffffffffffff};
  message->SetExtra(std::as_bytes(std::span(garbage)));
  EXPECT_EQ(ReadClose(Incoming(std::move(message))),
            absl::UnavailableError("peer closed: (reason unreadable)"));
}

}  // namespace
}  // namespace mi7::transport
