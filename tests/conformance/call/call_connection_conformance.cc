// Connecting, losing the connection, and connecting again.

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rpc/retry_info.h"
#include "rpc/task.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::Eq;
using testing::HasSubstr;
using testing::StartsWith;

// A channel that, once an attempt failed, does not try again during the test.
ChannelOptions LongBackoff() {
  ChannelOptions options;
  options.backoff.initial = options.backoff.max = absl::Hours(1);
  return options;
}
// A channel that tries again at once.
ChannelOptions ShortBackoff() {
  ChannelOptions options;
  options.backoff.initial = absl::Milliseconds(1);
  options.backoff.max = absl::Milliseconds(5);
  return options;
}

// Waits until the channel is in `state`.
testing::AssertionResult Becomes(const Channel& channel, ChannelState state) {
  const Deadline patience = Deadline::After(kSoon);
  while (channel.state() != state) {
    if (patience.passed()) return testing::AssertionFailure() << channel.Describe();
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

TEST_P(CallTest, ConnectsWithTheFirstCall) {
  Start();
  EXPECT_EQ(channel_->state(), ChannelState::kIdle);
  EXPECT_EQ(channel_->transport(), "");
  EXPECT_EQ(channel_->Describe(), endpoint_ + ": idle");
  EXPECT_EQ(server_->connection_count(), 0u);
  EXPECT_TRUE(Works());
  EXPECT_EQ(channel_->state(), ChannelState::kReady);
  EXPECT_EQ(channel_->transport(), GetParam().transport);
  EXPECT_THAT(channel_->Describe(),
              StartsWith(absl::StrCat(endpoint_, ": ready, calls go over ", GetParam().transport,
                                      " to ", GetParam().transport, ":")));
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, ConnectConnects) {
  Start();
  EXPECT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  EXPECT_EQ(channel_->state(), ChannelState::kReady);
  EXPECT_THAT(channel_->Connect(Deadline::AtNanos(0)), IsOk()) << "it is connected already";
}

TEST_P(CallTest, ConnectInsideACallbackIsRefused) {
  Start();
  const std::shared_ptr<Channel> other = NewChannel();  // the same event loop must connect it
  absl::Notification done;
  absl::Status connected;
  SendHold(1).Then([&](auto) {
    connected = other->Connect(Deadline::After(kSoon));
    done.Notify();
  });
  probe_.TakeHeld().Answer();
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(connected,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("would wait for itself")));
}

TEST_P(CallTest, ManyThreadsConnectOnce) {
  Start();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      if (i % 2 == 0) right += channel_->Connect(Deadline::After(kSoon)).ok();
      right += EchoText("x").ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 12);
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, RefusedConnectionFailsTheCallUnsent) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(LongBackoff());
  const EchoResult result = SendEcho("x").Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(StartsWith("Probe.echo: "), HasSubstr(endpoint_))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, RefusedConnectionFailsCallbacksAndCoroutinesUnsent) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(LongBackoff());
  absl::Notification done;
  absl::Status by_callback;
  SendEcho("x").Then([&](EchoResult result) {
    by_callback = result.status();
    done.Notify();
  });
  const auto coroutine = [](ProbeStub stub) -> Task<absl::Status> {
    auto request = stub.Echo();
    co_return (co_await request.Send()).status();
  };
  const absl::Status by_coroutine = BlockOn(coroutine(stub()));
  ASSERT_TRUE(Happens(done));
  for (const absl::Status& status : {by_callback, by_coroutine}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(endpoint_)));
    EXPECT_THAT(status, OutcomeIs(CallOutcome::kNotSent));
  }
}

TEST_P(CallTest, ConnectTellsWhyItFailed) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(LongBackoff());
  EXPECT_THAT(channel_->Connect(Deadline::After(kSoon)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(endpoint_)));
  EXPECT_EQ(channel_->state(), ChannelState::kBackoff);
}

TEST_P(CallTest, CallsFailAtOnceWhileTheChannelWaitsToReconnect) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(LongBackoff());
  const absl::Status first = EchoText("x").status();
  ASSERT_TRUE(Becomes(*channel_, ChannelState::kBackoff));
  EXPECT_THAT(channel_->Describe(),
              StartsWith(endpoint_ + ": waiting to reconnect (last failure: "));
  for (int i = 0; i < 100; ++i) {
    const EchoResult result = SendEcho("x").Wait();
    ASSERT_EQ(result.status(), first) << "says why connecting failed";
    ASSERT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  }
}

TEST_P(CallTest, ConnectDoesNotWaitForTheBackoff) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(LongBackoff());
  EXPECT_FALSE(EchoText("x").ok());
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  EXPECT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, ServerThatIsFullHasRoomForALaterAttempt) {
  ServerOptions server;
  server.limits.connections_max = 1;
  Start(server);
  ASSERT_TRUE(Works());
  ChannelOptions options;
  options.backoff.initial = options.backoff.max = absl::Milliseconds(5);
  options.retry.policy.attempts_max = 255;
  const std::shared_ptr<Channel> other = NewChannel(options);
  absl::Notification done;
  absl::Status status;
  ProbeStub(other).Echo({.deadline = Deadline::After(kSoon)}).Send().Then([&](auto result) {
    status = result.status();
    done.Notify();
  });
  const Deadline patience = Deadline::After(kSoon);
  while (!done.HasBeenNotified() && !absl::StrContains(other->Describe(), "connections_max")) {
    ASSERT_FALSE(patience.passed()) << other->Describe();
  }
  channel_->Close();
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(status, IsOk());
}

TEST_P(CallTest, CallThatDoesNotWaitForAFullServerIsToldWhenToComeAgain) {
  ServerOptions server;
  server.limits.connections_max = 1;
  Start(server);
  ASSERT_TRUE(Works());
  // Over mi7:// a second one finds room at the other transport.
  std::shared_ptr<Channel> second;
  if (absl::StartsWith(endpoint_, "mi7:")) {
    ASSERT_TRUE(HasConnections(1));
    second = NewChannel();
    ASSERT_THAT(second->Connect(Deadline::After(kSoon)), IsOk());
    ASSERT_TRUE(HasConnections(2));
  }
  ChannelOptions options = LongBackoff();
  options.backoff.jitter = 0;
  const std::shared_ptr<Channel> other = NewChannel(options);
  // The first one waits for the attempt to connect, the second one comes after it has failed.
  for (int i = 0; i < 2; ++i) {
    const EchoResult result =
        ProbeStub(other).Echo({.deadline = Deadline::After(kSoon)}).Send().Wait();
    EXPECT_THAT(result,
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("connections_max, 1")));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
    const std::optional<absl::Duration> advice = RetryAfter(result.status());
    ASSERT_TRUE(advice);
    EXPECT_GT(*advice, absl::Minutes(59));
    EXPECT_LE(*advice, absl::Hours(1));
  }
}

TEST_P(CallTest, CallThatWaitsForReadyIsSentOnceTheServerIsBack) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(ShortBackoff());
  auto blocking = SendEcho("blocking", {.wait_for_ready = true});
  absl::Notification done;
  SendEcho("callback", {.wait_for_ready = true}).Then([&](EchoResult result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  // One that does not wait shows that an attempt failed meanwhile.
  EXPECT_THAT(EchoText("x"), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  const EchoResult result = blocking.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getText(), "blocking");
  EXPECT_TRUE(Happens(done));
}

TEST_P(CallTest, QueuedCallsLeaveInTheirOrder) {
  std::vector<int> order;
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    order.push_back(std::stoi(params.getText().cStr()));
    return Echo(context, params, results);
  };
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(ShortBackoff());
  constexpr int kCalls = 100;
  Countdown all(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    SendEcho(std::to_string(i), {.wait_for_ready = true}).Then([&](EchoResult) {
      all.DecrementCount();
    });
  }
  ASSERT_NO_FATAL_FAILURE(RestartServer());
  all.Wait();
  ASSERT_EQ(order.size(), static_cast<size_t>(kCalls));
  for (int i = 0; i < kCalls; ++i) ASSERT_EQ(order[i], i);
}

TEST_P(CallTest, KilledServerEndsCallsInFlightAsMayHaveRun) {
  Start();
  auto blocking = SendHold(1);
  absl::Notification done;
  absl::Status by_callback;
  SendHold(2).Then([&](auto result) {
    by_callback = result.status();
    done.Notify();
  });
  ASSERT_TRUE(probe_.AwaitHeld(2));
  StopServer();
  const auto result = blocking.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(StartsWith("Probe.hold: connection lost"),
                                     HasSubstr("the call may have run"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(by_callback, OutcomeIs(CallOutcome::kUnknown));
  // The handlers' answers go nowhere.
  probe_.TakeHeld().Answer();
  ProbeImpl::Held second = probe_.TakeHeld();
  EXPECT_TRUE(second.context->cancelled());
  second.Answer();
}

// Neither by keepalive nor by a deadline, which take seconds.
TEST_P(CallTest, CallsInFlightEndAtOnceWhenTheConnectionIsLost) {
  absl::Duration shortest = absl::InfiniteDuration();
  const Ends ends(this);
  // One of them, when the machine has other things to do as well.
  for (int round = 0; round < 10 && shortest > absl::Milliseconds(500); ++round) {
    Start({}, LongBackoff());
    absl::Notification done;
    std::thread blocking(
        [&] { EXPECT_THAT(SendHold(1).Wait(), OutcomeIs(CallOutcome::kUnknown)); });
    SendHold(2).Then([&](auto result) {
      EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
      done.Notify();
    });
    EXPECT_TRUE(probe_.AwaitHeld(2));
    const int64_t lost_ns = SystemNanos();
    StopServer();
    EXPECT_TRUE(Happens(done));
    blocking.join();
    shortest = std::min(shortest, absl::Nanoseconds(SystemNanos() - lost_ns));
    for (int i = 0; i < 2; ++i) probe_.TakeHeld().Answer();
    channel_ = nullptr;
  }
  EXPECT_LE(shortest, absl::Milliseconds(500));
}

TEST_P(CallTest, ReconnectsByItselfWhenTheServerIsBack) {
  Start({}, ShortBackoff());
  for (int i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(Works());
    StopServer();
    ASSERT_TRUE(Becomes(*channel_, ChannelState::kIdle)) << "noticed without a call";
    const EchoResult result = SendEcho("x").Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
    ASSERT_NO_FATAL_FAILURE(RestartServer());
  }
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, NoCallIsLostOrDoubledWhileServersComeAndGo) {
  std::atomic<uint64_t> ran{0};
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    ++ran;
    return Echo(context, params, results);
  };
  Start({}, ShortBackoff());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> answered{0}, unknown{0};
  // Counts how a call ended; true when it was answered.
  const auto call_once = [&](bool wait_for_ready) {
    const EchoResult result = SendEcho("x", {.wait_for_ready = wait_for_ready}).Wait();
    if (result.ok()) {
      ++answered;
      return true;
    }
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
    const CallOutcome outcome = OutcomeOf(result.status());
    EXPECT_NE(outcome, CallOutcome::kAnswered) << result.status();
    unknown += outcome == CallOutcome::kUnknown;
    return false;
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      while (!stop) call_once(/*wait_for_ready=*/t == 0);
    });
  }
  for (int i = 0; i < 20; ++i) {
    while (!call_once(true)) {
    }
    if (i % 2 == 0) {
      StopServer();
    } else {
      EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
    }
    ASSERT_NO_FATAL_FAILURE(RestartServer());
  }
  while (!call_once(true)) {
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  // Every answered call ran once; one whose fate is unknown at most once; others not at all.
  EXPECT_GE(ran, answered);
  EXPECT_LE(ran, answered + unknown);
}

TEST_P(CallTest, CloseEndsEverything) {
  Start();
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  channel_->Close();
  EXPECT_EQ(channel_->state(), ChannelState::kClosed);
  EXPECT_EQ(channel_->Describe(), endpoint_ + ": closed");
  const auto result = held.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  const EchoResult later = SendEcho("x", {.wait_for_ready = true}).Wait();
  EXPECT_THAT(later, StatusIs(absl::StatusCode::kFailedPrecondition,
                              StartsWith("Probe.echo: channel is closed")));
  EXPECT_THAT(later, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_THAT(channel_->Connect(Deadline::After(kSoon)),
              StatusIs(absl::StatusCode::kFailedPrecondition, "channel is closed"));
  channel_->Close();
  EXPECT_EQ(channel_->state(), ChannelState::kClosed);
}

TEST_P(CallTest, CloseBeforeTheFirstCall) {
  Start();
  channel_->Close();
  EXPECT_THAT(EchoText("x"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(server_->connection_count(), 0u);
}

TEST_P(CallTest, CloseEndsCallsThatWaitForAConnection) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  channel_ = NewChannel(LongBackoff());
  auto call = SendEcho("x", {.wait_for_ready = true});
  channel_->Close();
  const EchoResult result = call.Wait();
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kCancelled, StartsWith("Probe.echo: channel was closed")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, CloseRacesWithConnecting) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  for (int i = 0; i < 100; ++i) {
    channel_ = NewChannel();
    auto call = SendEcho("x");
    if (i % 2 == 0) std::this_thread::yield();
    channel_->Close();
    const EchoResult result = call.Wait();
    if (!result.ok()) {
      EXPECT_THAT(result.status().code(),
                  AnyOf(Eq(absl::StatusCode::kCancelled), Eq(absl::StatusCode::kUnavailable),
                        Eq(absl::StatusCode::kFailedPrecondition)));
    }
  }
  channel_ = nullptr;
  const Deadline patience = Deadline::After(kSoon);
  while (server_->connection_count() != 0) ASSERT_FALSE(patience.passed()) << "a connection stays";
}

TEST_P(CallTest, DroppedChannelClosesItsConnection) {
  Start();
  ASSERT_TRUE(Works());
  EXPECT_TRUE(HasConnections(1));
  channel_ = nullptr;
  const Deadline patience = Deadline::After(kSoon);
  while (server_->connection_count() != 0) ASSERT_FALSE(patience.passed());
}

TEST_P(CallTest, ChannelWithALoopOfItsOwn) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  for (int i = 0; i < 20; ++i) {
    const auto loop = *transport::EventLoop::Create({.name = "own"});
    ChannelOptions options;
    options.event_loop = loop.get();
    channel_ = NewChannel(options);
    absl::Notification done;
    SendHold(1).Then([&](auto result) {
      EXPECT_THAT(result, IsOk());
      EXPECT_TRUE(loop->InLoopThread());
      done.Notify();
    });
    probe_.TakeHeld().Answer();
    ASSERT_TRUE(Happens(done));
    channel_ = nullptr;  // and then its loop
  }
}

TEST_P(CallTest, MalformedEndpointsAreInvalidArgument) {
  for (const char* text : {"", "nonsense", "tcp:", "tcp:host", "tcp:host:99999", "http://x:1"}) {
    EXPECT_THAT(Channel::Create(text),
                StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("endpoint \"")))
        << text;
  }
}

}  // namespace
}  // namespace mi7::conformance
