// The ways to make a call, the ways to answer one, and what both sides see.

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rpc/task.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// --- Handlers of each style; all give the text back. ---

// A thread that answers calls in order.
class Worker {
 public:
  Worker() : thread_([this] { Run(); }) {}
  ~Worker() {
    Post(nullptr);
    thread_.join();
  }
  void Post(std::function<void()> task) {
    absl::MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
  }
  // co_await worker.Switch() goes on on the worker's thread.
  auto Switch() {
    struct Awaiter {
      Worker* worker;
      bool await_ready() const { return false; }
      void await_suspend(std::coroutine_handle<> coroutine) const {
        worker->Post([coroutine] { coroutine.resume(); });
      }
      void await_resume() const {}
    };
    return Awaiter{this};
  }

 private:
  void Run() {
    for (;;) {
      std::function<void()> task;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(
            +[](Worker* self) ABSL_NO_THREAD_SAFETY_ANALYSIS { return !self->tasks_.empty(); },
            this));
        task = std::move(tasks_.front());
        tasks_.erase(tasks_.begin());
      }
      if (!task) return;
      task();
    }
  }
  absl::Mutex mutex_;
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

EchoHandler Deferred(Worker* worker) {
  return [worker](ServerContext& context, Probe::EchoParams::Reader params,
                  Probe::EchoResults::Builder results) {
    auto later = std::make_shared<DeferredCall>(context.Defer());
    worker->Post([later, params, results]() mutable {
      results.setText(params.getText());
      results.setData(params.getData());
      later->Finish(absl::OkStatus());
    });
    return Reply::Later();
  };
}

EchoHandler Coroutine(Worker* worker) {
  return [worker](ServerContext&, Probe::EchoParams::Reader params,
                  Probe::EchoResults::Builder results) -> Reply {
    co_await worker->Switch();
    results.setText(params.getText());
    results.setData(params.getData());
    co_return absl::OkStatus();
  };
}

void ExpectEveryClientStyleWorks(const ProbeStub& stub) {
  const auto request_for = [&stub](const char* text) {
    auto request = stub.Echo();
    request->setText(text);
    return request;
  };
  for (const char* text : {"blocking", "blocking again"}) {
    const EchoResult result = request_for(text).Send().Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getText(), text);
  }

  absl::Notification done;
  std::string text;
  request_for("callback").Send().Then([&](EchoResult result) {
    text = result.ok() ? std::string(result->getText()) : result.status().ToString();
    done.Notify();
  });
  ASSERT_TRUE(Happens(done));
  EXPECT_EQ(text, "callback");

  const auto coroutine = [](ProbeStub caller) -> Task<absl::StatusOr<std::string>> {
    std::string all;
    for (const char* part : {"co", "rou", "tine"}) {
      auto request = caller.Echo();
      request->setText(part);
      EchoResult result = co_await request.Send();
      if (!result.ok()) co_return result.status();
      all += result->getText().cStr();
    }
    co_return all;
  };
  const absl::StatusOr<std::string> all = BlockOn(coroutine(stub));
  ASSERT_THAT(all, IsOk());
  EXPECT_EQ(*all, "coroutine");
}

TEST_P(CallTest, InlineHandlerAnswersEveryClientStyle) {
  Start(Echo);
  ExpectEveryClientStyleWorks(stub());
}

TEST_P(CallTest, DeferredHandlerAnswersEveryClientStyle) {
  Worker worker;
  const Ends ends(this);
  Start(Deferred(&worker));
  ExpectEveryClientStyleWorks(stub());
}

TEST_P(CallTest, CoroutineHandlerAnswersEveryClientStyle) {
  Worker worker;
  const Ends ends(this);
  Start(Coroutine(&worker));
  ExpectEveryClientStyleWorks(stub());
}

TEST_P(CallTest, CoroutineHandlerThatNeverSuspendsAnswersEveryClientStyle) {
  Start([](ServerContext&, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    results.setText(params.getText());
    co_return absl::OkStatus();
  });
  ExpectEveryClientStyleWorks(stub());
}

TEST_P(CallTest, AnotherThreadMayAnswerBeforeTheHandlerReturns) {
  Start([](ServerContext& context, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) {
    results.setText(params.getText());
    std::thread([later = context.Defer()]() mutable { later.Finish(absl::OkStatus()); }).join();
    return Reply::Later();
  });
  for (int i = 0; i < 100; ++i) {
    const std::string text = std::to_string(i);
    ASSERT_THAT(EchoText(text), IsOk());
    EXPECT_EQ(*EchoText(text), text);
  }
  ExpectEveryClientStyleWorks(stub());
}

TEST_P(CallTest, DeferredCallsAreAnsweredInAnyOrder) {
  Start();
  constexpr uint32_t kCalls = 300;
  std::vector<PendingCall<Probe::HoldResults>> calls;
  for (uint32_t i = 0; i < kCalls; ++i) calls.push_back(SendHold(i));
  ASSERT_TRUE(probe_.AwaitHeld(kCalls));
  std::vector<ProbeImpl::Held> held;
  for (uint32_t i = 0; i < kCalls; ++i) held.push_back(probe_.TakeHeld());
  std::shuffle(held.begin(), held.end(), std::mt19937(5));
  for (auto& call : held) call.Answer();
  for (uint32_t i = 0; i < kCalls; ++i) {
    const auto result = calls[i].Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getNumber(), i);
  }
}

TEST_P(CallTest, ManyCallbacksInFlight) {
  Start();
  constexpr int kCalls = 2000;
  std::atomic<int> right{0};
  Countdown all(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    SendEcho(std::to_string(i)).Then([&, i](EchoResult result) {
      right += result.ok() && result->getText() == std::to_string(i).c_str();
      all.DecrementCount();
    });
  }
  all.Wait();
  EXPECT_EQ(right, kCalls);
}

TEST_P(CallTest, CallbacksMayMakeCalls) {
  Start();
  absl::Notification done;
  std::string path;
  std::function<void(int)> next = [&](int left) {
    SendEcho(std::to_string(left)).Then([&, left](EchoResult result) {
      path += result.ok() ? std::string(result->getText()) : result.status().ToString();
      if (left == 0) return done.Notify();
      next(left - 1);
    });
  };
  next(9);
  ASSERT_TRUE(Happens(done));
  EXPECT_EQ(path, "9876543210");
}

TEST_P(CallTest, ManyThreadsShareOneChannel) {
  Start();
  constexpr int kThreads = 8, kCalls = 250;
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        const std::string text = std::to_string(t) + "/" + std::to_string(i);
        const absl::StatusOr<std::string> answer = EchoText(text);
        right += answer.ok() && *answer == text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads * kCalls);
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, ThreadsCallbacksAndDeferredAnswersMixOnOneChannel) {
  Worker worker;
  const Ends ends(this);
  Start(Deferred(&worker));
  constexpr int kThreads = 4, kCalls = 150;
  std::atomic<int> right{0};
  Countdown callbacks(kThreads * kCalls);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        const std::string text = std::to_string(t * kCalls + i);
        SendEcho("c" + text).Then([&, text](EchoResult result) {
          right += result.ok() && result->getText() == ("c" + text).c_str();
          callbacks.DecrementCount();
        });
        CallOptions options;
        if (i % 2 == 0) options.deadline = Deadline::After(kSoon);
        const absl::StatusOr<std::string> answer = EchoText(text, options);
        right += answer.ok() && *answer == text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  callbacks.Wait();
  EXPECT_EQ(right, 2 * kThreads * kCalls);
}

TEST_P(CallTest, SeveralChannelsToOneServer) {
  Start(ServerOptions{.event_loops = 2});
  std::vector<std::shared_ptr<Channel>> channels;
  for (int i = 0; i < 6; ++i) {
    channels.push_back(NewChannel());
    auto request = ProbeStub(channels.back()).Echo();
    request->setText("x");
    EXPECT_THAT(request.Send().Wait(), IsOk());
  }
  EXPECT_TRUE(HasConnections(6));
}

TEST_P(CallTest, LargeMessagesBothWays) {
  Start();
  std::mt19937 random(3);
  for (const size_t bytes :
       {size_t{100}, size_t{5'000}, size_t{70'000}, size_t{1} << 20, (size_t{16} << 20) + 3}) {
    SCOPED_TRACE(bytes);
    std::vector<uint8_t> data(bytes);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    auto request = stub().Echo();
    request->setText("large");
    std::copy(data.begin(), data.end(), request->initData(static_cast<unsigned>(bytes)).begin());
    const EchoResult result = request.Send().Wait();
    ASSERT_THAT(result, IsOk());
    const auto received = result->getData();
    ASSERT_EQ(received.size(), bytes);
    EXPECT_TRUE(std::equal(data.begin(), data.end(), received.begin()));
  }
}

TEST_P(CallTest, LargeMessagesOfManyThreadsDoNotMix) {
  Start();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        const std::string text(300'000 + 1000 * i, static_cast<char>('a' + t));
        const absl::StatusOr<std::string> answer = EchoText(text);
        right += answer.ok() && *answer == text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 40);
}

TEST_P(CallTest, ResultsMayBeLeftEmpty) {
  Start([](ServerContext&, Probe::EchoParams::Reader, Probe::EchoResults::Builder) -> Reply {
    return absl::OkStatus();
  });
  const EchoResult result = SendEcho("x").Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_FALSE(result->hasText());
  EXPECT_EQ(result->getData().size(), 0u);
}

TEST_P(CallTest, HandlerSeesPeerAndTransport) {
  std::string peer, transport;
  Start([&](ServerContext& context, Probe::EchoParams::Reader params,
            Probe::EchoResults::Builder results) {
    peer = context.peer();
    transport = context.transport();
    return Echo(context, params, results);
  });
  ASSERT_TRUE(Works());
  EXPECT_EQ(transport, GetParam().transport);
  EXPECT_THAT(peer, StartsWith(std::string(GetParam().transport) + ":"));
  EXPECT_EQ(channel_->transport(), GetParam().transport);
}

TEST_P(CallTest, HandlerMayBlockOnACallOfAnotherChannel) {
  // A backend, and a front that asks it.
  Start();
  ProbeImpl front_probe;
  std::unique_ptr<Server> front;  // ends before its service
  const ProbeStub backend = stub();
  front_probe.on_echo = [backend](ServerContext& context, Probe::EchoParams::Reader params,
                                  Probe::EchoResults::Builder results) -> Reply {
    auto request = backend.Echo({.deadline = context.deadline()});
    request->setText(params.getText());
    const EchoResult answer = request.Send().Wait();
    if (!answer.ok()) return answer.status();
    results.setText(answer->getText());
    return absl::OkStatus();
  };
  front = *ServerBuilder().AddService(&front_probe).Listen(GetParam().new_endpoint()).Start();
  endpoint_ = front->endpoints()[0];
  const std::shared_ptr<Channel> to_front = NewChannel();
  for (const Deadline deadline : {Deadline::Infinite(), Deadline::After(kSoon)}) {
    for (int i = 0; i < 50; ++i) {
      auto request = ProbeStub(to_front).Echo({.deadline = deadline});
      request->setText("through");
      const EchoResult result = request.Send().Wait();
      ASSERT_THAT(result, IsOk());
      EXPECT_EQ(result->getText(), "through");
    }
  }
}

TEST_P(CallTest, CoroutineHandlerAwaitsAnotherChannel) {
  Start();
  ProbeImpl front_probe;
  const ProbeStub backend = stub();
  front_probe.on_echo = [backend](ServerContext&, Probe::EchoParams::Reader params,
                                  Probe::EchoResults::Builder results) -> Reply {
    auto request = backend.Echo();
    request->setText(params.getText());
    const EchoResult answer = co_await request.Send();
    if (!answer.ok()) co_return answer.status();
    results.setText(answer->getText());
    co_return absl::OkStatus();
  };
  auto front = *ServerBuilder().AddService(&front_probe).Listen(GetParam().new_endpoint()).Start();
  endpoint_ = front->endpoints()[0];
  const std::shared_ptr<Channel> to_front = NewChannel();
  constexpr int kCalls = 100;
  std::atomic<int> right{0};
  Countdown all(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    auto request = ProbeStub(to_front).Echo();
    request->setText("through");
    request.Send().Then([&](EchoResult result) {
      right += result.ok() && result->getText() == "through";
      all.DecrementCount();
    });
  }
  all.Wait();
  EXPECT_EQ(right, kCalls);
}

}  // namespace
}  // namespace mi7::conformance
