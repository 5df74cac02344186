#include "rpc/metadata_codec.h"

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/status_testing.h"
#include "transport/message.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

OutgoingMessage NewMessage(FrameType type) {
  OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = type;
  if (type == FrameType::kCall) message->header.target = transport::TargetKind::kService;
  return message;
}

IncomingMessage Received(OutgoingMessage message) {
  EXPECT_THAT(transport::SealMessage(*message, {}), IsOk());
  EXPECT_THAT(transport::CheckFrameHeader(message->header, {}), IsOk());
  return transport::MakeIncoming(std::move(message));
}

// A message whose extra part `build` makes.
template <typename Root>
IncomingMessage WithExtra(FrameType type,
                          const std::function<void(typename Root::Builder)>& build) {
  capnp::MallocMessageBuilder builder;
  build(builder.initRoot<Root>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  OutgoingMessage message = NewMessage(type);
  message->SetExtra(std::as_bytes(std::span(words.begin(), words.size())));
  return Received(std::move(message));
}

IncomingMessage CallWith(const std::function<void(protocol::CallExtra::Builder)>& build) {
  return WithExtra<protocol::CallExtra>(FrameType::kCall, build);
}

Metadata SomeMetadata() {
  Metadata metadata{{"tenant", "blue"}, {"empty", ""}, {"tenant", "gr\xc3\xbcn"}};
  metadata.AddBinary("blob", std::string("\0\1\xff", 3)).AddBinary("none", "");
  return metadata;
}

constexpr absl::string_view kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(MetadataCodecTest, CallExtraTravels) {
  TraceContext trace = *TraceContext::Parse(kParent, "a=1");
  OutgoingMessage message = NewMessage(FrameType::kCall);
  ASSERT_THAT(EncodeCallExtra(SomeMetadata(), &trace, 2, {}, *message), IsOk());
  CallExtra extra;
  ASSERT_THAT(DecodeCallExtra(Received(std::move(message)), {}, extra), IsOk());
  EXPECT_EQ(extra.metadata, SomeMetadata());
  ASSERT_NE(extra.trace, nullptr);
  EXPECT_EQ(*extra.trace, trace);
  EXPECT_EQ(extra.previous_attempts, 2u);
}

TEST(MetadataCodecTest, RequestIdMakesTheRoundTripAndIsBounded) {
  for (const size_t bytes : {size_t{1}, size_t{16}, kRequestIdBytesMax, kRequestIdBytesMax + 1}) {
    SCOPED_TRACE(bytes);
    OutgoingMessage call = NewMessage(FrameType::kCall);
    const std::string id(bytes, '\xff');
    ASSERT_THAT(EncodeCallExtra({}, nullptr, 1, {}, *call, id, 4711), IsOk());
    CallExtra extra;
    const absl::Status decoded = DecodeCallExtra(Received(std::move(call)), {}, extra);
    if (bytes > kRequestIdBytesMax) {
      EXPECT_THAT(decoded, StatusIs(absl::StatusCode::kInvalidArgument,
                                    "request id of 65 bytes, at most 64 are allowed"));
      continue;
    }
    ASSERT_THAT(decoded, IsOk());
    EXPECT_EQ(extra.request_id, id);
    EXPECT_EQ(extra.may_have_run_for_us, 4711u);
  }
}

TEST(MetadataCodecTest, NothingToSayIsNoExtraPart) {
  OutgoingMessage call = NewMessage(FrameType::kCall);
  ASSERT_THAT(EncodeCallExtra({}, nullptr, 0, {}, *call), IsOk());
  EXPECT_TRUE(call->extra().empty());
  OutgoingMessage message = NewMessage(FrameType::kReturn);
  ASSERT_THAT(EncodeResponseMetadata({}, {}, *message), IsOk());
  EXPECT_TRUE(message->extra().empty());
  CallExtra extra;
  EXPECT_THAT(DecodeCallExtra(Received(std::move(call)), {}, extra), IsOk());
  EXPECT_TRUE(extra.metadata.empty());
  EXPECT_EQ(extra.trace, nullptr);
}

TEST(MetadataCodecTest, ResponseMetadataTravels) {
  const ResponseMetadata sent{SomeMetadata(), Metadata{{"cost", "3"}}};
  OutgoingMessage message = NewMessage(FrameType::kReturn);
  ASSERT_THAT(EncodeResponseMetadata(sent, {}, *message), IsOk());
  ResponseMetadata received;
  ASSERT_THAT(DecodeResponseMetadata(Received(std::move(message)), {}, received), IsOk());
  EXPECT_EQ(received.initial, sent.initial);
  EXPECT_EQ(received.trailing, sent.trailing);
}

TEST(MetadataCodecTest, WhatBreaksTheRulesIsNotSent) {
  OutgoingMessage call = NewMessage(FrameType::kCall);
  EXPECT_THAT(EncodeCallExtra(Metadata{{"Key", "v"}}, nullptr, 0, {}, *call),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"Key\"")));
  EXPECT_TRUE(call->extra().empty());
  OutgoingMessage message = NewMessage(FrameType::kReturn);
  EXPECT_THAT(EncodeResponseMetadata({{}, Metadata{{"k", "\n"}}}, {}, *message),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("text value \"\\n\"")));
  EXPECT_TRUE(message->extra().empty());
  // Each list is within the limit, what travels is not.
  const Metadata half{{"k", std::string(Limits{}.extra_bytes_max / 2, 'x')}};
  EXPECT_THAT(
      EncodeResponseMetadata({half, half}, {}, *message),
      StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("bytes, extra_bytes_max is 65536")));
  EXPECT_TRUE(message->extra().empty());
}

TEST(MetadataCodecTest, AMalformedTraceIsNone) {
  CallExtra extra;
  ASSERT_THAT(DecodeCallExtra(CallWith([](protocol::CallExtra::Builder to) {
                                auto trace = to.initTraceContext();
                                trace.setTraceparent("00-what");
                                trace.setTracestate("a=1");
                              }),
                              {}, extra),
              IsOk());
  EXPECT_EQ(extra.trace, nullptr);
}

TEST(MetadataCodecTest, ReceivedKeysAndValuesAreChecked) {
  CallExtra extra;
  EXPECT_THAT(DecodeCallExtra(CallWith([](protocol::CallExtra::Builder to) {
                                auto entry = to.initMetadata(1)[0];
                                entry.setKey("Key");
                                entry.getValue().setText("v");
                              }),
                              {}, extra),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("metadata key \"Key\"")));
  EXPECT_THAT(DecodeCallExtra(CallWith([](protocol::CallExtra::Builder to) {
                                auto entry = to.initMetadata(1)[0];
                                entry.setKey("key");
                                entry.getValue().setText("a\nb");
                              }),
                              {}, extra),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("metadata key")));
  ResponseMetadata metadata;
  EXPECT_THAT(DecodeResponseMetadata(WithExtra<protocol::ReturnExtra>(
                                         FrameType::kReturn,
                                         [](protocol::ReturnExtra::Builder to) {
                                           auto fine = to.initInitialMetadata(1)[0];
                                           fine.setKey("fine");
                                           fine.getValue().setText("v");
                                           to.initTrailingMetadata(1)[0].getValue().setText("");
                                         }),
                                     {}, metadata),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("metadata key \"\"")));
  EXPECT_TRUE(metadata.empty());
}

TEST(MetadataCodecTest, TooManyEntriesAreNotRead) {
  Limits limits;
  limits.metadata_entries_max = 3;
  const auto with = [](unsigned count) {
    return CallWith([count](protocol::CallExtra::Builder to) {
      auto list = to.initMetadata(count);
      for (unsigned i = 0; i < count; ++i) list[i].setKey("k");
    });
  };
  CallExtra extra;
  EXPECT_THAT(DecodeCallExtra(with(3), limits, extra), IsOk());
  CallExtra more;
  EXPECT_THAT(DecodeCallExtra(with(4), limits, more),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "metadata of 4 entries, metadata_entries_max is 3"));
  EXPECT_TRUE(more.metadata.empty());
}

// Entries that are all the same bytes of a small message: what is kept is bounded all the same.
TEST(MetadataCodecTest, EntriesThatOverlapAreBoundedInBytes) {
  // One segment: root (no data, 5 pointers), list of 100 entries, one text.
  constexpr uint64_t kEntries = 100;
  constexpr uint64_t kTextWords = 5'000;
  std::vector<uint64_t> words;
  const auto pointer = [](uint64_t kind, uint64_t offset, uint64_t upper) {
    return kind | offset << 2 | upper << 32;
  };
  const auto structure = [](uint64_t data, uint64_t pointers) { return data | pointers << 16; };
  words.push_back(pointer(0, 0, structure(0, 5)));
  words.push_back(pointer(1, 4, 7 | (3 * kEntries) << 3));  // composite list, after the root
  words.insert(words.end(), 4, 0);
  words.push_back(pointer(0, kEntries, structure(1, 2)));  // the list's tag
  const uint64_t text_at = words.size() + 3 * kEntries;
  for (uint64_t i = 0; i < kEntries; ++i) {
    words.push_back(0);  // a text value
    for (int which = 0; which < 2; ++which) {
      const uint64_t here = words.size();
      // The key is the text's last two bytes: "k" and its NUL.
      const uint64_t at = which == 0 ? text_at + kTextWords : text_at;
      const uint64_t bytes = which == 0 ? 2 : kTextWords * 8;
      words.push_back(pointer(1, at - here - 1, 2 | bytes << 3));
    }
  }
  std::string text(kTextWords * 8, 'v');
  text.back() = '\0';
  text += std::string("k\0\0\0\0\0\0\0", 8);
  words.resize(words.size() + text.size() / 8);
  std::memcpy(&words[text_at], text.data(), text.size());
  words.insert(words.begin(), uint64_t{words.size()} << 32);  // the segment table

  OutgoingMessage message = NewMessage(FrameType::kCall);
  message->SetExtra(std::as_bytes(std::span(words)));
  CallExtra extra;
  EXPECT_THAT(DecodeCallExtra(Received(std::move(message)), {}, extra),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "metadata of more bytes than extra_bytes_max, 65536"));
  EXPECT_EQ(extra.metadata.entries().size(), 1u) << "it stops at the limit";
}

TEST(MetadataCodecTest, MalformedMessagesAreTheSendersFault) {
  const std::vector<std::vector<uint64_t>> kMalformed = {
      {0},                                                         // no segment
      {0x00000000ffffffff, 0},                                     // 2^32 segments
      {0x0000000100000000, 0x0001000000001000},                    // root beyond the end
      {0x0000000100000000, 0x0000000000000003},                    // root is a capability
      {0x0000000200000000, 0x0001000000000000, 0x7fff'0000'0001},  // metadata beyond the end
  };
  for (const std::vector<uint64_t>& words : kMalformed) {
    OutgoingMessage message = NewMessage(FrameType::kCall);
    message->SetExtra(std::as_bytes(std::span(words)));
    CallExtra extra;
    EXPECT_EQ(DecodeCallExtra(Received(std::move(message)), {}, extra).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(MetadataCodecTest, AValueOfAKindOfTheFutureIsInvalid) {
  // One entry {data: kind 7; key, value}: root, list pointer, tag, data, two null pointers.
  std::vector<uint64_t> words = {uint64_t{10} << 32,
                                 uint64_t{5} << 48,  // root
                                 1 | 4 << 2 | (7 | uint64_t{3} << 3) << 32,
                                 0,
                                 0,
                                 0,
                                 0,
                                 uint64_t{1} << 2 | (1 | uint64_t{2} << 16) << 32,  // tag
                                 7,
                                 0,
                                 0};
  OutgoingMessage message = NewMessage(FrameType::kCall);
  message->SetExtra(std::as_bytes(std::span(words)));
  CallExtra extra;
  EXPECT_THAT(DecodeCallExtra(Received(std::move(message)), {}, extra),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("unknown kind")));
}

}  // namespace
}  // namespace mi7
