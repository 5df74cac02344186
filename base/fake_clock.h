#pragma once

#include "absl/time/time.h"

namespace mi7 {

// A clock for tests, that a test moves on:
//
//   mi7::FakeClock clock;                       // before the server and the channel
//   auto call = request.Send();                 // with a deadline an hour from now
//   clock.Advance(absl::Hours(1));
//   EXPECT_EQ(call.Wait().status().code(), absl::StatusCode::kDeadlineExceeded);
//
// Deadlines, timeouts, timers, backoff and whatever else mi7 does at its time follow it, in all of
// the process, within some milliseconds of Advance. It begins with the time that it is, and also
// goes on by itself as real time passes, so a test uses times that are long compared to its own.
// Other processes, and waits for slot pipes, do not follow it.
//
// One at a time. Time never goes back: when the clock is gone the time stays where it was moved to.
// Thread-safe.
class FakeClock {
 public:
  FakeClock();
  ~FakeClock();
  FakeClock(const FakeClock&) = delete;
  FakeClock& operator=(const FakeClock&) = delete;

  // Not back.
  void Advance(absl::Duration by);
};

}  // namespace mi7
