#include "rpc/retry_judgement.h"

#include "rpc/call_outcome.h"
#include "rpc/retry_info.h"

namespace mi7 {

RetryJudgement JudgeFailure(const absl::Status& failure, Repeat may_repeat, bool deduplicated) {
  RetryJudgement judgement;
  if (may_repeat == Repeat::kNever) return judgement;
  const bool unavailable = absl::IsUnavailable(failure);
  switch (OutcomeOf(failure)) {
    case CallOutcome::kNotSent:
      // With advice for want of room; without it for what the call itself is.
      judgement.advice = RetryAfter(failure);
      judgement.repeat = judgement.free = unavailable || judgement.advice.has_value();
      break;
    case CallOutcome::kRefused:
      // A refusal for what the call itself is, too large for instance, comes without advice.
      judgement.advice = RetryAfter(failure);
      judgement.repeat = unavailable || judgement.advice.has_value();
      judgement.free = unavailable && !judgement.advice.has_value();
      break;
    case CallOutcome::kUnknown:
      judgement.repeat = unavailable && (may_repeat == Repeat::kIdempotent || deduplicated);
      return judgement;
    case CallOutcome::kAnswered:
      if (may_repeat < Repeat::kRetryable) return judgement;
      judgement.advice = RetryAfter(failure);
      judgement.repeat = unavailable || judgement.advice.has_value();
      break;
  }
  if (judgement.advice == absl::InfiniteDuration()) judgement.repeat = false;
  return judgement;
}

}  // namespace mi7
