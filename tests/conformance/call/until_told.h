#pragma once

// How soon a handler learns that its caller has given up.

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <ostream>
#include <stop_token>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "rpc/server_context.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {

// The ways in which a caller gives up.
enum class Way { kCancel, kDrop, kDropCoroutine, kDeadline, kDisconnect };
inline constexpr Way kWays[] = {Way::kCancel, Way::kDrop, Way::kDropCoroutine, Way::kDeadline,
                                Way::kDisconnect};

inline std::ostream& operator<<(std::ostream& out, Way way) {
  constexpr const char* kNames[] = {"cancel", "drop", "drop of the coroutine", "deadline",
                                    "disconnect"};
  return out << kNames[static_cast<size_t>(way)];
}

// A coroutine that runs as far as it can, and whose frame is the test's, which destroys it while it
// waits.
class OwnedCoroutine {
 public:
  struct promise_type {
    OwnedCoroutine get_return_object() {
      return OwnedCoroutine(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  // Once; whoever has asked for the coroutine has to.
  void Destroy() { handle_.destroy(); }

 private:
  explicit OwnedCoroutine(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

// How long a caller waits that gives up at a deadline, by a fake clock. Shorter than
// write_stall_timeout.
inline constexpr absl::Duration kTimeGiven = absl::Seconds(40);

// Of calls of which each is given up when nothing else is to be done. It takes a fraction of a
// millisecond, some on a busy machine, of which the middle one of several calls knows little. What
// waits for a timer, a further message or an answer takes longer.
inline constexpr absl::Duration kAtOnce = absl::Milliseconds(50);
inline constexpr int kRounds = 15;

// The time from the beginning of `give_up` until the call of `context` is told that its caller has
// given up; infinite when it is not. In real time, of which a fake clock knows nothing.
inline absl::Duration UntilTold(ServerContext& context, const std::function<void()>& give_up) {
  using Clock = std::chrono::steady_clock;
  absl::Notification told;
  Clock::time_point told_at;
  const std::stop_callback on_stop(context.stop_token(), [&] {
    told_at = Clock::now();
    told.Notify();
  });
  const Clock::time_point began = Clock::now();
  give_up();
  return Happens(told) ? absl::FromChrono(told_at - began) : absl::InfiniteDuration();
}

inline absl::Duration Median(std::vector<absl::Duration> times) {
  const auto middle = times.begin() + static_cast<ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace mi7::conformance
