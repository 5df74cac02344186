#pragma once

// What a handler's status says about trying again (schema/retry.capnp, RetryInfo).
//
//   return mi7::WithRetryAfter(absl::ResourceExhaustedError("the queue is full"),
//                              absl::Milliseconds(50));
//
// Said by a handler it also promises that nothing was done. Channels respect it (docs/RETRIES.md).

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mi7 {

// `status`, which is not OK, with the advice to try again after `delay`; an infinite one: never.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);

// The advice in `status`; infinite: never; nullopt: none.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

}  // namespace mi7
