#include "transport/frame.h"

#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

using testing::HasSubstr;

FrameHeader Call() {
  FrameHeader header;
  header.size = 64;
  header.type = FrameType::kCall;
  header.target = TargetKind::kService;
  header.code = 65535;
  header.call_id = 7;
  header.timeout = 1000;
  header.interface_id = 0x1234;
  header.target_id = 9;
  header.extra_size = 16;
  return header;
}

FrameHeader Plain(FrameType type, uint32_t size = 32) {
  FrameHeader header;
  header.size = size;
  header.type = type;
  return header;
}

void ExpectBroken(const FrameHeader& header, const std::string& text) {
  const absl::Status status = CheckFrameHeader(header, Limits{});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST(FrameHeaderTest, SoundHeadersOfEveryTypePass) {
  const Limits limits;
  EXPECT_TRUE(CheckFrameHeader(Call(), limits).ok());
  for (const FrameType type : {FrameType::kHello, FrameType::kReturn}) {
    EXPECT_TRUE(CheckFrameHeader(Plain(type, 48), limits).ok());
  }
  for (const FrameType type : {FrameType::kCancel, FrameType::kGoAway, FrameType::kClose,
                               FrameType::kPing, FrameType::kPong}) {
    EXPECT_TRUE(CheckFrameHeader(Plain(type), limits).ok());
  }
  FrameHeader failed = Plain(FrameType::kReturn, 48);
  failed.code = 16;
  failed.extra_size = 16;
  EXPECT_TRUE(CheckFrameHeader(failed, limits).ok());
}

TEST(FrameHeaderTest, SoundStreamFramesPass) {
  const Limits limits;
  FrameHeader header = Plain(FrameType::kStreamMessage, 48);
  header.call_id = 7;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok());
  header.code = 1;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok());
  header.extra_size = 16;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok()) << "without a body";
  header.size = 64;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok()) << "with both";
  header = Plain(FrameType::kStreamEnd);
  header.call_id = 7;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok());
  header = Plain(FrameType::kCredit);
  header.call_id = 7;
  header.timeout = 0xFFFFFFFF;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok());
  header.code = 1;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok());
}

TEST(FrameHeaderTest, StreamFramesHaveADirection) {
  for (const FrameType type : {FrameType::kStreamMessage, FrameType::kCredit}) {
    FrameHeader header = Plain(type, type == FrameType::kCredit ? 32 : 48);
    header.timeout = type == FrameType::kCredit ? 1 : 0;
    header.code = 2;
    ExpectBroken(header, "code is 2, must be 0 or 1, a direction");
  }
}

TEST(FrameHeaderTest, AStreamMessageSaysSomething) {
  ExpectBroken(Plain(FrameType::kStreamMessage), "size is 32, must be more than the header's");
}

TEST(FrameHeaderTest, OnlyTheCalleesStreamMessagesHaveAnExtraPart) {
  FrameHeader header = Plain(FrameType::kStreamMessage, 64);
  header.extra_size = 16;
  ExpectBroken(header, "extra_size is 16, must be 0 from the caller");
}

TEST(FrameHeaderTest, ACreditGrantsSomething) {
  ExpectBroken(Plain(FrameType::kCredit), "timeout is 0, must be the bytes granted");
}

TEST(FrameHeaderTest, SizeIsWholeWordsAndAtLeastTheHeader) {
  for (const uint32_t size : {0u, 8u, 24u, 31u, 33u, 65u, 68u, 0xFFFFFFFFu}) {
    ExpectBroken(Plain(FrameType::kPing, size),
                 "size is " + std::to_string(size) + ", must be a multiple of 8 of at least 32");
  }
}

TEST(FrameHeaderTest, UnknownTypesAreBroken) {
  for (int type = 0; type < 256; ++type) {
    if (type >= 1 && type <= 11) continue;
    ExpectBroken(Plain(static_cast<FrameType>(type)),
                 "type is " + std::to_string(type) + ", must be 1 to 11");
  }
}

TEST(FrameHeaderTest, ACallHasATarget) {
  for (const int target : {0, 4, 255}) {
    FrameHeader header = Call();
    header.target = static_cast<TargetKind>(target);
    ExpectBroken(header, "call: target is " + std::to_string(target) + ", must be 1 to 3");
  }
}

TEST(FrameHeaderTest, FieldsThatATypeDoesNotUseAreZero) {
  for (const FrameType type :
       {FrameType::kHello, FrameType::kReturn, FrameType::kCancel, FrameType::kGoAway,
        FrameType::kClose, FrameType::kPing, FrameType::kPong, FrameType::kStreamMessage,
        FrameType::kStreamEnd}) {
    FrameHeader header = Plain(type);
    header.target = TargetKind::kService;
    ExpectBroken(header, "target is 1, must be 0");
    header = Plain(type);
    header.timeout = 5;
    ExpectBroken(header, "timeout is 5, must be 0");
    header = Plain(type);
    header.interface_id = 6;
    ExpectBroken(header, "interface_id is 6, must be 0");
    header = Plain(type);
    header.target_id = 7;
    ExpectBroken(header, "target_id is 7, must be 0");
  }
  for (const FrameType type : {FrameType::kHello, FrameType::kCancel, FrameType::kGoAway,
                               FrameType::kPing, FrameType::kPong, FrameType::kStreamEnd}) {
    FrameHeader header = Plain(type);
    header.code = 3;
    ExpectBroken(header, "code is 3, must be 0");
  }
  for (const FrameType type : {FrameType::kHello, FrameType::kGoAway, FrameType::kClose}) {
    FrameHeader header = Plain(type);
    header.call_id = 4;
    ExpectBroken(header, "call_id is 4, must be 0");
  }
  for (const FrameType type : {FrameType::kHello, FrameType::kCancel, FrameType::kPing,
                               FrameType::kPong, FrameType::kStreamEnd}) {
    FrameHeader header = Plain(type, 40);
    header.extra_size = 8;
    ExpectBroken(header, "extra_size is 8, must be 0");
  }
}

TEST(FrameHeaderTest, StatusCodesAreCanonical) {
  for (const FrameType type : {FrameType::kReturn, FrameType::kClose}) {
    FrameHeader header = Plain(type);
    header.code = 17;
    ExpectBroken(header, "code is 17, must be a canonical status code, 0 to 16");
  }
}

TEST(FrameHeaderTest, ExtraPartLiesInsideTheMessage) {
  FrameHeader header = Call();
  header.extra_size = 40;
  ExpectBroken(header, "extra_size is 40, must be a multiple of 8 of at most the 32 bytes");
  header.extra_size = 12;
  ExpectBroken(header, "extra_size is 12");
  header.extra_size = 0xFFFFFFF8;
  ExpectBroken(header, "extra_size is 4294967288");
  header.extra_size = 32;
  EXPECT_TRUE(CheckFrameHeader(header, Limits{}).ok());
}

TEST(FrameHeaderTest, OnlyTypesWithABodyHaveOne) {
  for (const FrameType type : {FrameType::kCancel, FrameType::kGoAway, FrameType::kClose,
                               FrameType::kPing, FrameType::kPong, FrameType::kStreamEnd}) {
    ExpectBroken(Plain(type, 48), "size is 48, must be 32 because the message has no body");
  }
  FrameHeader failed = Plain(FrameType::kReturn, 64);
  failed.code = 3;
  failed.extra_size = 16;
  ExpectBroken(failed, "size is 64, must be 48 because the message has no body");
}

TEST(FrameHeaderTest, LimitsAreNamedAndLeaveTheStreamUsable) {
  Limits limits;
  limits.message_bytes_max = 4096;
  limits.extra_bytes_max = 512;
  FrameHeader header = Call();
  header.size = 4096;
  header.extra_size = 512;
  EXPECT_TRUE(CheckFrameHeader(header, limits).ok());
  header.size = 4104;
  absl::Status status = CheckFrameHeader(header, limits);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "message of 4104 bytes exceeds limits.message_bytes_max, 4096 bytes");
  header.size = 4096;
  header.extra_size = 520;
  status = CheckFrameHeader(header, limits);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(),
            "extra part (metadata, error details) of 520 bytes exceeds limits.extra_bytes_max, 512 "
            "bytes");
  // A header that is broken too is broken first: its size cannot be trusted for skipping.
  header.size = 0xFFFFFFF8;
  header.type = static_cast<FrameType>(0);
  EXPECT_TRUE(absl::IsInvalidArgument(CheckFrameHeader(header, limits)));
}

TEST(TimeoutTest, IsMicrosecondsRoundedUp) {
  EXPECT_EQ(EncodeTimeout(1), 1u);
  EXPECT_EQ(EncodeTimeout(1000), 1u);
  EXPECT_EQ(EncodeTimeout(1001), 2u);
  EXPECT_EQ(EncodeTimeout(1'500'000'000), 1'500'000u);
  EXPECT_EQ(DecodeTimeout(2), 2000);
}

TEST(TimeoutTest, PassedIsTheShortestAndNoneIsZero) {
  EXPECT_EQ(EncodeTimeout(0), 1u);
  EXPECT_EQ(EncodeTimeout(-5), 1u);
  EXPECT_EQ(EncodeTimeout(std::numeric_limits<int64_t>::min()), 1u);
  EXPECT_EQ(EncodeTimeout(std::numeric_limits<int64_t>::max()), 0u);
  EXPECT_EQ(DecodeTimeout(0), std::numeric_limits<int64_t>::max());
}

TEST(TimeoutTest, LongOnesAreMillisecondsAndEndAt24Days) {
  const int64_t last_us = (int64_t{1} << 31) - 1;
  EXPECT_EQ(EncodeTimeout(last_us * 1000), 0x7FFFFFFFu);
  EXPECT_EQ(EncodeTimeout(last_us * 1000 + 1), 0x80000000u + 2147484u);
  EXPECT_EQ(DecodeTimeout(0x80000000u + 2147484u), int64_t{2147484} * 1'000'000);
  const int64_t days_ns = int64_t{24} * 3600 * 1'000'000'000;
  EXPECT_EQ(EncodeTimeout(25 * days_ns), 0xFFFFFFFFu);
  EXPECT_EQ(EncodeTimeout(std::numeric_limits<int64_t>::max() - 1), 0xFFFFFFFFu);
  EXPECT_GT(DecodeTimeout(0xFFFFFFFFu), 24 * days_ns);
}

TEST(TimeoutTest, IsNeverEarlyAndAtMostOneUnitLate) {
  for (int64_t ns = 1; ns < int64_t{1} << 62; ns = ns * 3 + 7) {
    const int64_t decoded_ns = DecodeTimeout(EncodeTimeout(ns));
    if (ns > int64_t{24} * 24 * 3600 * 1'000'000'000) break;
    EXPECT_GE(decoded_ns, ns);
    EXPECT_LT(decoded_ns - ns, ns < (int64_t{1} << 31) * 1000 ? 1000 : 1'000'000);
  }
}

}  // namespace
}  // namespace mi7::transport
