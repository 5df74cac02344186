#include "rpc/interceptors/call_log.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/interceptors/fake_call.h"

namespace mi7 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

constexpr MethodInfo kMethod = {1, 2, "Calculator.divide"};

class CallLogTest : public testing::Test {
 protected:
  // The log of one call.
  std::vector<std::pair<LogLevel, std::string>> LinesOf(FakeCall& call, const absl::Status& status,
                                                        CallLogOptions options = {}) {
    std::vector<std::pair<LogLevel, std::string>> lines;
    options.sink = [&lines](LogLevel level, absl::string_view text) {
      lines.emplace_back(level, std::string(text));
    };
    const std::shared_ptr<Interceptor> log = MakeCallLog(std::move(options));
    call.Start(*log);
    EXPECT_THAT(lines, IsEmpty());
    call.End(*log, status, absl::Microseconds(18));
    return lines;
  }
};

TEST_F(CallLogTest, ALineForACall) {
  FakeCall served(kMethod);
  EXPECT_THAT(LinesOf(served, absl::OkStatus()),
              ElementsAre(Pair(LogLevel::kInfo,
                               "side=server method=Calculator.divide peer=fake:peer code=OK "
                               "latency_us=18")));
  FakeCall made(kMethod, InterceptedCall::Side::kClient);
  made.set_trace(std::make_shared<TraceContext>(
      *TraceContext::Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")));
  EXPECT_THAT(LinesOf(made, absl::InternalError("it broke")),
              ElementsAre(Pair(LogLevel::kError,
                               "side=client method=Calculator.divide peer=fake:peer code=INTERNAL "
                               "latency_us=18 message=\"it broke\" "
                               "trace=0af7651916cd43dd8448eb211c80319c")));
}

TEST_F(CallLogTest, WhatAPeerSaysStaysInItsField) {
  FakeCall call(kMethod);
  call.EditMetadata().Add("tenant", "blue green").Add("plan", "code=OK");
  CallLogOptions options;
  options.metadata_keys = {"tenant", "absent", "plan"};
  const auto lines = LinesOf(call, absl::NotFoundError("a\nside=server \"x\" \\ \x01"), options);
  EXPECT_THAT(lines, ElementsAre(Pair(LogLevel::kInfo,
                                      "side=server method=Calculator.divide peer=fake:peer "
                                      "code=NOT_FOUND latency_us=18 "
                                      "message=\"a\\nside=server \\\"x\\\" \\\\ \\001\" "
                                      "metadata.tenant=\"blue green\" "
                                      "metadata.plan=\"code=OK\"")));
}

// U+0085, U+2028: ends of lines for who reads UTF-8.
TEST_F(CallLogTest, UnicodesEndsOfLinesAreEscaped) {
  FakeCall call(kMethod);
  CallLogOptions options;
  const auto lines = LinesOf(call, absl::NotFoundError("a\xc2\x85z \xe2\x80\xa8"), options);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0].second, HasSubstr("message=\"a\\xc2\\x85z \\xe2\\x80\\xa8\""));
  const auto text = LinesOf(call, absl::NotFoundError("gr\xc3\xbc\xc3\x9f dich"), options);
  EXPECT_THAT(text[0].second, HasSubstr("message=\"gr\xc3\xbc\xc3\x9f dich\""));
}

TEST_F(CallLogTest, LongTextIsCut) {
  FakeCall call(kMethod);
  const auto lines = LinesOf(call, absl::NotFoundError(std::string(60'000, 'x')));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_LT(lines[0].second.size(), 700u);
  EXPECT_THAT(lines[0].second, HasSubstr("xxx...\""));
}

TEST_F(CallLogTest, MetadataIsNotLoggedByItself) {
  FakeCall call(kMethod);
  call.EditMetadata().Add("authorization", "Bearer secret");
  const auto lines = LinesOf(call, absl::OkStatus());
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0].second, Not(HasSubstr("secret")));
}

TEST_F(CallLogTest, LevelsAreTheUsersToChoose) {
  CallLogOptions options;
  options.level = [](absl::StatusCode code, absl::Duration latency) -> std::optional<LogLevel> {
    EXPECT_EQ(latency, absl::Microseconds(18));
    if (code == absl::StatusCode::kOk) return std::nullopt;
    return LogLevel::kWarning;
  };
  FakeCall fine(kMethod);
  EXPECT_THAT(LinesOf(fine, absl::OkStatus(), options), IsEmpty());
  FakeCall wrong(kMethod);
  const auto lines = LinesOf(wrong, absl::InternalError("x"), options);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].first, LogLevel::kWarning);
}

TEST_F(CallLogTest, LevelsByCode) {
  EXPECT_EQ(LevelByCode(absl::StatusCode::kOk), LogLevel::kInfo);
  EXPECT_EQ(LevelByCode(absl::StatusCode::kNotFound), LogLevel::kInfo);
  EXPECT_EQ(LevelByCode(absl::StatusCode::kUnavailable), LogLevel::kWarning);
  EXPECT_EQ(LevelByCode(absl::StatusCode::kDeadlineExceeded), LogLevel::kWarning);
  EXPECT_EQ(LevelByCode(absl::StatusCode::kInternal), LogLevel::kError);
  EXPECT_EQ(LevelByCode(absl::StatusCode::kDataLoss), LogLevel::kError);
}

}  // namespace
}  // namespace mi7
