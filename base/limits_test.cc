#include "base/limits.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(LimitsTest, DefaultsAreSound) { EXPECT_TRUE(CheckLimits(Limits{}).ok()); }

// docs/WIRE.md, section 6, tells them to those who write a peer.
TEST(LimitsTest, DefaultsAreThoseOfTheWireProtocol) {
  const Limits limits;
  EXPECT_EQ(limits.message_bytes_max, 67'108'864u);
  EXPECT_EQ(limits.extra_bytes_max, 65'536u);
  EXPECT_EQ(limits.metadata_entries_max, 128u);
  EXPECT_EQ(limits.error_details_max, 32u);
  EXPECT_EQ(limits.segments_max, 512u);
  EXPECT_EQ(limits.nesting_max, 64u);
  EXPECT_EQ(limits.traversal_factor, 8u);
  EXPECT_EQ(limits.traversal_words_extra, 1'048'576u);
  EXPECT_EQ(limits.connections_max, 100'000u);
  EXPECT_EQ(limits.calls_in_flight_max, 65'536u);
  EXPECT_EQ(limits.request_bytes_max, 268'435'456u);
  EXPECT_EQ(limits.handshake_timeout, absl::Seconds(10));
  EXPECT_EQ(limits.queued_bytes_max, 67'108'864u);
  EXPECT_EQ(limits.unread_answer_bytes_max, 268'435'456u);
  EXPECT_EQ(limits.stream_queued_bytes_max, 1'048'576u);
  EXPECT_EQ(limits.stream_window_bytes, 262'144u);
  EXPECT_EQ(limits.stream_kept_bytes_max, 67'108'864u);
  EXPECT_EQ(limits.stray_frames_max, 1'000'000u);
  EXPECT_EQ(limits.write_stall_timeout, absl::Seconds(60));
  EXPECT_EQ(limits.message_arrival_timeout, absl::Seconds(60));
  EXPECT_EQ(limits.message_arrival_bytes_per_second_min, 65'536u);
}

TEST(LimitsTest, WhatMakesNoSenseIsNamedWithItsValue) {
  const std::vector<std::pair<std::function<void(Limits&)>, std::string>> wrong = {
      {[](Limits& limits) { limits.message_bytes_max = 4088; }, "message_bytes_max is 4088"},
      {[](Limits& limits) { limits.message_bytes_max = 8193; }, "message_bytes_max is 8193"},
      {[](Limits& limits) { limits.segments_max = 0; }, "segments_max is 0"},
      {[](Limits& limits) { limits.nesting_max = 0; }, "nesting_max is 0"},
      {[](Limits& limits) { limits.traversal_factor = 0; }, "traversal_factor is 0"},
      {[](Limits& limits) { limits.connections_max = 0; }, "connections_max is 0"},
      {[](Limits& limits) { limits.calls_in_flight_max = 0; }, "calls_in_flight_max is 0"},
      {[](Limits& limits) { limits.request_bytes_max = limits.message_bytes_max - 1; },
       "request_bytes_max is 67108863"},
      {[](Limits& limits) { limits.queued_bytes_max = 0; }, "queued_bytes_max is 0"},
      {[](Limits& limits) { limits.unread_answer_bytes_max = 0; }, "unread_answer_bytes_max is 0"},
      {[](Limits& limits) { limits.stream_kept_bytes_max = limits.stream_window_bytes - 1; },
       "stream_kept_bytes_max is 262143"},
      {[](Limits& limits) { limits.handshake_timeout = absl::ZeroDuration(); },
       "handshake_timeout is 0"},
      {[](Limits& limits) { limits.write_stall_timeout = absl::Seconds(-1); },
       "write_stall_timeout is -1s"},
  };
  for (const auto& [change, text] : wrong) {
    Limits limits;
    change(limits);
    const absl::Status checked = CheckLimits(limits);
    EXPECT_EQ(checked.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(checked.message()), AllOf(HasSubstr(text), HasSubstr("must be")));
  }
}

}  // namespace
}  // namespace mi7
