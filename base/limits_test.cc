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

TEST(LimitsTest, WhatMakesNoSenseIsNamedWithItsValue) {
  const std::vector<std::pair<std::function<void(Limits&)>, std::string>> wrong = {
      {[](Limits& limits) { limits.message_bytes_max = 4088; }, "message_bytes_max is 4088"},
      {[](Limits& limits) { limits.message_bytes_max = 8193; }, "message_bytes_max is 8193"},
      {[](Limits& limits) { limits.segments_max = 0; }, "segments_max is 0"},
      {[](Limits& limits) { limits.nesting_max = 0; }, "nesting_max is 0"},
      {[](Limits& limits) { limits.traversal_factor = 0; }, "traversal_factor is 0"},
      {[](Limits& limits) { limits.connections_max = 0; }, "connections_max is 0"},
      {[](Limits& limits) { limits.calls_in_flight_max = 0; }, "calls_in_flight_max is 0"},
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
