// How a channel waits between its attempts to connect: on a loop that the test runs, whose timer is
// the wait.

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "rpc/channel.h"
#include "rpc/retry_policy.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/call_transport.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/event_loop.h"

namespace mi7::conformance {
namespace {

constexpr ChannelState kBackoff = ChannelState::kBackoff;

// How a call ended, once it has.
struct Ending {
  bool ended = false;
  absl::Status status;
};

// A channel whose event loop runs when the test says so.
class ManualChannel {
 public:
  ManualChannel(const std::string& endpoint, const BackoffOptions& backoff)
      : loop_(transport::EventLoop::CreateManual()) {
    ChannelOptions options;
    options.backoff = backoff;
    options.event_loop = loop_.get();
    channel_ = *Channel::Create(endpoint, options);
  }
  ~ManualChannel() {
    channel_->Close();
    Run();
    channel_ = nullptr;
  }

  // Runs all there is to do at this time.
  void Run() {
    while (loop_->RunOne()) {
    }
  }
  // The same until `done()`, for what takes a server, whose loops have threads.
  template <typename Done>
  bool RunUntil(Done done) {
    const Deadline patience = Deadline::After(kSoon);
    while (!done()) {
      if (patience.passed()) return false;
      if (!loop_->RunOne()) std::this_thread::yield();
    }
    return true;
  }
  bool Becomes(ChannelState state) {
    return RunUntil([this, state] { return channel_->state() == state; });
  }

  // A call that waits for a connection however long that takes.
  std::shared_ptr<Ending> Echo() {
    auto ending = std::make_shared<Ending>();
    ProbeStub(channel_).Echo({.wait_for_ready = true}).Send().Then([ending](EchoResult result) {
      *ending = {true, result.status()};
    });
    return ending;
  }
  bool Answered(const std::shared_ptr<Ending>& call) {
    return RunUntil([&call] { return call->ended; }) && call->status.ok();
  }

  ChannelState state() const { return channel_->state(); }
  // Runs what there is to do; how long it is then until the next attempt, to the minute, because
  // some of that passes by itself. All that the runtime does at its time besides is over in a
  // moment.
  absl::Duration Wait() {
    Run();
    RunUntil([this] { return loop_->next_timer().remaining() > absl::Minutes(30); });
    return absl::Ceil(loop_->next_timer().remaining(), absl::Minutes(1));
  }
  ProbeStub stub() const { return ProbeStub(channel_); }

 private:
  const std::unique_ptr<transport::EventLoop> loop_;
  std::shared_ptr<Channel> channel_;
};

std::unique_ptr<Server> Serve(ProbeImpl& probe, const std::string& endpoint) {
  auto server = ServerBuilder().AddService(&probe).Listen(endpoint).Start();
  EXPECT_THAT(server, IsOk());
  return server.ok() ? *std::move(server) : nullptr;
}

constexpr BackoffOptions kTripled = {
    .initial = absl::Hours(1), .max = absl::Hours(100), .multiplier = 3, .jitter = 0};

TEST(ChannelBackoffTest, WaitsGrowWithEachFailedAttempt) {
  FakeClock clock;
  ManualChannel channel(InprocName(), kTripled);
  const auto call = channel.Echo();
  for (const absl::Duration wait : {absl::Hours(1), absl::Hours(3), absl::Hours(9), absl::Hours(27),
                                    absl::Hours(81), absl::Hours(100), absl::Hours(100)}) {
    ASSERT_EQ(channel.Wait(), wait);
    EXPECT_EQ(channel.state(), kBackoff);
    clock.Advance(wait);
  }
  EXPECT_FALSE(call->ended);
}

TEST(ChannelBackoffTest, NothingIsTriedBeforeTheWaitIsOver) {
  FakeClock clock;
  const std::string endpoint = InprocName();
  ProbeImpl probe;
  std::unique_ptr<Server> server;
  ManualChannel channel(endpoint, kTripled);
  const auto call = channel.Echo();
  ASSERT_EQ(channel.Wait(), absl::Hours(1));
  clock.Advance(absl::Hours(1));
  ASSERT_EQ(channel.Wait(), absl::Hours(3));
  server = Serve(probe, endpoint);
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(channel.Wait(), absl::Hours(2));
  EXPECT_EQ(channel.state(), kBackoff);
  EXPECT_FALSE(call->ended);
  clock.Advance(absl::Hours(2));
  EXPECT_TRUE(channel.Answered(call));
}

TEST(ChannelBackoffTest, AConnectionThatWasMadeStartsOver) {
  FakeClock clock;
  const std::string endpoint = InprocName();
  ProbeImpl probe;
  std::unique_ptr<Server> server;
  ManualChannel channel(endpoint, kTripled);
  for (int round = 0; round < 2; ++round) {
    const auto call = channel.Echo();
    for (const absl::Duration wait : {absl::Hours(1), absl::Hours(3)}) {
      ASSERT_EQ(channel.Wait(), wait) << "round " << round;
      clock.Advance(wait);
      if (wait == absl::Hours(3)) server = Serve(probe, endpoint);
    }
    ASSERT_TRUE(channel.Answered(call));
    server = nullptr;
    ASSERT_TRUE(channel.Becomes(ChannelState::kIdle));
  }
}

// A channel keeps what it needs to reconnect as long as it has a connection whose server lets it
// finish its calls, also across a connection to another one.
TEST(ChannelBackoffTest, AConnectionThatWasMadeStartsOverWhileAnotherDeparts) {
  FakeClock clock;
  const std::string endpoint = InprocName();
  ProbeImpl probe;
  std::unique_ptr<Server> leaving = Serve(probe, endpoint);
  std::unique_ptr<Server> server;
  ManualChannel channel(endpoint, kTripled);
  auto held = std::make_shared<Ending>();
  channel.stub().Hold({.wait_for_ready = true}).Send().Then([held](auto result) {
    *held = {true, result.status()};
  });
  ASSERT_TRUE(channel.Becomes(ChannelState::kReady));
  ASSERT_TRUE(probe.AwaitHeld(1));
  std::atomic<bool> left{false};
  std::thread shutdown([&] {
    EXPECT_THAT(leaving->Shutdown(Deadline::Infinite()), IsOk());
    left = true;
  });
  EXPECT_TRUE(channel.Becomes(ChannelState::kIdle)) << "told to go away";

  auto call = channel.Echo();
  EXPECT_EQ(channel.Wait(), absl::Hours(1));
  clock.Advance(absl::Hours(1));
  EXPECT_EQ(channel.Wait(), absl::Hours(3));
  server = Serve(probe, endpoint);
  clock.Advance(absl::Hours(3));
  EXPECT_TRUE(channel.Answered(call));

  server = nullptr;
  EXPECT_TRUE(channel.Becomes(ChannelState::kIdle));
  EXPECT_FALSE(held->ended) << "the first connection departs still";
  call = channel.Echo();
  EXPECT_EQ(channel.Wait(), absl::Hours(1));

  probe.TakeHeld().Answer();
  EXPECT_TRUE(channel.RunUntil([&] { return held->ended && left.load(); }));
  EXPECT_THAT(held->status, IsOk());
  shutdown.join();
}

TEST(ChannelBackoffTest, ChannelsThatFailTogetherDoNotComeBackTogether) {
  FakeClock clock;
  const std::string endpoint = InprocName();
  std::vector<std::unique_ptr<ManualChannel>> channels;
  std::vector<absl::Duration> waits;
  for (int i = 0; i < 20; ++i) {
    channels.push_back(std::make_unique<ManualChannel>(
        endpoint, BackoffOptions{.initial = absl::Hours(100), .max = absl::Hours(100)}));
    channels.back()->Echo();
    waits.push_back(channels.back()->Wait());
    ASSERT_EQ(channels.back()->state(), kBackoff);
    EXPECT_GE(waits.back(), absl::Hours(80) - absl::Minutes(1));
    EXPECT_LE(waits.back(), absl::Hours(120) + absl::Minutes(1));
  }
  // Twenty waits that are drawn from 40 hours lie within 10 of them once in a billion times.
  const auto [least, most] = std::minmax_element(waits.begin(), waits.end());
  EXPECT_GT(*most - *least, absl::Hours(10));
}

// Nor are calls repeated together that fail together.
TEST(CallBackoffTest, CallsThatFailTogetherAreNotRepeatedTogether) {
  constexpr int kCalls = 20;
  FakeClock clock;
  const std::string endpoint = InprocName();
  ProbeImpl probe;
  std::atomic<int> attempts{0};
  probe.on_again = [&](ServerContext&, auto&&...) -> Reply {
    ++attempts;
    return absl::UnavailableError("busy");
  };
  const std::unique_ptr<Server> server = Serve(probe, endpoint);
  ManualChannel channel(endpoint, {});
  const auto policy = std::make_shared<const RetryPolicy>(RetryPolicy{
      .attempts_max = 2,
      .backoff = {.initial = absl::Hours(100), .max = absl::Hours(100), .jitter = 0.2}});
  int failed = 0;
  for (int i = 0; i < kCalls; ++i) {
    channel.stub().Again({.retry = policy}).Send().Then([&failed](auto result) {
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
      ++failed;
    });
  }
  // All are repeated within 40 hours. What happens in each 10 of them:
  std::vector<int> counts;
  ASSERT_TRUE(channel.RunUntil([&] { return attempts == kCalls; }));
  ASSERT_TRUE(channel.Answered(channel.Echo()));
  clock.Advance(absl::Hours(80) - absl::Minutes(10));
  for (int i = 0; i < 4; ++i) {
    const int before = attempts;
    clock.Advance(i < 3 ? absl::Hours(10) : absl::Hours(11));
    channel.Run();
    ASSERT_TRUE(channel.Answered(channel.Echo())) << "after them on the same connection";
    counts.push_back(attempts - before);
  }
  ASSERT_TRUE(channel.RunUntil([&] { return failed == kCalls; }));
  EXPECT_EQ(attempts, 2 * kCalls);
  // That none is in any other quarter of the time comes by chance once in a hundred billion times.
  EXPECT_LT(*std::max_element(counts.begin(), counts.end()), kCalls);
}

}  // namespace
}  // namespace mi7::conformance
