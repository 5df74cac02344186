// How long the handles of a call live, and where they may be used.

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rpc/task.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// How a call ended, by its callback.
class End {
 public:
  void Set(absl::Status status) {
    status_ = std::move(status);
    done_.Notify();
  }
  absl::Status Get() {
    return Happens(done_) ? status_ : absl::InternalError("the call does not end");
  }

 private:
  absl::Status status_;
  absl::Notification done_;
};

TEST_P(CallTest, CallIsStartedBySendAlone) {
  Start();
  auto call = SendHold(7);
  ProbeImpl::Held held = probe_.TakeHeld();  // nobody waits for the call yet
  EXPECT_EQ(held.number, 7u);
  held.Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, ThenAfterTheAnswerRunsAtOnce) {
  Start();
  auto call = SendEcho("first");
  EXPECT_TRUE(Works()) << "answered after the first one";
  bool ran = false;
  std::move(call).Then([&](EchoResult result) { ran = result.ok(); });
  EXPECT_TRUE(ran);
}

TEST_P(CallTest, RequestThatIsNeverSentCostsNothing) {
  Start();
  for (int i = 0; i < 100; ++i) static_cast<void>(EchoRequest("never sent"));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, ResponseOutlivesCallChannelAndServer) {
  Start();
  const std::string text(100'000, 'r');
  EchoResult small = SendEcho("small").Wait();
  EchoResult large = SendEcho(text).Wait();
  channel_ = nullptr;
  server_ = nullptr;
  ASSERT_THAT(small, IsOk());
  ASSERT_THAT(large, IsOk());
  EXPECT_EQ(small->getText(), "small");
  EXPECT_EQ(large->getText(), text.c_str());
}

TEST_P(CallTest, PendingCallKeepsItsChannel) {
  Start();
  auto call = SendHold(1);
  channel_ = nullptr;
  probe_.TakeHeld().Answer();
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_P(CallTest, ChannelMayBeDroppedInItsOwnCallback) {
  Start();
  for (int i = 0; i < 20; ++i) {
    absl::Notification dropped;
    auto owner = std::make_shared<std::shared_ptr<Channel>>(NewChannel());
    auto request = ProbeStub(*owner).Hold();
    request.Send().Then([&, owner](auto result) {
      EXPECT_THAT(result, IsOk());
      *owner = nullptr;
      dropped.Notify();
    });
    probe_.TakeHeld().Answer();
    ASSERT_TRUE(Happens(dropped));
  }
  ASSERT_TRUE(Works());
}

TEST_P(CallTest, WaitInsideACallbackIsRefused) {
  Start();
  ASSERT_TRUE(Works());
  absl::Notification done;
  absl::Status nested;
  SendHold(1).Then([&](auto) {
    nested = SendEcho("inner").Wait().status();
    done.Notify();
  });
  probe_.TakeHeld().Answer();  // not before Then, which would run the callback on this thread
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(nested, StatusIs(absl::StatusCode::kFailedPrecondition,
                               HasSubstr("Wait() inside a callback")));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, WaitInsideACallbackOfAnUnconnectedChannelIsRefusedToo) {
  Start();
  ASSERT_TRUE(Works());
  const std::shared_ptr<Channel> other = NewChannel();  // the same event loop must connect it
  absl::Notification done;
  absl::Status nested;
  SendHold(1).Then([&](auto) {
    auto request = ProbeStub(other).Echo({.deadline = Deadline::After(absl::Seconds(20))});
    request->setText("inner");
    nested = request.Send().Wait().status();
    done.Notify();
  });
  probe_.TakeHeld().Answer();
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(nested, StatusIs(absl::StatusCode::kFailedPrecondition,
                               HasSubstr("of the event loop that has to connect the channel")));
  EXPECT_THAT(nested, OutcomeIs(CallOutcome::kNotSent));
}

TEST_P(CallTest, ThrowingCallbackDoesNoHarm) {
  Start();
  absl::Notification done;
  SendEcho("x").Then([](EchoResult) { throw std::string("a callback's mistake"); });
  SendEcho("y").Then([&](EchoResult) { done.Notify(); });
  EXPECT_TRUE(Happens(done));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, CoroutineDestroyedWhileItWaitsIsNotResumed) {
  Start();
  // A coroutine whose frame the test owns.
  struct Owned {
    struct promise_type {
      Owned get_return_object() {
        return {std::coroutine_handle<promise_type>::from_promise(*this)};
      }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_always final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { std::terminate(); }
    };
    std::coroutine_handle<promise_type> handle;
  };
  const auto wait = [](ProbeStub stub, bool* resumed) -> Owned {
    auto request = stub.Hold();
    request->setNumber(1);
    const auto result = co_await request.Send();
    *resumed = true;
  };
  bool resumed = false;
  Owned coroutine = wait(stub(), &resumed);
  ProbeImpl::Held held = probe_.TakeHeld();
  coroutine.handle.destroy();
  const Deadline patience = Deadline::After(kSoon);
  while (!held.context->cancelled()) ASSERT_FALSE(patience.passed()) << "the server is not told";
  held.Answer();
  ASSERT_TRUE(Works());
  EXPECT_FALSE(resumed);
}

TEST_P(CallTest, CancellerEndsACallThatACallbackWaitsFor) {
  Start();
  for (const bool connected : {false, true}) {
    SCOPED_TRACE(connected);
    auto call = SendHold(1);
    const CallCanceller canceller = call.canceller();
    absl::Status status = absl::UnknownError("the callback did not run");
    call.Then([&status](auto result) { status = result.status(); });
    ProbeImpl::Held held = probe_.TakeHeld();
    const CallCanceller copy = canceller;
    copy.Cancel();
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kCancelled, StartsWith("Probe.hold: cancelled")));
    EXPECT_THAT(status, OutcomeIs(CallOutcome::kUnknown));
    const Deadline patience = Deadline::After(kSoon);
    while (!held.context->cancelled()) ASSERT_FALSE(patience.passed()) << "the server is not told";
    canceller.Cancel();  // once more, and no harm
    held.Answer();
    EXPECT_TRUE(Works());
  }
}

TEST_P(CallTest, CancellerEndsACallThatACoroutineAwaits) {
  Start();
  CallCanceller canceller;
  canceller.Cancel();  // empty: nothing happens
  std::thread other;
  const auto coroutine = [&](ProbeStub stub) -> Task<absl::Status> {
    auto request = stub.Hold();
    auto call = request.Send();
    canceller = call.canceller();
    other = std::thread([&] {
      ProbeImpl::Held held = probe_.TakeHeld();
      canceller.Cancel();
      held.Answer();
    });
    co_return (co_await std::move(call)).status();
  };
  EXPECT_THAT(BlockOn(coroutine(stub())),
              StatusIs(absl::StatusCode::kCancelled, StartsWith("Probe.hold: cancelled")));
  other.join();
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, CancellersRaceWithAnswers) {
  Start(Echo);
  constexpr int kCalls = 500;
  int answered = 0;
  for (int i = 0; i < kCalls; ++i) {
    auto call = SendEcho("x");
    const CallCanceller canceller = call.canceller();
    // The callback's own: it may not have left Notify yet when this thread goes on.
    const auto end = std::make_shared<End>();
    std::thread other([&canceller] { canceller.Cancel(); });
    call.Then([end](EchoResult result) { end->Set(result.status()); });
    const absl::Status status = end->Get();
    answered += status.ok();
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
    other.join();
  }
  EXPECT_LE(answered, kCalls);
  EXPECT_TRUE(Works());
}

// A program that repeats a call at once, which fails at once, needs no more stack for it.
TEST_P(CallTest, CallbacksThatRepeatAFailedCallDoNotRecurse) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  StopServer();
  ChannelOptions options;
  options.backoff.initial = options.backoff.max = absl::Hours(1);
  channel_ = NewChannel(options);
  EXPECT_FALSE(SendEcho("x").Wait().ok());
  const Deadline patience = Deadline::After(kSoon);
  while (channel_->state() != ChannelState::kBackoff)
    ASSERT_FALSE(patience.passed());  // from now on calls fail at once
  int left = 20'000, depth = 0, depth_max = 0;
  std::vector<int> order;
  std::function<void()> repeat = [&] {
    SendEcho("x").Then([&](EchoResult result) {
      EXPECT_FALSE(result.ok());
      depth_max = std::max(depth_max, ++depth);
      if (--left > 0) repeat();
      --depth;
    });
  };
  repeat();
  EXPECT_EQ(left, 0) << "all have run when the outermost Then returns";
  EXPECT_EQ(depth_max, 1);
  // Those that a callback begins run in their order.
  SendEcho("x").Then([&](EchoResult) {
    for (int i = 0; i < 5; ++i) SendEcho("x").Then([&order, i](EchoResult) { order.push_back(i); });
    EXPECT_TRUE(order.empty());
  });
  EXPECT_THAT(order, testing::ElementsAre(0, 1, 2, 3, 4));
}

TEST_P(CallTest, CancelAfterThenDoesNothing) {
  Start(Echo);
  const auto end = std::make_shared<End>();
  auto request = stub().Echo();
  auto call = request.Send();
  call.Then([end](auto response) { end->Set(response.status()); });
  call.Cancel();
  EXPECT_THAT(end->Get(), IsOk());
}

// Cap'n Proto counts a list's words against the traversal limit each time its getter is called.
TEST_P(CallTest, GettersOfListsMayBeCalledInALoop) {
  Start([](ServerContext&, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    size_t ones = 0;
    for (size_t i = 0; i < params.getData().size(); ++i) ones += params.getData()[i];
    results.initData(ones);
    return absl::OkStatus();
  });
  auto request = stub().Echo();
  auto data = request->initData(1000);
  std::fill(data.begin(), data.end(), 1);
  const auto response = request.Send().Wait();
  ASSERT_THAT(response.status(), IsOk());
  size_t zeros = 0;
  for (size_t i = 0; i < response->getData().size(); ++i) zeros += response->getData()[i] == 0;
  EXPECT_EQ(zeros, 1000u);
}

TEST_P(CallTest, ExpiredCallDoesNotKeepItsChannel) {
  Start();
  ASSERT_TRUE(Works());
  // Longer and longer ones, until one is sent before its deadline passes.
  absl::Status expired;
  absl::Duration time = absl::Milliseconds(50);
  do {
    expired = SendHold(1, {.deadline = Deadline::After(time)}).Wait().status();
    ASSERT_THAT(expired, StatusIs(absl::StatusCode::kDeadlineExceeded));
    time *= 4;
  } while (OutcomeOf(expired) == CallOutcome::kNotSent && time < kSoon);
  ProbeImpl::Held held = probe_.TakeHeld();
  const std::weak_ptr<Channel> channel = channel_;
  channel_ = nullptr;
  const Deadline patience = Deadline::After(kSoon);
  while (!channel.expired() && !patience.passed()) std::this_thread::yield();
  EXPECT_TRUE(channel.expired()) << "the call that the server never answers pins it";
  held.Answer();
}

}  // namespace

}  // namespace mi7::conformance
