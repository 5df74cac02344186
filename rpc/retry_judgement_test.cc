#include "rpc/retry_judgement.h"

#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "rpc/call_outcome.h"
#include "rpc/retry_info.h"

namespace mi7 {
namespace {

constexpr Repeat kAll[] = {Repeat::kNever, Repeat::kUnlessItRan, Repeat::kRetryable,
                           Repeat::kIdempotent};

// The least Repeat with which `failure` is repeated, and from which on it always is.
std::optional<Repeat> RepeatedFrom(const absl::Status& failure) {
  std::optional<Repeat> least;
  for (const Repeat may_repeat : kAll) {
    const bool repeats = JudgeFailure(failure, may_repeat).repeat;
    EXPECT_TRUE(repeats || !least) << "what includes more repeats more: " << failure;
    if (repeats && !least) least = may_repeat;
  }
  return least;
}

absl::Status Unavailable(CallOutcome outcome) {
  return WithOutcome(absl::UnavailableError("x"), outcome);
}

TEST(RetryJudgementTest, WhatHasNotRunIsRepeatedForEveryMethod) {
  EXPECT_EQ(RepeatedFrom(Unavailable(CallOutcome::kNotSent)), Repeat::kUnlessItRan);
  EXPECT_EQ(RepeatedFrom(Unavailable(CallOutcome::kRefused)), Repeat::kUnlessItRan);
}

TEST(RetryJudgementTest, WhatMayHaveRunIsRepeatedWhenThatDoesNoHarm) {
  EXPECT_EQ(RepeatedFrom(Unavailable(CallOutcome::kUnknown)), Repeat::kIdempotent);
}

TEST(RetryJudgementTest, AnswersAreRepeatedWhenTheServicePromisesThatNothingWasDone) {
  EXPECT_EQ(RepeatedFrom(absl::UnavailableError("busy")), Repeat::kRetryable);
  EXPECT_EQ(RepeatedFrom(WithRetryAfter(absl::AbortedError("locked"), absl::Seconds(1))),
            Repeat::kRetryable);
}

TEST(RetryJudgementTest, OtherAnswersAreFinal) {
  for (int code = 1; code <= 16; ++code) {
    if (code == static_cast<int>(absl::StatusCode::kUnavailable)) continue;
    const absl::Status answer(static_cast<absl::StatusCode>(code), "x");
    EXPECT_EQ(RepeatedFrom(answer), std::nullopt) << answer;
  }
}

TEST(RetryJudgementTest, CancelledCallsAndPassedDeadlinesAreFinal) {
  for (const CallOutcome outcome : {CallOutcome::kNotSent, CallOutcome::kUnknown}) {
    EXPECT_EQ(RepeatedFrom(WithOutcome(absl::CancelledError("x"), outcome)), std::nullopt);
    EXPECT_EQ(RepeatedFrom(WithOutcome(absl::DeadlineExceededError("x"), outcome)), std::nullopt);
  }
}

TEST(RetryJudgementTest, WhatIsTooLargeStaysTooLarge) {
  for (const CallOutcome outcome : {CallOutcome::kNotSent, CallOutcome::kRefused}) {
    EXPECT_EQ(RepeatedFrom(WithOutcome(absl::ResourceExhaustedError("too large"), outcome)),
              std::nullopt);
  }
}

TEST(RetryJudgementTest, RefusalWithAdviceIsRepeatedWhateverItsCode) {
  const absl::Status refusal =
      WithOutcome(WithRetryAfter(absl::ResourceExhaustedError("overloaded"), absl::Milliseconds(5)),
                  CallOutcome::kRefused);
  EXPECT_EQ(RepeatedFrom(refusal), Repeat::kUnlessItRan);
  EXPECT_EQ(JudgeFailure(refusal, Repeat::kUnlessItRan).advice, absl::Milliseconds(5));
}

TEST(RetryJudgementTest, WhatWasNotSentForWantOfRoomIsRepeatedAsAdvised) {
  const absl::Status full =
      WithOutcome(WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(5)),
                  CallOutcome::kNotSent);
  EXPECT_EQ(RepeatedFrom(full), Repeat::kUnlessItRan);
  EXPECT_EQ(JudgeFailure(full, Repeat::kUnlessItRan).advice, absl::Milliseconds(5));
}

TEST(RetryJudgementTest, AdviceNotToTryAgainIsTaken) {
  const absl::Status answer =
      WithRetryAfter(absl::UnavailableError("moved"), absl::InfiniteDuration());
  EXPECT_EQ(RepeatedFrom(answer), std::nullopt);
  EXPECT_EQ(RepeatedFrom(WithOutcome(answer, CallOutcome::kRefused)), std::nullopt);
}

TEST(RetryJudgementTest, WhatMayHaveRunIsRepeatedWhenTheServerRecognizesIt) {
  const absl::Status lost = Unavailable(CallOutcome::kUnknown);
  EXPECT_TRUE(JudgeFailure(lost, Repeat::kUnlessItRan, /*deduplicated=*/true).repeat);
  EXPECT_FALSE(JudgeFailure(lost, Repeat::kNever, true).repeat);
  EXPECT_FALSE(JudgeFailure(absl::UnavailableError("x"), Repeat::kUnlessItRan, true).repeat)
      << "it is saved, and would be the same";
}

TEST(RetryJudgementTest, IsFreeWhereTheServerSpentNothing) {
  const auto free = [](const absl::Status& failure) {
    return JudgeFailure(failure, Repeat::kIdempotent).free;
  };
  EXPECT_TRUE(free(Unavailable(CallOutcome::kNotSent)));
  EXPECT_TRUE(free(Unavailable(CallOutcome::kRefused)));
  EXPECT_FALSE(free(Unavailable(CallOutcome::kUnknown)));
  EXPECT_FALSE(free(absl::UnavailableError("busy")));
  EXPECT_FALSE(free(WithOutcome(WithRetryAfter(absl::UnavailableError("busy"), absl::Seconds(1)),
                                CallOutcome::kRefused)));
}

}  // namespace
}  // namespace mi7
