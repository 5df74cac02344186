// What calls can make a server keep for one connection, without any limit of ServerOptions::load.

#include <deque>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rpc/call_outcome.h"
#include "rpc/retry_info.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

// Calls of echo, until the test answers them.
class HeldEchoes {
 public:
  EchoHandler handler() {
    return [this](ServerContext& context, Probe::EchoParams::Reader, Probe::EchoResults::Builder) {
      absl::MutexLock lock(&mutex_);
      calls_.push_back(context.Defer());
      return Reply::Later();
    };
  }
  // Waits for the oldest one.
  void Answer() {
    mutex_.LockWhenWithTimeout(absl::Condition(this, &HeldEchoes::HasAny), kSoon);
    ASSERT_FALSE(calls_.empty());
    DeferredCall call = std::move(calls_.front());
    calls_.pop_front();
    mutex_.Unlock();
    call.Finish(absl::OkStatus());
  }
  bool AwaitOne() {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(this, &HeldEchoes::HasAny), kSoon);
  }

 private:
  bool HasAny() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !calls_.empty(); }
  absl::Mutex mutex_;
  std::deque<DeferredCall> calls_ ABSL_GUARDED_BY(mutex_);
};

ServerOptions KeepingLittle() {
  ServerOptions options;
  options.limits.message_bytes_max = options.limits.request_bytes_max = 20'000;
  options.limits.extra_bytes_max = 4096;
  return options;
}

TEST_P(CallTest, BytesOfRequestsInFlightAreLimitedByDefault) {
  HeldEchoes held;
  const Ends ends(this);
  probe_.on_echo = held.handler();
  Start(KeepingLittle());
  auto first = SendEcho(std::string(15'000, 'x'));
  ASSERT_TRUE(held.AwaitOne());
  const absl::Status refused =
      SendEcho(std::string(15'000, 'y'), {.repeat = Repeat::kNever}).Wait().status();
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("request_bytes_max is 20000")));
  EXPECT_THAT(refused, OutcomeIs(CallOutcome::kRefused));
  EXPECT_EQ(RetryAfter(refused), LoadLimits().retry_after);
  auto small = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1)) << "there is room for it";
  held.Answer();
  EXPECT_THAT(first.Wait(), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(small.Wait(), IsOk());
  // All has been given back.
  auto again = SendEcho(std::string(19'000, 'x'), {.repeat = Repeat::kNever});
  held.Answer();
  EXPECT_THAT(again.Wait(), IsOk());
}

TEST_P(CallTest, ControlCallsHaveRoomBeyondTheBytesOfOthers) {
  HeldEchoes held;
  const Ends ends(this);
  probe_.on_echo = held.handler();
  Start(KeepingLittle());
  auto large = SendEcho(std::string(19'900, 'x'));
  ASSERT_TRUE(held.AwaitOne());
  EXPECT_THAT(SendHold(1, {.repeat = Repeat::kNever}).Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("request_bytes_max")));
  EXPECT_THAT(stub().Health().Send().Wait(), IsOk());
  held.Answer();
  EXPECT_THAT(large.Wait(), IsOk());
}

}  // namespace
}  // namespace mi7::conformance
