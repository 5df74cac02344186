// Any thread may drive a connection, one at a time; nobody waits longer than needed.

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "tests/conformance/connection_conformance.h"
#include "transport/inproc/inproc.h"

namespace mi7::transport::conformance {
namespace {

TEST_P(ConnectionConformance, BlockingCallGetsItsReply) {
  ConnectToEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  for (uint32_t i = 1; i <= 500; ++i) {
    ASSERT_TRUE(caller->Echo(*client_connection_, i, i));
    ASSERT_TRUE(caller->Echo(*client_connection_, i, i, TestDeadline()));
  }
}

TEST_P(ConnectionConformance, ManyThreadsCallThroughOneConnection) {
  ConnectToEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  std::vector<std::thread> threads;
  for (uint32_t thread = 1; thread <= 8; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint32_t i = 0; i < 300; ++i) {
        const Deadline deadline = i % 2 == 0 ? Deadline::Infinite() : TestDeadline();
        ASSERT_TRUE(
            caller->Echo(*client_connection_, thread * 1000 + i, (i * 31) % 2000, deadline));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(ConnectionConformance, RepliesFromAnotherThreadReachTheirWaiters) {
  // The server hands requests to a worker, which answers in pairs, the later one first.
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<IncomingMessage> requests;
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>([&](IncomingMessage request) {
    std::lock_guard lock(mutex);
    requests.push_back(std::move(request));
    changed.notify_all();
  });
  server_connection_->Start(server_);
  const std::shared_ptr<Caller> caller = StartCaller();
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kCalls = 200;
  std::thread worker([&] {
    for (uint32_t done = 0; done < kThreads * kCalls;) {
      std::vector<IncomingMessage> taken;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !requests.empty(); });
        taken.swap(requests);
      }
      while (!taken.empty()) {
        EXPECT_TRUE(SendEcho(*server_connection_, taken.back()).ok());
        taken.pop_back();
        ++done;
      }
    }
  });
  std::vector<std::thread> threads;
  for (uint32_t thread = 1; thread <= kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint32_t i = 0; i < kCalls; ++i) {
        ASSERT_TRUE(caller->Echo(*client_connection_, thread * 1000 + i, 100));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  worker.join();
}

TEST_P(ConnectionConformance, TurnIsHandedToTheNextWaiterWhenADriverIsDone) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  const std::shared_ptr<Caller> caller = StartCaller();
  constexpr uint32_t kWaiters = 4;
  std::vector<std::unique_ptr<Caller::Call>> calls;
  std::vector<std::unique_ptr<Event>> answered;
  for (uint32_t i = 0; i < kWaiters; ++i) {
    calls.push_back(std::make_unique<Caller::Call>(i));
    answered.push_back(std::make_unique<Event>());
    caller->Expect(*calls.back());
    ASSERT_TRUE(SendCall(*client_connection_, i, 10).ok());
  }
  std::vector<std::thread> waiters;
  for (uint32_t i = 0; i < kWaiters; ++i) {
    waiters.emplace_back([&, i] {
      EXPECT_TRUE(client_connection_->Await(calls[i]->completion, Deadline::Infinite()));
      EXPECT_TRUE(IsCall(calls[i]->reply, i, 10));
      answered[i]->Set();
    });
  }
  ASSERT_TRUE(server_->WaitForMessages(kWaiters));
  // One reply at a time, the next only after its waiter has left: each must find a driver.
  const std::vector<IncomingMessage> requests = server_->TakeMessages();
  for (const uint32_t i : {2u, 0u, 3u, 1u}) {
    ASSERT_TRUE(SendEcho(*server_connection_, requests[i]).ok());
    ASSERT_TRUE(answered[i]->Wait()) << i;
  }
  for (std::thread& thread : waiters) thread.join();
}

TEST_P(ConnectionConformance, AwaitEndsAtItsDeadlineAndTheConnectionGoesOn) {
  ConnectAndStart();
  Completion never;
  const int64_t start_ns = MonotonicNanos();
  EXPECT_FALSE(client_connection_->Await(never, Deadline::After(absl::Milliseconds(20))));
  EXPECT_GE(MonotonicNanos() - start_ns, 20'000'000);
  ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
  EXPECT_TRUE(server_->WaitForMessages(1));
}

TEST_P(ConnectionConformance, AwaitEndsAtItsDeadlineWhileTheOtherSideIsBusy) {
  Event entered;
  Event released;
  ConnectAndStart([&](IncomingMessage) {
    entered.Set();
    EXPECT_TRUE(released.Wait());
  });
  ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
  Completion never;
  // The handler ends only after Await has.
  EXPECT_FALSE(client_connection_->Await(never, Deadline::After(absl::Milliseconds(20))));
  EXPECT_TRUE(entered.Wait());
  released.Set();
  EXPECT_TRUE(server_->WaitForMessages(1));
}

TEST_P(ConnectionConformance, AwaitEndsAtItsDeadlineWhileMessagesNeverEnd) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  // Shared: what is on its way arrives after the test.
  struct Stream {
    std::atomic<uint64_t> sent{0}, received{0};
    std::atomic<bool> over{false};  // the waiter has gone, or patience has ended
  };
  const auto stream = std::make_shared<Stream>();
  client_ = std::make_shared<RecordingReceiver>([stream](IncomingMessage) {
    ++stream->received;
    // Whoever drives always finds another message at hand.
    while (stream->sent <= stream->received && !stream->over) std::this_thread::yield();
  });
  server_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  server_connection_->Start(server_);
  bool gave_up = false;
  std::thread sender([&] {
    const Deadline patience = Deadline::After(absl::Seconds(30));
    while (!stream->over) {
      if (patience.passed()) {
        gave_up = true;
        stream->over = true;
      } else if (stream->sent - stream->received > 2000) {
        std::this_thread::yield();
      } else if (SendCall(*server_connection_, 1, 10).ok()) {
        ++stream->sent;
      }
    }
  });
  Completion never;
  EXPECT_FALSE(client_connection_->Await(never, Deadline::After(absl::Milliseconds(50))));
  stream->over = true;
  sender.join();
  EXPECT_FALSE(gave_up) << "the waiter looked at its deadline when the messages ended";
}

TEST_P(ConnectionConformance, AwaitOfWhatIsDoneOrTooLateReturnsAtOnce) {
  ConnectAndStart();
  Completion done;
  done.Complete();
  EXPECT_TRUE(client_connection_->Await(done, Deadline::AtNanos(0)));
  Completion late;
  EXPECT_FALSE(client_connection_->Await(late, Deadline::AtNanos(0)));
}

TEST_P(ConnectionConformance, AwaitReturnsWhenAnotherThreadCompletes) {
  ConnectAndStart();
  for (int i = 0; i < 50; ++i) {
    Completion completion;
    std::thread completer([&completion] { completion.Complete(); });
    EXPECT_TRUE(client_connection_->Await(completion, Deadline::Infinite()));
    completer.join();
  }
}

TEST_P(ConnectionConformance, AwaitEndsWhenTheConnectionDoes) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  const std::shared_ptr<Caller> caller = StartCaller();
  Caller::Call call(1);
  caller->Expect(call);
  ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
  std::thread closer([this] {
    EXPECT_TRUE(server_->WaitForMessages(1));
    server_connection_->Close(absl::OkStatus());
  });
  EXPECT_TRUE(client_connection_->Await(call.completion, Deadline::Infinite()));
  EXPECT_FALSE(call.reply.has_body());
  closer.join();
}

TEST_P(ConnectionConformance, TheAcceptedSideMayAwaitToo) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  auto caller = std::make_shared<Caller>();
  server_ = caller;
  server_connection_->Start(caller);
  client_ = std::make_shared<RecordingReceiver>(
      [connection = client_connection_.get()](IncomingMessage request) {
        EXPECT_TRUE(SendEcho(*connection, request).ok());
      });
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  for (uint32_t i = 1; i <= 100; ++i) ASSERT_TRUE(caller->Echo(*server_connection_, i, 50));
}

TEST_P(ConnectionConformance, RepliesArriveWithoutAwait) {
  for (const bool background : {true, false}) {
    ConnectToEcho();
    client_ = std::make_shared<RecordingReceiver>();
    client_connection_->Start(client_);
    client_connection_->SetBackground(background);
    constexpr uint32_t kCount = 20;
    for (uint32_t i = 1; i <= kCount; ++i) {
      ASSERT_TRUE(SendCall(*client_connection_, i, 10).ok());
      ASSERT_TRUE(client_->WaitForMessages(i)) << "background " << background;
    }
    TearDown();
  }
}

TEST_P(ConnectionConformance, BackgroundMayBeSwitchedWhileThreadsCall) {
  ConnectToEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  std::atomic<bool> stop{false};
  std::thread switcher([&] {
    for (bool wanted = true; !stop; wanted = !wanted) {
      client_connection_->SetBackground(wanted);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> threads;
  for (uint32_t thread = 1; thread <= 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint32_t i = 0; i < 200; ++i) {
        ASSERT_TRUE(caller->Echo(*client_connection_, thread * 1000 + i, 20));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  switcher.join();
}

TEST_P(ConnectionConformance, SendInsideACallbackOnlyQueues) {
  // Each side answers inside OnMessage; nesting would overlap callbacks, which is an error there.
  constexpr uint32_t kRounds = 1000;
  const auto bounce = [](Connection* connection, IncomingMessage message) {
    const uint32_t id = message.header().call_id;
    if (id >= kRounds) return;
    EXPECT_TRUE(SendCall(*connection, id + 1, 10).ok());
  };
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>(
      [&](IncomingMessage message) { bounce(server_connection_.get(), std::move(message)); });
  client_ = std::make_shared<RecordingReceiver>(
      [&](IncomingMessage message) { bounce(client_connection_.get(), std::move(message)); });
  server_connection_->Start(server_);
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
  ASSERT_TRUE(server_->WaitForMessages(kRounds / 2));
  ASSERT_TRUE(client_->WaitForMessages(kRounds / 2));
}

// Two ends of a connection within the process, for whoever waits on another one.
class Elsewhere {
 public:
  explicit Elsewhere(EventLoop* loop) {
    const Endpoint endpoint = *Endpoint::Parse("inproc:elsewhere");
    TransportOptions options;
    options.wait = WaitPolicy::kSpin;  // so that no wait sleeps, which is for itself
    const auto on_accept = [this](std::shared_ptr<Connection> accepted) {
      accepted->Start(receivers_[1]);
      ends_[1] = std::move(accepted);
      accepted_.Set();
    };
    listener_ = *inproc::Listen(endpoint, {loop}, options, on_accept);
    inproc::Connect(endpoint, loop, options, TestDeadline(), [this](auto connected) {
      (*connected)->Start(receivers_[0]);
      ends_[0] = *std::move(connected);
      connected_.Set();
    });
    EXPECT_TRUE(accepted_.Wait() && connected_.Wait());
  }
  ~Elsewhere() {
    for (const auto& end : ends_) end->Close(absl::OkStatus());
    for (const auto& receiver : receivers_) EXPECT_TRUE(receiver->WaitForClosed());
  }
  Connection& connection() { return *ends_[0]; }

 private:
  const std::shared_ptr<RecordingReceiver> receivers_[2] = {std::make_shared<RecordingReceiver>(),
                                                            std::make_shared<RecordingReceiver>()};
  std::unique_ptr<Listener> listener_;
  std::shared_ptr<Connection> ends_[2];
  Event accepted_;
  Event connected_;
};

TEST_P(ConnectionConformance, WhatACallbackSendsLeavesBeforeItWaitsForSomethingElse) {
  if (GetParam().late) return;  // what is late is sent by the loop, which the callback keeps
  const auto loop = *EventLoop::Create({.name = "elsewhere"});
  Elsewhere elsewhere(loop.get());
  // It does not poll, and so sleeps until an answer wakes it.
  client_loop_ = *EventLoop::Create({.name = "client", .wait = WaitPolicy::kBlock});
  Completion seen[3];
  ConnectAndStart(
      [&](IncomingMessage request) {
        EXPECT_TRUE(SendEcho(*server_connection_, request).ok());
        const Deadline soon = Deadline::After(absl::Seconds(20));  // before those who wait for this
        if (request.header().call_id == 1) {
          EXPECT_TRUE(elsewhere.connection().Await(seen[1], soon));
        } else if (request.header().call_id == 2) {
          EXPECT_EQ(seen[2].Sleep(soon), Completion::Woken::kDone);
        }
      },
      [&](IncomingMessage answer) { seen[answer.header().call_id].Complete(); });
  client_connection_->SetBackground(true);
  for (const uint32_t call_id : {0, 1, 2}) {
    ASSERT_TRUE(SendCall(*client_connection_, call_id, 10).ok());
    ASSERT_TRUE(server_->WaitForMessages(call_id + 1));
    ASSERT_TRUE(client_->WaitForMessages(call_id + 1));
  }
  CloseBoth();
}

TEST_P(ConnectionConformance, InCallbackIsTrueInsideCallbacksOnly) {
  std::atomic<bool> inside{false};
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>(
      [&](IncomingMessage) { inside = server_connection_->InCallback(); });
  client_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  client_connection_->Start(client_);
  EXPECT_FALSE(server_connection_->InCallback());
  ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  EXPECT_TRUE(inside);
  EXPECT_FALSE(server_connection_->InCallback());
}

}  // namespace
}  // namespace mi7::transport::conformance
