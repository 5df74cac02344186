#pragma once

// What a failed attempt means for the call: whether it may be repeated, when, and on whose account.

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "rpc/interface_info.h"

namespace mi7 {

// A value type.
struct RetryJudgement {
  bool repeat = false;
  // The server has certainly spent nothing on it.
  bool free = false;
  // What the service advises.
  std::optional<absl::Duration> advice;
};

// `failure`: how the attempt ended, its outcome recorded (call_outcome.h). `may_repeat`: of the
// call. `deduplicated`: the server recognizes it when it is repeated, so that it may be when it may
// have run. Pure.
RetryJudgement JudgeFailure(const absl::Status& failure, Repeat may_repeat,
                            bool deduplicated = false);

}  // namespace mi7
