// How soon a handler learns that its caller has given up, and what the cancellation does not wait
// for.

#include <atomic>
#include <functional>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/fake_clock.h"
#include "tests/conformance/call/call_conformance.h"
#include "tests/conformance/call/until_told.h"

namespace mi7::conformance {
namespace {

OwnedCoroutine AwaitHold(ProbeStub stub) {
  auto request = stub.Hold();
  static_cast<void>(co_await request.Send());
}

// A call of hold that will be given up.
class Doomed {
 public:
  Doomed(const ProbeStub& stub, Way way) : way_(way) {
    if (way == Way::kDropCoroutine) {
      coroutine_ = AwaitHold(stub);
      return;
    }
    CallOptions options;
    if (way == Way::kDeadline) options.deadline = Deadline::After(kTimeGiven);
    ProbeStub own = stub;
    call_ = own.Hold(options).Send();
    // Nobody waits for it, but the client's loop is to see to its deadline.
    if (way == Way::kDeadline) std::exchange(call_, std::nullopt)->Then([](auto) {});
  }
  void GiveUp(FakeClock& clock, Channel& channel) {
    switch (way_) {
      case Way::kCancel:
        return call_->Cancel();
      case Way::kDrop:
        return call_.reset();
      case Way::kDropCoroutine:
        return coroutine_->Destroy();
      case Way::kDeadline:
        return clock.Advance(kTimeGiven);
      case Way::kDisconnect:
        return channel.Close();
    }
  }

 private:
  const Way way_;
  std::optional<PendingCall<Probe::HoldResults>> call_;
  std::optional<OwnedCoroutine> coroutine_;
};

TEST_P(CallTest, HandlersAreToldAtOnceThatTheirCallersHaveGivenUp) {
  FakeClock clock;
  constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
  ASSERT_NO_FATAL_FAILURE(StartServer({.keepalive = kNone}));
  for (const Way way : kWays) {
    SCOPED_TRACE(testing::Message() << way);
    std::vector<absl::Duration> times;
    channel_ = NewChannel({.keepalive = kNone});
    for (int round = 0; round < kRounds; ++round) {
      if (way == Way::kDisconnect) channel_ = NewChannel({.keepalive = kNone});
      if (round % 2 == 0) {
        ASSERT_TRUE(Works()) << "and now it is used in a blocking way";
      }
      Doomed call(stub(), way);
      ProbeImpl::Held held = probe_.TakeHeld();
      ASSERT_NE(held.context, nullptr);
      EXPECT_FALSE(held.context->cancelled());
      times.push_back(UntilTold(*held.context, [&] { call.GiveUp(clock, *channel_); }));
      ASSERT_LT(times.back(), absl::InfiniteDuration());
      EXPECT_TRUE(held.context->cancelled());
      held.Answer();
    }
    EXPECT_LE(Median(times), kAtOnce);
  }
}

// Its loop is inside a callback that does not return, and many answers wait for it.
TEST_P(CallTest, CancellationsReachTheServerWhileTheClientReadsNothing) {
  constexpr int kUnread = 64;
  constexpr size_t kBytes = 64 << 10;  // all of them are less than Limits::queued_bytes_max
  for (const bool dropped : {false, true}) {
    SCOPED_TRACE(dropped);
    std::atomic<int> answered{0};
    absl::Notification blocked, go_on;
    Countdown ended(kUnread);
    const Ends ends(this);
    Start([&](ServerContext&, Probe::EchoParams::Reader, Probe::EchoResults::Builder results) {
      results.initData(kBytes);
      ++answered;
      return absl::OkStatus();
    });
    ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
    std::optional<PendingCall<Probe::HoldResults>> given_up = SendHold(1);
    ProbeImpl::Held held = probe_.TakeHeld();
    ASSERT_NE(held.context, nullptr);
    SendHold(2).Then([&](auto) {
      blocked.Notify();
      EXPECT_TRUE(Happens(go_on));
    });
    // So that the callback runs on the client's loop, not on this thread.
    std::thread([answer = probe_.TakeHeld()]() mutable { answer.Answer(); }).join();
    ASSERT_TRUE(Happens(blocked));
    for (int i = 0; i < kUnread; ++i) {
      SendEcho("unread").Then([&](EchoResult result) {
        EXPECT_THAT(result, IsOk());
        ended.DecrementCount();
      });
      // One by one: what finds no room at once waits for the loop.
      const Deadline patience = Deadline::After(kSoon);
      while (answered == i && !patience.passed()) std::this_thread::yield();
      EXPECT_EQ(answered, i + 1);
    }
    EXPECT_LT(UntilTold(*held.context,
                        [&] {
                          if (dropped) {
                            given_up.reset();
                          } else {
                            given_up->Cancel();
                          }
                        }),
              absl::InfiniteDuration());
    held.Answer();
    go_on.Notify();
    ended.Wait();
  }
}

// What callbacks send is held back until they return, so as to be written together; not so what
// spares the server work.
TEST_P(CallTest, CancellationsReachTheServerBeforeTheCallbackThatMadeThemReturns) {
  absl::Notification over;
  std::optional<PendingCall<Probe::HoldResults>> given_up;
  absl::Duration until_told = absl::InfiniteDuration();
  ProbeImpl::Held held{~0u, nullptr, nullptr, DeferredCall()};
  const Ends ends(this);
  Start();
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  given_up = SendHold(1);
  held = probe_.TakeHeld();
  ASSERT_NE(held.context, nullptr);
  SendHold(2).Then([&](auto) {
    until_told = UntilTold(*held.context, [&] { given_up->Cancel(); });
    over.Notify();
  });
  std::thread([answer = probe_.TakeHeld()]() mutable { answer.Answer(); }).join();
  ASSERT_TRUE(over.WaitForNotificationWithTimeout(2 * kSoon));
  EXPECT_LT(until_told, absl::InfiniteDuration());
  held.Answer();
}

}  // namespace
}  // namespace mi7::conformance
