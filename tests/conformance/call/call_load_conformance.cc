// How much a server takes on at a time (ServerOptions::load), and who has room all the same.

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/retry_info.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

ServerOptions WithLoad(const LoadLimits& load) {
  ServerOptions options;
  options.load = load;
  return options;
}

TEST_P(CallTest, CallsBeyondTheServersLimitAreRefusedBeforeTheyRun) {
  std::atomic<int> ran{0};
  probe_.on_echo = [&ran](ServerContext& context, Probe::EchoParams::Reader params,
                          Probe::EchoResults::Builder results) {
    ++ran;
    return Echo(context, params, results);
  };
  Start(WithLoad({.calls_max = 2, .retry_after = absl::Milliseconds(30)}));
  auto first = SendHold(1), second = SendHold(2);
  ASSERT_TRUE(probe_.AwaitHeld(2));
  const absl::Status refused = EchoText("too many", {.repeat = Repeat::kNever}).status();
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("server is overloaded: load.calls_max is 2")));
  EXPECT_THAT(refused, OutcomeIs(CallOutcome::kRefused));
  EXPECT_EQ(RetryAfter(refused), absl::Milliseconds(30));
  // The limit is the server's, not the connection's.
  channel_ = NewChannel();
  EXPECT_THAT(EchoText("on another connection", {.repeat = Repeat::kNever}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(server_->load().calls, 2u);
  EXPECT_EQ(server_->load().refused, 2u);
  probe_.TakeHeld().Answer();
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_THAT(EchoText("room"), IsOk());
  EXPECT_EQ(ran, 1);
  probe_.TakeHeld().Answer();
  EXPECT_THAT(second.Wait(), IsOk());
  EXPECT_EQ(server_->load().calls, 0u);
  EXPECT_EQ(server_->load().bytes, 0u);
}

// Of any method, because its request is kept while it is in flight; also where the server reads it.
TEST_P(CallTest, RefusedCallIsMadeAgainWithTheSameRequest) {
  Start(WithLoad({.calls_max = 1, .retry_after = absl::Milliseconds(20)}));
  const auto often = std::make_shared<const RetryPolicy>(RetryPolicy{.attempts_max = 100});
  // The second one knows how large the method's requests are.
  for (const char* const which : {"first", "second"}) {
    SCOPED_TRACE(which);
    const uint64_t refused = server_->load().refused;
    auto held = SendHold(1);
    ASSERT_TRUE(probe_.AwaitHeld(1));
    const std::string text(10'000, 'x');
    auto call = SendEcho(text, {.retry = often});
    const Deadline patience = Deadline::After(kSoon);
    while (server_->load().refused == refused) ASSERT_FALSE(patience.passed());
    probe_.TakeHeld().Answer();
    ASSERT_THAT(held.Wait(), IsOk());
    const EchoResult result = call.Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getText(), text);
  }
}

// One call at a time, which is what a caller makes that waits for each answer: its share is given
// back before it has the answer.
TEST_P(CallTest, CallsOneAfterAnotherNeedRoomForOne) {
  Start(WithLoad({.calls_max = 1}));
  for (int i = 0; i < 200; ++i) ASSERT_THAT(EchoText("again"), IsOk()) << i;
  for (uint32_t i = 0; i < 50; ++i) {
    auto call = SendHold(i);
    probe_.TakeHeld().Answer();
    ASSERT_THAT(call.Wait(), IsOk()) << i;
  }
}

TEST_P(CallTest, EveryWayACallEndsGivesItsShareBack) {
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "throws") throw std::runtime_error("what a bug throws");
    if (params.getText() == "throws, deferred") {
      const DeferredCall deferred = context.Defer();
      throw std::runtime_error("what a bug throws");
    }
    if (params.getText() == "fails") return absl::NotFoundError("it fails");
    if (params.getText() == "drops") {
      context.Defer();
      return Reply::Later();
    }
    if (params.getText() == "lies") return Reply::Later();
    return Echo(context, params, results);
  };
  Start(WithLoad({.calls_max = 1, .bytes_max = 1 << 20, .methods = {{"Probe.echo", 1}}}));
  for (const char* text : {"throws", "throws, deferred", "fails", "drops", "lies"}) {
    EXPECT_FALSE(EchoText(text).ok()) << text;
    EXPECT_THAT(EchoText("works"), IsOk()) << "after " << text;
  }
  // A method that the service does not implement.
  EXPECT_THAT(stub().Unheard().Send().Wait(), StatusIs(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(EchoText("works"), IsOk());
  // A call that was cancelled has its share until its handler has ended.
  {
    auto cancelled = SendHold(1);
    ASSERT_TRUE(probe_.AwaitHeld(1));
    cancelled.Cancel();
    EXPECT_THAT(EchoText("not yet"), StatusIs(absl::StatusCode::kResourceExhausted));
    probe_.TakeHeld().Answer();
    EXPECT_TRUE(Works());
  }
  // And one whose connection is gone.
  {
    auto lost = SendHold(2);
    ASSERT_TRUE(probe_.AwaitHeld(1));
    channel_->Close();
    channel_ = NewChannel();
    EXPECT_THAT(EchoText("not yet"), StatusIs(absl::StatusCode::kResourceExhausted));
    probe_.TakeHeld();  // drops the call
    EXPECT_THAT(EchoText("works"), IsOk());
  }
  EXPECT_EQ(server_->load().calls, 0u);
  EXPECT_EQ(server_->load().bytes, 0u);
}

TEST_P(CallTest, OneMethodsLimitLeavesTheOthersAlone) {
  Start(WithLoad({.methods = {{"Probe.hold", 1}}}));
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  EXPECT_THAT(
      SendHold(2).Wait(),
      StatusIs(absl::StatusCode::kResourceExhausted,
               HasSubstr("server is overloaded: load.methods calls_max of Probe.hold is 1")));
  EXPECT_THAT(EchoText("another method"), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
}

TEST_P(CallTest, OneMethodsBytesAreLimited) {
  Start(WithLoad({.methods = {{.method = "Probe.hold", .bytes_max = 100}}}));
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  EXPECT_THAT(
      SendHold(2).Wait(),
      StatusIs(absl::StatusCode::kResourceExhausted,
               HasSubstr("server is overloaded: load.methods bytes_max of Probe.hold is 100")));
  auto large = EchoRequest("another method");
  large->initData(10'000);
  EXPECT_THAT(large.Send().Wait(), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
}

TEST_P(CallTest, BytesInFlightAreLimited) {
  Start(WithLoad({.connection_bytes_max = 100'000}));
  auto large = EchoRequest("large");
  large->initData(99'000);
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  EXPECT_THAT(large.Send().Wait(), IsOk());
  auto too_large = EchoRequest("too large");
  too_large->initData(100'000);
  EXPECT_THAT(too_large.Send().Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("server is overloaded: load.connection_bytes_max is 100000")));
  EXPECT_THAT(EchoText("small"), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
  auto alone = EchoRequest("alone");
  alone->initData(100'000);
  EXPECT_THAT(alone.Send().Wait(), IsOk());
}

TEST_P(CallTest, BytesInFlightOfAllConnectionsAreLimitedTogether) {
  absl::Notification begun;
  DeferredCall held;
  const Ends ends(this);
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() != "held") return Echo(context, params, results);
    held = context.Defer();
    begun.Notify();
    return Reply::Later();
  };
  Start(WithLoad({.bytes_max = 100'000}));
  const auto of_bytes = [this](const char* text, unsigned bytes) {
    auto request = EchoRequest(text, {.repeat = Repeat::kNever});
    request->initData(bytes);
    return request.Send();
  };
  auto first = of_bytes("held", 60'000);
  ASSERT_TRUE(Happens(begun));
  for (const char* where : {"on this connection", "on another one"}) {
    const EchoResult refused = of_bytes(where, 60'000).Wait();
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                  HasSubstr("server is overloaded: load.bytes_max is 100000")))
        << where;
    EXPECT_THAT(refused, OutcomeIs(CallOutcome::kRefused)) << where;
    EXPECT_THAT(of_bytes(where, 30'000).Wait(), IsOk()) << where;
    channel_ = NewChannel();
  }
  held.Finish(absl::OkStatus());
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_THAT(of_bytes("room", 60'000).Wait(), IsOk());
  EXPECT_EQ(server_->load().bytes, 0u);
}

// The client's channel takes the advice: what was refused is repeated until there is room.
TEST_P(CallTest, RefusedCallsOfIdempotentMethodsWaitAsAdvised) {
  Start(WithLoad({.calls_max = 1, .retry_after = absl::Milliseconds(1)}),
        {.retry = {.policy = {.attempts_max = 1000}}});
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  auto request = stub().Again({.deadline = Deadline::After(kSoon)});
  absl::Notification done;
  uint32_t attempt = 0;
  request.Send().Then([&](auto result) {
    EXPECT_THAT(result, IsOk());
    if (result.ok()) attempt = result->getAttempt();
    done.Notify();
  });
  const Deadline patience = Deadline::After(kSoon);
  while (server_->load().refused < 2) ASSERT_FALSE(patience.passed());
  EXPECT_FALSE(done.HasBeenNotified());
  probe_.TakeHeld().Answer();
  EXPECT_TRUE(Happens(done));
  EXPECT_GE(attempt, 3u);
  EXPECT_THAT(held.Wait(), IsOk());
}

TEST_P(CallTest, ControlCallsAreAnsweredUnderFullLoad) {
  ServerOptions server =
      WithLoad({.calls_max = 4, .bytes_max = 10'000, .connection_bytes_max = 8'000});
  server.limits.calls_in_flight_max = 4;
  Start(server);
  std::vector<PendingCall<Probe::HoldResults>> held;
  for (uint32_t i = 0; i < 4; ++i) held.push_back(SendHold(i));
  ASSERT_TRUE(probe_.AwaitHeld(4));
  const std::shared_ptr<Channel> other = NewChannel();
  for (const std::shared_ptr<Channel>& channel : {channel_, other}) {
    auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
    EXPECT_THAT(request.Send().Wait(), StatusIs(absl::StatusCode::kResourceExhausted));
    for (int i = 0; i < 3; ++i) {
      auto health = ProbeStub(channel).Health({.deadline = Deadline::After(kSoon)}).Send().Wait();
      ASSERT_THAT(health, IsOk());
      EXPECT_EQ(health->getHeld(), 4u);
    }
  }
  for (int i = 0; i < 4; ++i) probe_.TakeHeld().Answer();
  for (auto& call : held) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_TRUE(Works());
}

// Not only calls that wait: the loop has no idle moment.
TEST_P(CallTest, ControlCallsAreAnsweredWhileTheLoopIsBusy) {
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) {
    const int64_t until_ns = SystemNanos() + 500'000;
    while (SystemNanos() < until_ns) {
    }
    return Echo(context, params, results);
  };
  ServerOptions server = WithLoad({.calls_max = 4});
  server.event_loops = 1;
  Start(server);
  ASSERT_TRUE(Works());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> echoes{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&, channel = i % 2 == 0 ? channel_ : NewChannel()] {
      while (!stop) {
        auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
        if (request.Send().Wait().ok()) ++echoes;
      }
    });
  }
  const std::shared_ptr<Channel> other = NewChannel();
  for (int i = 0; i < 20; ++i) {
    const uint64_t before = echoes;
    auto health = ProbeStub(other).Health({.deadline = Deadline::After(kSoon)}).Send().Wait();
    EXPECT_THAT(health, IsOk());
    // Each caller may have had some turns meanwhile, but not without end. (Some dozens, where
    // nobody else wants the CPUs.)
    EXPECT_LE(echoes - before, 4000u);
    const Deadline patience = Deadline::After(kSoon);
    while (echoes == before) ASSERT_FALSE(patience.passed());
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
}

TEST_P(CallTest, ControlMethodsMayBeNamedByTheServer) {
  Start(WithLoad({.calls_max = 1, .control_methods = {"Probe.echo"}, .control_calls_max = 1}));
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  EXPECT_THAT(EchoText("control"), IsOk());
  EXPECT_THAT(SendHold(2).Wait(), StatusIs(absl::StatusCode::kResourceExhausted));
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
}

TEST_P(CallTest, AdaptiveLimitRefusesAndLetsGo) {
  LoadLimits load;
  load.adaptive = {.enabled = true, .calls_initial = 4, .calls_min = 4, .calls_max = 4};
  Start(WithLoad(load));
  EXPECT_EQ(server_->load().adaptive_limit, 4u);
  std::vector<PendingCall<Probe::HoldResults>> held;
  for (uint32_t i = 0; i < 4; ++i) held.push_back(SendHold(i));
  ASSERT_TRUE(probe_.AwaitHeld(4));
  EXPECT_THAT(EchoText("too many"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("adaptive limit")));
  for (int i = 0; i < 4; ++i) probe_.TakeHeld().Answer();
  for (auto& call : held) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_THAT(EchoText("room"), IsOk());
}

TEST_P(CallTest, AdaptiveLimitFallsWhileCallsAreSlowAndRisesAfterwards) {
  constexpr uint32_t kCalls = 4, kMost = 8;
  FakeClock clock;
  LoadLimits load;
  // Each round of calls below is a window.
  load.adaptive = {.enabled = true,
                   .calls_initial = kMost,
                   .calls_min = 1,
                   .calls_max = kMost,
                   .smoothing = 1,
                   .window = absl::Nanoseconds(1),
                   .window_calls_min = kCalls};
  ServerOptions server = WithLoad(load);
  server.keepalive.interval = absl::InfiniteDuration();
  Start(server, {.keepalive = {.interval = absl::InfiniteDuration()}});
  const auto hold = [this](uint32_t count) {
    std::vector<PendingCall<Probe::HoldResults>> calls;
    for (uint32_t i = 0; i < count; ++i) calls.push_back(SendHold(i));
    EXPECT_TRUE(probe_.AwaitHeld(count));
    return calls;
  };
  const auto answer = [this](std::vector<PendingCall<Probe::HoldResults>> calls) {
    for (size_t i = 0; i < calls.size(); ++i) probe_.TakeHeld().Answer();
    for (auto& call : calls) EXPECT_THAT(call.Wait(), IsOk());
  };
  // Rounds of calls that are in flight together, and take so long.
  const auto rounds = [&](int count, absl::Duration latency) {
    for (int i = 0; i < count; ++i) {
      auto calls = hold(kCalls);
      clock.Advance(latency);
      answer(std::move(calls));
    }
  };
  rounds(10, absl::Seconds(1));
  EXPECT_EQ(server_->load().adaptive_limit, kMost) << "they take what they always take";
  rounds(10, absl::Seconds(10));
  const uint32_t fallen = server_->load().adaptive_limit;
  EXPECT_GE(fallen, kCalls);
  ASSERT_LT(fallen, kMost - 2);
  auto calls = hold(fallen);
  EXPECT_THAT(EchoText("too many"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("adaptive limit")));
  answer(std::move(calls));
  rounds(5, absl::Seconds(1));
  EXPECT_EQ(server_->load().adaptive_limit, kMost);
}

// Holds calls until somebody else is refused.
class Crowded {
 public:
  explicit Crowded(int most) : most_(most) {}

  EchoHandler handler() {
    return [this](ServerContext& context, Probe::EchoParams::Reader params,
                  Probe::EchoResults::Builder results) -> Reply {
      ++ran;
      absl::MutexLock lock(&mutex_);
      const bool room = static_cast<int>(held_.size()) < most_;
      EXPECT_TRUE(room) << "more run than the limit allows";
      if (over_ || !room) return Echo(context, params, results);
      held_.push_back(context.Defer());
      return Reply::Later();
    };
  }
  // Somebody was refused.
  void AnswerOne() {
    DeferredCall call;
    {
      absl::MutexLock lock(&mutex_);
      if (held_.empty()) return;
      call = std::move(held_.back());
      held_.pop_back();
    }
    call.Finish(absl::OkStatus());
  }
  // Nobody will be any more.
  void AnswerAll() {
    std::vector<DeferredCall> calls;
    {
      absl::MutexLock lock(&mutex_);
      over_ = true;
      calls.swap(held_);
    }
    for (DeferredCall& call : calls) call.Finish(absl::OkStatus());
  }

  std::atomic<int> ran{0};

 private:
  const int most_;
  absl::Mutex mutex_;
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST_P(CallTest, ManyCallersOfALimitedServerAreAllAnsweredOrRefused) {
  constexpr int kMost = 2, kCallers = 4, kCalls = 100;
  constexpr absl::Duration kAdvice = absl::Milliseconds(30);
  Crowded crowded(kMost);
  probe_.on_echo = crowded.handler();
  const Ends ends(this);
  ServerOptions options = WithLoad({.calls_max = kMost, .retry_after = kAdvice});
  options.event_loops = kCallers;
  Start(options);
  std::atomic<int> ok{0}, refused{0}, callers{kCallers};
  std::vector<std::thread> threads;
  for (int i = 0; i < kCallers; ++i) {
    threads.emplace_back([&] {
      const std::shared_ptr<Channel> own = NewChannel();
      for (int call = 0; call < kCalls; ++call) {
        const CallOptions once = {.deadline = Deadline::After(kSoon), .repeat = Repeat::kNever};
        const absl::Status status = ProbeStub(own).Echo(once).Send().Wait().status();
        if (status.ok()) {
          ++ok;
          continue;
        }
        EXPECT_THAT(status, OutcomeIs(CallOutcome::kRefused));
        if (!absl::IsResourceExhausted(status)) break;
        EXPECT_EQ(RetryAfter(status), kAdvice);
        ++refused;
        crowded.AnswerOne();
      }
      // Those that are left may all have room.
      if (--callers <= kMost) crowded.AnswerAll();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(ok, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(ok + refused, kCallers * kCalls);
  EXPECT_EQ(crowded.ran, ok) << "what was refused has not run";
  EXPECT_EQ(server_->load().refused, static_cast<uint64_t>(refused));
  EXPECT_EQ(server_->load().calls, 0u);
}

TEST_P(CallTest, SenselessLoadLimitsStartNoServer) {
  const auto start = [this](const LoadLimits& load) {
    return ServerBuilder()
        .SetOptions(WithLoad(load))
        .AddService(&probe_)
        .Listen(GetParam().new_endpoint())
        .Start()
        .status();
  };
  EXPECT_THAT(start({.methods = {{"Probe.ecco", 1}}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("Probe.ecco")));
  EXPECT_THAT(start({.calls_max = 1, .control_calls_max = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("control_calls_max")));
  // What the service extends has names, too.
  EXPECT_THAT(start({.methods = {{"Named.name", 1}}}), IsOk());
}

}  // namespace
}  // namespace mi7::conformance
