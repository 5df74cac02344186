#pragma once

#include <memory>
#include <optional>

#include "base/deadline.h"
#include "rpc/interface_info.h"
#include "rpc/metadata.h"
#include "rpc/request_id.h"
#include "rpc/retry_policy.h"
#include "rpc/trace_context.h"

namespace mi7 {

class CallScope;

// Options of one call. A value type.
struct CallOptions {
  // What a call has that is given none. One object for all calls: a plain one neither builds nor
  // destroys what it does not use.
  static const CallOptions& Default();

  // When the caller stops waiting. Enforced on the caller's side (the call then ends with
  // DEADLINE_EXCEEDED, at most a few milliseconds late) and sent along for the handler to see.
  // Without one the method's timeout counts ($Mi7.timeout), else the channel's
  // (ChannelOptions::default_timeout), both from when the request is made; else there is none.
  Deadline deadline = {};
  // Wait without end, whatever method and channel say.
  bool no_deadline = false;
  // While the server cannot be reached, wait for it (until the deadline) instead of failing with
  // UNAVAILABLE when a few attempts to connect have failed.
  bool wait_for_ready = false;
  // When the call may be repeated after it failed; by default what the method's annotations say. Of
  // a stream kRetryable and kIdempotent mean kUnlessItRan.
  std::optional<Repeat> repeat = {};
  // How; by default as the channel does (ChannelOptions::retry).
  std::shared_ptr<const RetryPolicy> retry = {};
  // What the handler gets besides the parameters (ServerContext::metadata).
  std::shared_ptr<const Metadata> metadata = {};
  // The trace that the call belongs to, with the span that makes it. A handler's own is in
  // ServerContext::trace.
  std::shared_ptr<const TraceContext> trace = {};
  // Where the metadata of the answer goes, also of a failed call's. Yours to read once the call is
  // done; until then the runtime writes it. Of a stream: the initial ones once its first message
  // was read, the trailing ones once its end was.
  std::shared_ptr<ResponseMetadata> received = {};
  // Of a $Mi7.deduplicate method: by what the server recognizes the call when it is made again. By
  // default each call has a new one, for all its attempts. One that is kept outside this process
  // can be given to a call with the same parameters once more, after a restart for instance: the
  // answer is that of the first one, as long as the server has it (docs/RETRIES.md).
  std::optional<RequestId> request_id = {};
  // The call that this one is a part of: ServerContext::ForNestedCall.
  std::shared_ptr<CallScope> within = {};

  // Whether the call has nothing of what most calls do without: what this says no to is tested once
  // when a call is made, and costs a call that is plain nothing more.
  bool plain() const {
    return !metadata && !trace && !received && !within && !retry && !request_id;
  }
};

namespace internal {
// Its value is never destroyed: static objects may make calls when they end.
union DefaultCallOptions {
  constexpr DefaultCallOptions() : value() {}
  ~DefaultCallOptions() {}
  CallOptions value;
};
inline constinit const DefaultCallOptions kDefaultCallOptions;
}  // namespace internal

inline const CallOptions& CallOptions::Default() { return internal::kDefaultCallOptions.value; }

}  // namespace mi7
