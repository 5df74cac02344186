#include "rpc/error_codec.h"

#include <string>
#include <utility>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rpc/call_outcome.h"
#include "rpc/metadata_codec.h"
#include "rpc/status_testing.h"
#include "schema/protocol.capnp.h"
#include "transport/buffer_pool.h"
#include "transport/message.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

OutgoingMessage NewReturn() {
  OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = FrameType::kReturn;
  return message;
}

IncomingMessage Received(OutgoingMessage message) {
  EXPECT_TRUE(transport::SealMessage(*message, {}).ok());
  return transport::MakeIncoming(std::move(message));
}

IncomingMessage Encoded(const absl::Status& status, bool refused = false,
                        const Limits& limits = {}) {
  OutgoingMessage message = NewReturn();
  EncodeError(status, refused, limits, *message);
  EXPECT_TRUE(transport::SealMessage(*message, limits).ok());
  IncomingMessage received = transport::MakeIncoming(std::move(message));
  EXPECT_TRUE(transport::CheckFrameHeader(received.header(), limits).ok());
  return received;
}

absl::Status RoundTrip(const absl::Status& status, bool refused = false,
                       const Limits& limits = {}) {
  return DecodeError(Encoded(status, refused, limits), limits);
}

TEST(ErrorCodecTest, EveryCanonicalCodeAndItsMessageTravel) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "what happened");
    EXPECT_EQ(RoundTrip(status), status);
  }
}

TEST(ErrorCodecTest, StatusWithNothingToSayHasNoExtraPart) {
  const IncomingMessage message = Encoded(absl::AbortedError(""));
  EXPECT_TRUE(message.extra().empty());
  EXPECT_FALSE(message.has_body());
  EXPECT_EQ(DecodeError(message, {}), absl::AbortedError(""));
}

TEST(ErrorCodecTest, DetailsTravel) {
  absl::Status status = absl::InvalidArgumentError("x");
  status.SetPayload("type/binary", absl::Cord(std::string("\0\1\2\xff", 4)));
  status.SetPayload("type/empty", absl::Cord());
  EXPECT_EQ(RoundTrip(status), status);
}

TEST(ErrorCodecTest, DetailWithoutMessageTravels) {
  absl::Status status = absl::InvalidArgumentError("");
  status.SetPayload("type/a", absl::Cord("a"));
  EXPECT_EQ(RoundTrip(status), status);
}

TEST(ErrorCodecTest, OutcomeOfAnEarlierCallDoesNotTravel) {
  // A handler that returns the status of a call that it made itself: that one was not sent, but
  // this one was answered.
  const absl::Status of_backend =
      WithOutcome(absl::UnavailableError("backend"), CallOutcome::kNotSent);
  EXPECT_EQ(OutcomeOf(RoundTrip(of_backend)), CallOutcome::kAnswered);
}

TEST(ErrorCodecTest, RefusalTravelsAsOutcome) {
  const absl::Status status = RoundTrip(absl::UnavailableError("shutting down"), true);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, StartsWith("shutting down")));
  EXPECT_THAT(status, OutcomeIs(CallOutcome::kRefused));
  EXPECT_THAT(RoundTrip(absl::UnavailableError(""), true), OutcomeIs(CallOutcome::kRefused));
}

TEST(ErrorCodecTest, TooLargeDetailsAreLeftOutAndTheMessageSaysSo) {
  Limits limits;
  limits.extra_bytes_max = 4096;
  absl::Status status = absl::DataLossError("disk broke");
  status.SetPayload("type/big", absl::Cord(std::string(5000, 'x')));
  const absl::Status received = RoundTrip(status, false, limits);
  EXPECT_THAT(received,
              StatusIs(absl::StatusCode::kDataLoss, StartsWith("disk broke [cut by mi7")));
  EXPECT_THAT(received,
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("extra_bytes_max is 4096")));
  EXPECT_EQ(received.GetPayload("type/big"), absl::nullopt);
}

IncomingMessage EncodedWith(const absl::Status& status, const ResponseMetadata& metadata,
                            const Limits& limits = {}) {
  OutgoingMessage message = NewReturn();
  EncodeError(status, /*refused=*/false, limits, *message, &metadata);
  EXPECT_TRUE(transport::SealMessage(*message, limits).ok());
  return transport::MakeIncoming(std::move(message));
}

TEST(ErrorCodecTest, MetadataTravelsWithMessageAndDetails) {
  absl::Status status = absl::NotFoundError("no such row");
  status.SetPayload("type/a", absl::Cord("a"));
  const ResponseMetadata sent{Metadata{{"server", "3"}}, Metadata{{"cost", "7"}}};
  for (const absl::Status& error : {status, absl::NotFoundError("")}) {
    const IncomingMessage message = EncodedWith(error, sent);
    EXPECT_EQ(DecodeError(message, {}), error);
    ResponseMetadata received;
    EXPECT_THAT(DecodeResponseMetadata(message, {}, received), IsOk());
    EXPECT_EQ(received.initial, sent.initial);
    EXPECT_EQ(received.trailing, sent.trailing);
  }
  EXPECT_TRUE(EncodedWith(absl::NotFoundError(""), {}).extra().empty());
}

TEST(ErrorCodecTest, MetadataAgainstTheRulesIsLeftOutAndTheMessageSaysSo) {
  const IncomingMessage message =
      EncodedWith(absl::NotFoundError("x"), {Metadata{{"fine", "v"}}, Metadata{{"Bad", "v"}}});
  EXPECT_THAT(DecodeError(message, {}),
              StatusIs(absl::StatusCode::kNotFound,
                       StartsWith("x [left out by mi7: metadata key \"Bad\" of 3 bytes")));
  ResponseMetadata received;
  EXPECT_THAT(DecodeResponseMetadata(message, {}, received), IsOk());
  EXPECT_TRUE(received.empty());
}

TEST(ErrorCodecTest, MetadataThatDoesNotFitIsLeftOutAndTheMessageSaysSo) {
  Limits limits;
  limits.extra_bytes_max = 4096;
  const IncomingMessage message = EncodedWith(
      absl::NotFoundError("x"), {{}, Metadata{{"key", std::string(4090, 'v')}}}, limits);
  EXPECT_THAT(DecodeError(message, limits),
              StatusIs(absl::StatusCode::kNotFound, StartsWith("x [cut by mi7")));
}

TEST(ErrorCodecTest, DetailsAreLimitedInNumberAtBothEnds) {
  absl::Status status = absl::NotFoundError("x");
  for (int i = 0; i < 5; ++i) status.SetPayload(absl::StrCat("type/", i), absl::Cord("v"));
  Limits four;
  four.error_details_max = 4;
  Limits five;
  five.error_details_max = 5;
  EXPECT_EQ(RoundTrip(status, false, five), status);
  EXPECT_EQ(RoundTrip(status, false, four),
            absl::NotFoundError("x [left out by mi7: 5 details, error_details_max is 4]"));
  EXPECT_EQ(DecodeError(Encoded(status, false, five), four),
            absl::NotFoundError("x (with 5 error details, error_details_max is 4)"));
  EXPECT_THAT(DecodeError(Encoded(status, true, five), four), OutcomeIs(CallOutcome::kRefused));
}

TEST(ErrorCodecTest, TooLongMessageIsCutAndSaysSo) {
  Limits limits;
  limits.extra_bytes_max = 1024;
  const std::string text(100'000, 'a');
  const absl::Status received = RoundTrip(absl::DataLossError(text), true, limits);
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kDataLoss, StartsWith(text.substr(0, 500))));
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("[cut by mi7")));
  EXPECT_LT(received.message().size(), 1024u);
  EXPECT_THAT(received, OutcomeIs(CallOutcome::kRefused));
}

TEST(ErrorCodecTest, EverySizeAroundTheLimitFits) {
  Limits limits;
  limits.extra_bytes_max = 1024;
  for (size_t size = 700; size < 1100; ++size) {
    const absl::Status received =
        RoundTrip(absl::DataLossError(std::string(size, 'a')), false, limits);
    ASSERT_EQ(received.code(), absl::StatusCode::kDataLoss) << size;
    ASSERT_THAT(std::string(received.message()), StartsWith(std::string(400, 'a'))) << size;
  }
}

TEST(ErrorCodecTest, TinyLimitLeavesTheCode) {
  Limits limits;
  limits.extra_bytes_max = 8;
  EXPECT_EQ(RoundTrip(absl::DataLossError("disk broke"), false, limits), absl::DataLossError(""));
}

TEST(ErrorCodecTest, MalformedExtraGivesTheCodeAndSaysSo) {
  const std::string kMalformed[] = {
      std::string("\xff\xff\xff\xff\0\0\0\0", 8),             // 2^32 segments
      std::string("\0\0\0\0\xff\xff\0\0", 8),                 // a segment beyond the end
      std::string("\0\0\0\0\1\0\0\0\x90\1\0\0\0\0\1\0", 16),  // a pointer beyond the end
      std::string("\0\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0", 16),    // a far pointer to itself
  };
  for (const std::string& bytes : kMalformed) {
    OutgoingMessage message = NewReturn();
    message->header.code = static_cast<uint16_t>(absl::StatusCode::kAborted);
    message->has_body = false;
    message->SetExtra({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    EXPECT_THAT(DecodeError(Received(std::move(message)), {}),
                StatusIs(absl::StatusCode::kAborted, StartsWith("(malformed error details: ")))
        << testing::PrintToString(bytes);
  }
}

TEST(ErrorCodecTest, CodeOutsideTheCanonicalRangeIsUnknown) {
  FrameHeader header;
  header.type = FrameType::kReturn;
  header.size = transport::kFrameHeaderBytes;
  header.code = 17;
  EXPECT_EQ(DecodeError(*transport::ParseMessage(
                            header, {}, transport::BufferPool::Allocate(8).release(), 0, {}),
                        {})
                .code(),
            absl::StatusCode::kUnknown);
}

TEST(ErrorCodecTest, FieldsOfALaterVersionAreIgnored) {
  capnp::MallocMessageBuilder builder;
  auto extra = builder.initRoot<protocol::ReturnExtra>();
  extra.initError().setMessage("text");
  extra.initTrailingMetadata(1)[0].setKey("key");
  extra.initCapabilities(1);
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  OutgoingMessage message = NewReturn();
  message->header.code = static_cast<uint16_t>(absl::StatusCode::kAborted);
  message->has_body = false;
  message->SetExtra({reinterpret_cast<const std::byte*>(words.begin()), words.asBytes().size()});
  EXPECT_EQ(DecodeError(Received(std::move(message)), {}), absl::AbortedError("text"));
}

TEST(ErrorCodecTest, OutcomeOfACallOfTheHandlersOwnStaysHere) {
  const absl::Status backend = absl::UnavailableError("backend away");
  const absl::Status received = RoundTrip(WithOutcome(backend, CallOutcome::kNotSent));
  EXPECT_EQ(received, backend);
}

TEST(ErrorCodecTest, PeerCannotSayWhatBecameOfOurCall) {
  capnp::MallocMessageBuilder builder;
  auto details = builder.initRoot<protocol::ReturnExtra>().initError().initDetails(1);
  details[0].setType(std::string(kOutcomePayload).c_str());
  details[0].setValue(kj::StringPtr("not-sent").asBytes());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  OutgoingMessage message = NewReturn();
  message->has_body = false;
  message->header.code = static_cast<uint16_t>(absl::StatusCode::kUnavailable);
  message->SetExtra(std::as_bytes(std::span(words.begin(), words.size())));
  const absl::Status received = DecodeError(Received(std::move(message)), {});
  EXPECT_EQ(received.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(OutcomeOf(received), CallOutcome::kAnswered);
}

}  // namespace
}  // namespace mi7
