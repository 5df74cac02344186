#pragma once

#include "base/deadline.h"

namespace mi7 {

// Options of one call. A value type.
struct CallOptions {
  // When the caller stops waiting. Enforced on the caller's side (the call then ends with
  // DEADLINE_EXCEEDED, at most a few milliseconds late) and sent along for the handler to see.
  // None by default.
  Deadline deadline = {};
  // While the server cannot be reached, wait for it (until the deadline) instead of failing with
  // UNAVAILABLE as soon as a connection attempt failed.
  bool wait_for_ready = false;
};

}  // namespace mi7
