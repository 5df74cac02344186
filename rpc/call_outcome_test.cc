#include "rpc/call_outcome.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

TEST(CallOutcomeTest, IsRecordedForProgramsAndForPeople) {
  const struct {
    CallOutcome outcome;
    const char* message;
  } kCases[] = {
      {CallOutcome::kNotSent, "no route; the call was not sent"},
      {CallOutcome::kRefused, "no route; the call was refused and has not run"},
      {CallOutcome::kUnknown, "no route; the call may have run"},
  };
  for (const auto& test : kCases) {
    const absl::Status status = WithOutcome(absl::UnavailableError("no route"), test.outcome);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, test.message));
    EXPECT_EQ(OutcomeOf(status), test.outcome);
  }
}

TEST(CallOutcomeTest, AnsweredChangesNothing) {
  const absl::Status status = WithOutcome(absl::NotFoundError("x"), CallOutcome::kAnswered);
  EXPECT_EQ(status, absl::NotFoundError("x"));
  EXPECT_EQ(OutcomeOf(status), CallOutcome::kAnswered);
}

TEST(CallOutcomeTest, StatusWithoutOutcomeWasAnswered) {
  EXPECT_EQ(OutcomeOf(absl::OkStatus()), CallOutcome::kAnswered);
  EXPECT_EQ(OutcomeOf(absl::UnavailableError("the handler's own")), CallOutcome::kAnswered);
  absl::Status foreign = absl::UnavailableError("x");
  foreign.SetPayload(kOutcomePayload, absl::Cord("no such outcome"));
  EXPECT_EQ(OutcomeOf(foreign), CallOutcome::kAnswered);
}

TEST(CallOutcomeTest, OtherDetailsAreKept) {
  absl::Status status = absl::UnavailableError("x");
  status.SetPayload("type/one", absl::Cord("1"));
  status.SetPayload("type/two", absl::Cord("2"));
  status = WithOutcome(status, CallOutcome::kRefused);
  EXPECT_EQ(status.GetPayload("type/one"), absl::Cord("1"));
  EXPECT_EQ(status.GetPayload("type/two"), absl::Cord("2"));
  EXPECT_EQ(OutcomeOf(status), CallOutcome::kRefused);
}

TEST(CallOutcomeTest, WithoutOutcomeIsTheInverse) {
  absl::Status status = absl::UnavailableError("no route");
  status.SetPayload("type/x", absl::Cord("detail"));
  EXPECT_EQ(WithoutOutcome(WithOutcome(status, CallOutcome::kUnknown)), status);
  EXPECT_EQ(WithoutOutcome(status), status);
  EXPECT_EQ(WithoutOutcome(absl::OkStatus()), absl::OkStatus());
}

}  // namespace
}  // namespace mi7
