// Server::Shutdown, and what servers are made of.

#include <atomic>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

TEST_P(CallTest, ShutdownWithoutClientsIsOk) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  EXPECT_THAT(server_->Shutdown(Deadline::Infinite()), IsOk());
}

TEST_P(CallTest, ShutdownWithIdleClientsIsOk) {
  Start();
  std::vector<std::shared_ptr<Channel>> idle;
  for (int i = 0; i < 5; ++i) {
    idle.push_back(NewChannel());
    ASSERT_THAT(idle.back()->Connect(Deadline::After(kSoon)), IsOk());
  }
  // The server may learn of a connection a little later than the client.
  const Deadline patience = Deadline::After(kSoon);
  while (server_->connection_count() != 5) ASSERT_FALSE(patience.passed());
  EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_EQ(server_->connection_count(), 0u);
  for (const auto& channel : idle) EXPECT_NE(channel->state(), ChannelState::kReady);
}

TEST_P(CallTest, ShutdownTwiceIsOk) {
  Start();
  ASSERT_TRUE(Works());
  EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_THAT(server_->Shutdown(Deadline::AtNanos(0)), IsOk());
}

TEST_P(CallTest, SecondShutdownWaitsForTheFirst) {
  Start();
  auto call = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  std::atomic<bool> answering{false};
  const auto shut_down = [&](Deadline deadline) {
    EXPECT_THAT(server_->Shutdown(deadline), IsOk());
    EXPECT_TRUE(answering) << "it waits for the call";
  };
  std::thread first([&] { shut_down(Deadline::After(kSoon)); });
  // Told to go away by the first one, which waits for the call now.
  const Deadline patience = Deadline::After(kSoon);
  while (channel_->state() == ChannelState::kReady && !patience.passed()) {
    std::this_thread::yield();
  }
  EXPECT_NE(channel_->state(), ChannelState::kReady);
  absl::Notification begins, ended;
  std::thread second([&] {
    begins.Notify();
    shut_down(Deadline::AtNanos(0));  // cuts nothing off: it is the first one's shutdown
    ended.Notify();
  });
  EXPECT_TRUE(Happens(begins));
  EXPECT_FALSE(ended.WaitForNotificationWithTimeout(absl::Milliseconds(20)));
  answering = true;
  probe_.TakeHeld().Answer();
  EXPECT_THAT(call.Wait(), IsOk());
  first.join();
  second.join();
}

TEST_P(CallTest, ShutdownFinishesAcceptedCallsAndRefusesLaterOnes) {
  Start();
  auto blocking = SendHold(1);
  absl::Notification done;
  SendHold(2).Then([&](auto result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  ASSERT_TRUE(probe_.AwaitHeld(2));
  absl::Status shut_down;
  std::thread shutdown([&] { shut_down = server_->Shutdown(Deadline::After(kSoon)); });
  // Once the shutdown has begun, calls are refused, or not sent: the server told to go away.
  absl::Status later;
  const Deadline patience = Deadline::After(kSoon);
  do {
    later = EchoText("later").status();
    ASSERT_FALSE(patience.passed());
  } while (later.ok());
  EXPECT_THAT(later, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(later,
              testing::AnyOf(OutcomeIs(CallOutcome::kRefused), OutcomeIs(CallOutcome::kNotSent)));
  probe_.TakeHeld().Answer();
  probe_.TakeHeld().Answer();
  EXPECT_THAT(blocking.Wait(), IsOk());
  EXPECT_TRUE(Happens(done));
  shutdown.join();
  EXPECT_THAT(shut_down, IsOk());
}

TEST_P(CallTest, ShutdownCutsOffAtItsDeadline) {
  Start();
  auto first = SendHold(1), second = SendHold(2);
  ASSERT_TRUE(probe_.AwaitHeld(2));
  ASSERT_TRUE(HasConnections(1));
  ProbeImpl::Held left[] = {probe_.TakeHeld(), probe_.TakeHeld()};
  absl::Notification told;
  std::stop_callback on_cancel(left[0].context->stop_token(), [&] { told.Notify(); });
  EXPECT_FALSE(left[0].context->cancelled());
  const Deadline deadline = Deadline::After(absl::Milliseconds(30));
  EXPECT_THAT(server_->Shutdown(deadline),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       "2 calls on 1 connections were cut off at the deadline"));
  EXPECT_TRUE(deadline.passed());
  for (auto* call : {&first, &second}) {
    const auto result = call->Wait();
    EXPECT_THAT(result,
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("server is shutting down")));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  }
  // Their handlers are told, and may go on.
  EXPECT_TRUE(Happens(told));
  for (const ProbeImpl::Held& held : left) EXPECT_TRUE(held.context->cancelled());
  left[0].Answer();
  server_ = nullptr;
  left[1].Answer();  // after the server is gone
}

TEST_P(CallTest, HandlerThatAnswersInlineIsToldOfTheShutdownsDeadline) {
  absl::Notification runs;
  bool was_told = false;
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader,
                       Probe::EchoResults::Builder) -> Reply {
    EXPECT_FALSE(context.cancelled());
    runs.Notify();
    const Deadline patience = Deadline::After(kSoon);
    while (!context.cancelled() && !patience.passed()) {
    }
    was_told = context.cancelled();
    return absl::OkStatus();
  };
  Start();
  EchoResult result;
  std::thread caller([&] { result = stub().Echo().Send().Wait(); });
  EXPECT_TRUE(Happens(runs));
  const Deadline deadline = Deadline::After(absl::Milliseconds(30));
  const absl::Status shut_down = server_->Shutdown(deadline);
  EXPECT_TRUE(deadline.passed());
  EXPECT_TRUE(was_told) << "it returns when no handler runs any more";
  caller.join();
  if (!shut_down.ok()) {
    EXPECT_THAT(shut_down, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                    "1 calls on 1 connections were cut off at the deadline"));
  }
  if (result.ok()) return;  // where the handler keeps the server's loop, or at the same moment
  EXPECT_FALSE(shut_down.ok()) << "a call was cut off";
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
}

TEST_P(CallTest, CloseEndsCallsThatAShutdownWaitsFor) {
  Start();
  auto call = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  absl::Status shut_down;
  std::thread shutdown([&] { shut_down = server_->Shutdown(Deadline::After(kSoon)); });
  const Deadline patience = Deadline::After(kSoon);
  while (channel_->state() == ChannelState::kReady) ASSERT_FALSE(patience.passed());
  channel_->Close();
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
  shutdown.join();
  EXPECT_THAT(shut_down, IsOk()) << "nobody waits for the answer any more";
  probe_.TakeHeld().Answer();
}

TEST_P(CallTest, ShutdownUnderLoadAnswersOrRefusesEveryCall) {
  for (int round = 0; round < 5; ++round) {
    std::atomic<uint64_t> ran{0};
    probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                         Probe::EchoResults::Builder results) {
      ++ran;
      return Echo(context, params, results);
    };
    Start({}, Impatient());  // or the last calls of a round would wait for a server for seconds
    std::atomic<uint64_t> answered{0};
    std::atomic<bool> stop{false};
    Countdown busy(3);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        uint64_t own = 0;
        while (!stop) {
          const EchoResult result = SendEcho("x").Wait();
          if (result.ok()) {
            ++answered;
            if (++own == 50) busy.DecrementCount();
            continue;
          }
          const CallOutcome outcome = OutcomeOf(result.status());
          EXPECT_TRUE(outcome == CallOutcome::kRefused || outcome == CallOutcome::kNotSent)
              << result.status();
        }
      });
    }
    busy.Wait();
    EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
    stop = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(ran, answered) << "none ran in vain";
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, ShutdownRacesWithConnecting) {
  for (int i = 0; i < 100; ++i) {
    Start();
    std::atomic<bool> stop{false};
    std::thread caller([&] {
      while (!stop) {
        // Not repeated, or each round would go along with attempts to connect to the server that is
        // gone.
        const absl::Status status =
            EchoText("x", {.deadline = Deadline::After(kSoon), .repeat = Repeat::kNever}).status();
        if (status.ok()) continue;
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
        EXPECT_THAT(status, testing::Not(OutcomeIs(CallOutcome::kUnknown)));
      }
    });
    if (i % 2 == 0) {
      EXPECT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
    } else {
      std::this_thread::yield();
    }
    EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
    stop = true;
    caller.join();
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, DestructionOfTheServerEndsItsConnections) {
  Start({}, Impatient());
  ASSERT_TRUE(Works());
  server_ = nullptr;
  // Sent before the client noticed, or after.
  EXPECT_THAT(SendEcho("x").Wait(), StatusIs(absl::StatusCode::kUnavailable));
  const EchoResult result = SendEcho("x").Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, OneServerHasSeveralServicesAndEndpoints) {
  CounterImpl counter;
  const std::string second_endpoint = GetParam().new_endpoint();
  endpoint_ = GetParam().new_endpoint();
  server_ = *ServerBuilder()
                 .AddService(&probe_)
                 .AddService(&counter)
                 .Listen(endpoint_)
                 .Listen(second_endpoint)
                 .Start();
  ASSERT_THAT(server_->endpoints(), SizeIs(2));
  for (uint64_t i = 0; i < 2; ++i) {
    endpoint_ = server_->endpoints()[i];
    channel_ = NewChannel();
    EXPECT_TRUE(Works());
    const auto value = CounterStub(channel_).Next().Send().Wait();
    ASSERT_THAT(value, IsOk());
    EXPECT_EQ(value->getValue(), i + 1);
  }
}

TEST_P(CallTest, InheritedMethodsGoToTheirService) {
  CounterImpl counter;
  endpoint_ = GetParam().new_endpoint();
  server_ = *ServerBuilder().AddService(&probe_).AddService(&counter).Listen(endpoint_).Start();
  endpoint_ = server_->endpoints()[0];
  channel_ = NewChannel();
  const auto of_probe = stub().Name().Send().Wait();
  ASSERT_THAT(of_probe, IsOk());
  EXPECT_EQ(of_probe->getName(), "probe");
  const auto of_counter = CounterStub(channel_).Name().Send().Wait();
  ASSERT_THAT(of_counter, IsOk());
  EXPECT_EQ(of_counter->getName(), "counter");
  // The base alone does not say which of the two is meant.
  EXPECT_THAT(NamedStub(channel_).Name().Send().Wait(),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("several services of this server extend Named"),
                             HasSubstr("Probe, Counter"))));
}

TEST_P(CallTest, BaseOfOneServiceIsServedByIt) {
  Start();
  const auto name = NamedStub(channel_).Name().Send().Wait();
  ASSERT_THAT(name, IsOk());
  EXPECT_EQ(name->getName(), "probe");
}

TEST_P(CallTest, OwnedServicesLiveUntilTheirLastCall) {
  endpoint_ = GetParam().new_endpoint();
  struct Service final : CounterImpl {
    explicit Service(std::atomic<bool>* alive_flag) : alive(alive_flag) { *alive = true; }
    ~Service() override { *alive = false; }
    std::atomic<bool>* alive;
  };
  std::atomic<bool> alive{false};
  server_ =
      *ServerBuilder().AddService(std::make_unique<Service>(&alive)).Listen(endpoint_).Start();
  endpoint_ = server_->endpoints()[0];
  channel_ = NewChannel();
  EXPECT_TRUE(alive);
  EXPECT_THAT(CounterStub(channel_).Next().Send().Wait(), IsOk());
  server_ = nullptr;
  channel_ = nullptr;
  EXPECT_FALSE(alive);
}

TEST_P(CallTest, OwnedServiceOutlivesAServerThatCutItsCallsOff) {
  endpoint_ = GetParam().new_endpoint();
  struct Service final : CounterImpl {
    explicit Service(std::atomic<bool>* alive_flag) : alive(alive_flag) { *alive = true; }
    ~Service() override { *alive = false; }
    Reply Next(ServerContext& context, Counter::NextParams::Reader,
               Counter::NextResults::Builder) override {
      held = context.Defer();
      called.Notify();
      return Reply::Later();
    }
    std::atomic<bool>* alive;
    DeferredCall held;
    absl::Notification called;
  };
  std::atomic<bool> alive{false};
  auto owned = std::make_unique<Service>(&alive);
  Service* const service = owned.get();
  server_ = *ServerBuilder().AddService(std::move(owned)).Listen(endpoint_).Start();
  endpoint_ = server_->endpoints()[0];
  channel_ = NewChannel();
  auto call = CounterStub(channel_).Next().Send();
  ASSERT_TRUE(Happens(service->called));
  EXPECT_THAT(server_->Shutdown(Deadline::AtNanos(0)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  server_ = nullptr;
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kUnknown));
  channel_ = nullptr;
  EXPECT_TRUE(alive) << "the call that is held keeps it";
  { const DeferredCall last = std::move(service->held); }
  EXPECT_FALSE(alive);
}

TEST_P(CallTest, WrongServersDoNotStart) {
  const std::string endpoint = GetParam().new_endpoint();
  EXPECT_THAT(ServerBuilder().Listen(endpoint).Start(),
              StatusIs(absl::StatusCode::kInvalidArgument, "a server needs at least one service"));
  EXPECT_THAT(ServerBuilder().AddService(&probe_).Start(),
              StatusIs(absl::StatusCode::kInvalidArgument, "a server needs at least one endpoint"));
  EXPECT_THAT(ServerBuilder().AddService(&probe_).Listen("nonsense").Start(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"nonsense\"")));
  EXPECT_THAT(ServerBuilder().AddService(&probe_).AddService(&probe_).Listen(endpoint).Start(),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("Probe is already served")));
  ASSERT_NO_FATAL_FAILURE(StartServer());
  EXPECT_THAT(ServerBuilder().AddService(&probe_).Listen(endpoint_).Start(),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(endpoint_)));
  // A failed Start leaves nothing behind.
  EXPECT_THAT(ServerBuilder().AddService(&probe_).Listen(endpoint).Listen("nonsense").Start(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ServerBuilder().AddService(&probe_).Listen(endpoint).Start(), IsOk());
}

TEST_P(CallTest, ServersWithSeveralLoopsAnswerOnAll) {
  constexpr size_t kLoops = 4;
  absl::Mutex mutex;
  std::set<std::thread::id> ran_on;
  probe_.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                       Probe::EchoResults::Builder results) {
    {
      absl::MutexLock lock(&mutex);
      ran_on.insert(std::this_thread::get_id());
    }
    return Echo(context, params, results);
  };
  ServerOptions options;
  options.event_loops = kLoops;
  Start(options);
  std::vector<std::shared_ptr<Channel>> channels;
  for (size_t i = 0; i < 2 * kLoops; ++i) {
    channels.push_back(NewChannel());
    ASSERT_THAT(channels.back()->Connect(Deadline::After(kSoon)), IsOk());
  }
  constexpr int kCalls = 50;
  Countdown all(static_cast<int>(channels.size()) * kCalls);
  std::atomic<int> right{0};
  // Callbacks: where client and server are one process, a caller that waits may run the handler.
  for (int call = 0; call < kCalls; ++call) {
    for (const auto& channel : channels) {
      auto request = ProbeStub(channel).Echo();
      request->setText("x");
      request.Send().Then([&](EchoResult result) {
        right += result.ok();
        all.DecrementCount();
      });
    }
  }
  all.Wait();
  EXPECT_EQ(right, 2 * static_cast<int>(kLoops) * kCalls);
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(ran_on.size(), kLoops) << "connections are spread over all loops";
  EXPECT_EQ(ran_on.count(std::this_thread::get_id()), 0u);
}

// A thread inside Send must not outlive what the connection lives on.
TEST_P(CallTest, AnswersOfOtherThreadsRaceWithTheEndOfTheServer) {
  constexpr uint32_t kCalls = 64, kThreads = 4;
  for (int round = 0; round < 30; ++round) {
    Start();
    std::atomic<uint32_t> answered{0};
    Countdown ended(kCalls);
    for (uint32_t i = 0; i < kCalls; ++i) {
      SendHold(i).Then([&](auto result) {
        if (result.ok()) {
          ++answered;
        } else {
          EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
          EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
        }
        ended.DecrementCount();
      });
    }
    ASSERT_TRUE(probe_.AwaitHeld(kCalls));
    std::vector<ProbeImpl::Held> held;
    for (uint32_t i = 0; i < kCalls; ++i) held.push_back(probe_.TakeHeld());
    std::atomic<uint32_t> next{0};
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (uint32_t i; (i = next++) < kCalls;) held[i].Answer();
      });
    }
    // Some rounds in the middle of the answers, some at their beginning or after them.
    const uint32_t until = kCalls * static_cast<uint32_t>(round % 4) / 4;
    while (next < until) std::this_thread::yield();
    StopServer();
    for (std::thread& thread : threads) thread.join();
    ended.Wait();
    EXPECT_LE(answered, kCalls);
    channel_ = nullptr;
  }
}

}  // namespace
}  // namespace mi7::conformance
