// Handlers whose coroutines ask to be stopped when their callers give up (rpc/reply_stop_test.cc
// has what does not depend on the transport).

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/fake_clock.h"
#include "tests/conformance/call/call_conformance.h"
#include "tests/conformance/call/until_told.h"

namespace mi7::conformance {
namespace {

using Params = Probe::EchoParams::Reader;
using Results = Probe::EchoResults::Builder;

// What a coroutine has come to, and the order in which it let go of what it held.
class Trail {
 public:
  void Note(const std::string& text) {
    absl::MutexLock lock(&mutex_);
    notes_.push_back(text);
  }
  std::vector<std::string> notes() {
    absl::MutexLock lock(&mutex_);
    return notes_;
  }
  // Of which the last one is `text`, soon.
  std::vector<std::string> Until(const std::string& text) {
    absl::MutexLock lock(&mutex_);
    const auto noted = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !notes_.empty() && notes_.back() == text;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&noted), kSoon);
    return notes_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mutex_);
};

// What a handler holds.
class Held {
 public:
  Held(Trail* trail, std::string name) : trail_(trail), name_(std::move(name)) {}
  ~Held() { trail_->Note(name_ + " freed"); }
  Held(const Held&) = delete;

 private:
  Trail* const trail_;
  const std::string name_;
};

const std::vector<std::string> kStopped = {"waits", "inner freed", "outer freed"};

// A handler that waits by `co_await wait(context)`, and is stopped there.
template <typename Wait>
EchoHandler StoppedIn(Trail& trail, Wait wait) {
  return [&trail, wait](ServerContext& context, Params, Results) -> Reply {
    co_await context.StopWhenCancelled();
    const Held outer(&trail, "outer");
    {
      const Held inner(&trail, "inner");
      trail.Note("waits");
      static_cast<void>(co_await wait(context));
      trail.Note("went on");
    }
    co_return absl::OkStatus();
  };
}
auto SleepLong(ServerContext& context) { return context.Sleep(absl::Hours(100)); }

TEST_P(CallTest, CoroutineThatAsksForItStopsWhenItsCallerGivesUp) {
  FakeClock clock;
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  for (const Way way : {Way::kCancel, Way::kDrop, Way::kDeadline, Way::kDisconnect}) {
    SCOPED_TRACE(testing::Message() << way);
    Trail trail;
    const Ends ends(this);
    probe_.on_echo = StoppedIn(trail, SleepLong);
    Start({.keepalive = kNone}, {.keepalive = kNone});
    CallOptions options;
    if (way == Way::kDeadline) options.deadline = Deadline::After(absl::Hours(1));
    std::optional<PendingCall<Probe::EchoResults>> call = SendEcho("x", options);
    EXPECT_EQ(trail.Until("waits"), std::vector<std::string>{"waits"});
    if (way == Way::kCancel) call->Cancel();
    if (way == Way::kDrop) call.reset();
    if (way == Way::kDeadline) clock.Advance(absl::Hours(1));
    if (way == Way::kDisconnect) channel_->Close();
    EXPECT_EQ(trail.Until("outer freed"), kStopped);
  }
}

TEST_P(CallTest, StoppedCoroutineTakesItsNestedCallAlong) {
  Trail trail;
  const Ends ends(this);
  ProbeStub backend(nullptr);
  probe_.on_echo = StoppedIn(trail, [&backend](ServerContext& context) {
    return backend.Hold(context.ForNestedCall()).Send();
  });
  Start();
  backend = stub();
  auto call = SendEcho("x");
  ProbeImpl::Held held = probe_.TakeHeld();
  ASSERT_NE(held.context, nullptr);
  call.Cancel();
  EXPECT_EQ(trail.Until("outer freed"), kStopped);
  const Deadline patience = Deadline::After(kSoon);
  while (!held.context->cancelled()) ASSERT_FALSE(patience.passed());
  held.Answer();
}

}  // namespace
}  // namespace mi7::conformance
