#pragma once

// How calls are repeated. Which ones may be: Repeat (interface_info.h). docs/RETRIES.md.

#include <cstddef>
#include <limits>

#include "absl/time/time.h"
#include "rpc/backoff.h"

namespace mi7 {

// Of one call. A value type.
struct RetryPolicy {
  // Attempts in all, the first one and hedges included. 1: none is repeated.
  int attempts_max = 5;
  // The waits before the attempts that repeat one. What has certainly not reached a server is
  // repeated at once the first time; the service's advice (retry_info.h) goes before all this. A
  // call that waits for a connection goes along with the channel's attempts to connect instead, as
  // long as those are no further apart than backoff.max.
  BackoffOptions backoff = {
      .initial = absl::Milliseconds(20), .max = absl::Seconds(1), .multiplier = 2, .jitter = 0.2};
  // Hedging, for idempotent calls: after this time without an answer the call is sent once more,
  // and so on, up to attempts_max. The first answer counts, the others are cancelled. Infinite:
  // never.
  absl::Duration hedge_delay = absl::InfiniteDuration();

  friend bool operator==(const RetryPolicy&, const RetryPolicy&) = default;
};

// What a channel's calls may cost its server in repetitions: a bucket of tokens, one for each
// attempt that repeats one which may have cost the server something, or goes beside it. (Of a
// call's first attempt, one that was not sent has not, nor has a refusal with UNAVAILABLE, which is
// how a server says that it is shutting down.) A server that fails under load thus gets little more
// load for it. When the bucket is empty, calls fail with what their last attempt said. A value
// type.
struct RetryBudgetOptions {
  // What the bucket holds, and has at first.
  double tokens_max = 100;
  // What comes in, for each call that might be repeated, and over time.
  double tokens_per_call = 0.1;
  double tokens_per_second = 10;

  friend bool operator==(const RetryBudgetOptions&, const RetryBudgetOptions&) = default;
};

// Of a channel. A value type.
struct RetryOptions {
  RetryPolicy policy = {};
  RetryBudgetOptions budget = {};
  // Calls that are repeated only when they have certainly not run keep their request, without a
  // copy, until they are answered. That is what each call in flight holds at the client beyond what
  // is waiting to be sent. A call whose request is not kept, for one of these two bounds, is
  // repeated as long as no connection has taken it; after that it ends and tells its outcome
  // (docs/RETRIES.md). Of streams, what was written before the server has begun them is kept, too:
  // at most a window and one message each, which these bounds do not count.
  //
  // Bytes of one request that is kept; 0: none is, nor is anything of streams.
  size_t kept_request_bytes_max = std::numeric_limits<size_t>::max();
  // Bytes of memory of all requests that the channel keeps, but for those of up to
  // kUncountedBytesMax. What exceeds it is not kept. (What a server accepts of one connection is
  // Limits::request_bytes_max, as much by default.)
  size_t kept_bytes_max = 256u << 20;
  static constexpr size_t kUncountedBytesMax = 64u << 10;

  friend bool operator==(const RetryOptions&, const RetryOptions&) = default;
};

}  // namespace mi7
