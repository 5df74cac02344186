#include "rpc/reply.h"

#include <atomic>
#include <coroutine>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/fake_connection.h"
#include "rpc/session.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using transport::IncomingMessage;

// Suspends a coroutine and lets the test resume it.
class Gate {
 public:
  struct Awaiter {
    Gate* gate;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> coroutine) const { gate->suspended_ = coroutine; }
    void await_resume() const {}
  };
  Awaiter Wait() { return {this}; }
  void Open() { std::exchange(suspended_, nullptr).resume(); }

 private:
  std::coroutine_handle<> suspended_;
};

// Resumes the coroutine on a new thread, which may overtake the handler's return.
struct OnOtherThread {
  std::thread* thread;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) {
    // Not through `this` once the thread runs: it ends with the coroutine.
    std::thread* const out = thread;
    std::thread started([coroutine] { coroutine.resume(); });
    *out = std::move(started);
  }
  void await_resume() const {}
};

class ReplyTest : public testing::Test, public Session::Observer {
 protected:
  void TearDown() override { connection_->End(); }
  // Delivers a call that `handler` answers.
  void Call(std::function<Reply(ServerCall&)> handler, uint32_t call_id = 7) {
    services_.push_back(std::make_unique<LambdaService>(
        kBaseInfo, [handler = std::move(handler)](uint64_t, uint16_t, ServerCall& call) {
          return handler(call);
        }));
    dispatchers_.push_back(std::make_unique<Dispatcher>());
    ASSERT_THAT(dispatchers_.back()->Add(services_.back().get()), IsOk());
    config_->dispatcher = dispatchers_.back().get();
    session_ = std::make_shared<Session>(connection_, observer_, config_);
    connection_->Start(session_);
    connection_->Deliver(MakeCall(call_id, kBaseId, kBaseId, 0, "hello"));
  }
  void OnGoAway(Session&) override {}
  void OnSessionClosed(Session&, const absl::Status&) override {}
  void OnDrained(Session&) override { ++drained_; }

  std::vector<std::unique_ptr<LambdaService>> services_;
  std::vector<std::unique_ptr<Dispatcher>> dispatchers_;
  std::shared_ptr<Session::Observer> observer_{this, [](Session::Observer*) {}};
  std::shared_ptr<SessionConfig> config_ = std::make_shared<SessionConfig>();
  std::shared_ptr<FakeConnection> connection_ = std::make_shared<FakeConnection>();
  std::shared_ptr<Session> session_;
  std::atomic<int> drained_{0};
};

TEST_F(ReplyTest, InlineAnswerIsSentAtOnce) {
  Call(EchoKey);
  ASSERT_EQ(connection_->sent_count(), 1u);
  EXPECT_EQ(KeyIn(connection_->TakeSent()), "hello");
}

TEST_F(ReplyTest, InlineErrorIsSentWithoutResults) {
  Call([](ServerCall& call) -> Reply {
    call.Results<TestMessage>().setKey("half done");
    return absl::NotFoundError("no such thing");
  });
  const IncomingMessage answer = connection_->TakeSent();
  EXPECT_EQ(ReturnStatus(answer), absl::NotFoundError("no such thing"));
  EXPECT_FALSE(answer.has_body());
}

TEST_F(ReplyTest, OkWithoutResultsHasAnEmptyBody) {
  Call([](ServerCall&) -> Reply { return absl::OkStatus(); });
  const IncomingMessage answer = connection_->TakeSent();
  EXPECT_THAT(ReturnStatus(answer), IsOk());
  EXPECT_EQ(KeyIn(answer), "");
}

TEST_F(ReplyTest, DeferredAnswerIsSentByFinish) {
  DeferredCall later;
  TestMessage::Builder results{nullptr};
  Call([&](ServerCall& call) {
    results = call.Results<TestMessage>();
    later = call.context().Defer();
    return Reply::Later();
  });
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_EQ(session_->answers().in_flight(), 1u);
  results.setKey("later");
  later.Finish(absl::OkStatus());
  EXPECT_EQ(KeyIn(connection_->TakeSent()), "later");
  EXPECT_EQ(session_->answers().in_flight(), 0u);
  later.Finish(absl::InternalError("a second Finish does nothing"));
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(ReplyTest, AnotherThreadMayAnswerBeforeTheHandlerReturns) {
  for (uint32_t i = 0; i < 200; ++i) {
    std::thread answerer;
    Call(
        [&](ServerCall& call) {
          call.Results<TestMessage>().setKey("from elsewhere");
          answerer = std::thread(
              [later = call.context().Defer()]() mutable { later.Finish(absl::OkStatus()); });
          if (i % 2 == 0) answerer.join();
          return Reply::Later();
        },
        i);
    if (answerer.joinable()) answerer.join();
    const IncomingMessage answer = connection_->TakeSent();
    EXPECT_EQ(answer.header().call_id, i);
    EXPECT_EQ(KeyIn(answer), "from elsewhere");
    EXPECT_EQ(session_->answers().in_flight(), 0u);
  }
}

TEST_F(ReplyTest, DroppedDeferredCallIsAnsweredInternal) {
  Call([](ServerCall& call) {
    call.context().Defer();
    return Reply::Later();
  });
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()),
            absl::InternalError("handler dropped the call without an answer"));
}

TEST_F(ReplyTest, ReplacedDeferredCallIsAnsweredInternal) {
  DeferredCall later;
  Call([&](ServerCall& call) {
    later = call.context().Defer();
    return Reply::Later();
  });
  EXPECT_EQ(connection_->sent_count(), 0u);
  later = DeferredCall();
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()),
            absl::InternalError("handler dropped the call without an answer"));
}

TEST_F(ReplyTest, LaterWithoutDeferIsAnsweredInternal) {
  Call([](ServerCall&) { return Reply::Later(); });
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("without ServerContext::Defer()")));
}

TEST_F(ReplyTest, SecondDeferGivesAnEmptyHandle) {
  Call([](ServerCall& call) {
    DeferredCall first = call.context().Defer();
    DeferredCall second = call.context().Defer();
    second.Finish(absl::InternalError("nobody's call"));
    first.Finish(absl::AbortedError("the first's"));
    return Reply::Later();
  });
  ASSERT_EQ(connection_->sent_count(), 1u);
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()), absl::AbortedError("the first's"));
}

TEST_F(ReplyTest, HandlerThatDefersAndReturnsAStatusIsAnsweredOnce) {
  DeferredCall later;
  Call([&](ServerCall& call) -> Reply {
    later = call.context().Defer();
    return absl::AbortedError("changed my mind");
  });
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()), absl::AbortedError("changed my mind"));
  later.Finish(absl::OkStatus());
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(ReplyTest, HandlerThatDefersAndThrowsIsAnsweredOnce) {
  DeferredCall later;
  Call([&](ServerCall& call) -> Reply {
    later = call.context().Defer();
    throw std::runtime_error("no");
  });
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("threw an exception: no")));
  later = DeferredCall();
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(ReplyTest, CoroutineThatNeverSuspendsAnswersInline) {
  Call([](ServerCall& call) -> Reply {
    call.Results<TestMessage>().setKey("at once");
    co_return absl::OkStatus();
  });
  ASSERT_EQ(connection_->sent_count(), 1u);
  EXPECT_EQ(KeyIn(connection_->TakeSent()), "at once");
}

TEST_F(ReplyTest, CoroutineAnswersWhenItEnds) {
  Gate gate;
  Call([opens = &gate](ServerCall& call) -> Reply {
    auto results = call.Results<TestMessage>();
    co_await opens->Wait();
    results.setKey("after the gate");
    co_return absl::OkStatus();
  });
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_EQ(session_->answers().in_flight(), 1u);
  gate.Open();
  EXPECT_EQ(KeyIn(connection_->TakeSent()), "after the gate");
  EXPECT_EQ(session_->answers().in_flight(), 0u);
}

TEST_F(ReplyTest, CoroutineMayEndOnAnotherThreadWhileItsHandlerReturns) {
  for (uint32_t i = 0; i < 300; ++i) {
    std::thread thread;
    Call(
        [&](ServerCall& call) -> Reply {
          auto results = call.Results<TestMessage>();
          co_await OnOtherThread{&thread};
          results.setKey("from elsewhere");
          co_return absl::OkStatus();
        },
        i);
    thread.join();
    const IncomingMessage answer = connection_->TakeSent();
    EXPECT_EQ(answer.header().call_id, i);
    EXPECT_EQ(KeyIn(answer), "from elsewhere");
    EXPECT_EQ(session_->answers().in_flight(), 0u);
  }
}

TEST_F(ReplyTest, ExceptionOfACoroutineIsInternalBeforeAndAfterItSuspends) {
  Call([](ServerCall&) -> Reply {
    throw std::runtime_error("early");
    co_return absl::OkStatus();
  });
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()),
            absl::InternalError("handler threw an exception: early"));
  Gate gate;
  Call([opens = &gate](ServerCall&) -> Reply {
    co_await opens->Wait();
    throw 42;
    co_return absl::OkStatus();
  });
  gate.Open();
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()),
            absl::InternalError("handler threw something that is no std::exception"));
}

TEST_F(ReplyTest, DroppedReplyLetsTheCoroutineEndByItself) {
  auto alive = std::make_shared<int>(1);
  std::weak_ptr<int> watch = alive;
  Gate gate;
  const auto inner = [](Gate* opens, std::shared_ptr<int> held) -> Reply {
    co_await opens->Wait();
    *held = 2;
    co_return absl::OkStatus();
  };
  Call([&](ServerCall&) -> Reply {
    { Reply dropped = inner(&gate, std::move(alive)); }
    return absl::AbortedError("the outer's answer");
  });
  EXPECT_EQ(ReturnStatus(connection_->TakeSent()), absl::AbortedError("the outer's answer"));
  EXPECT_FALSE(watch.expired()) << "still waits";
  gate.Open();
  EXPECT_TRUE(watch.expired()) << "its frame is gone";
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(ReplyTest, DroppedReplyOfAnEndedCoroutineFreesIt) {
  auto alive = std::make_shared<int>(1);
  std::weak_ptr<int> watch = alive;
  const auto inner = [](std::shared_ptr<int>) -> Reply { co_return absl::OkStatus(); };
  {
    Reply dropped = inner(std::move(alive));
    EXPECT_FALSE(watch.expired());
  }
  EXPECT_TRUE(watch.expired());
}

TEST_F(ReplyTest, AnswerAfterTheConnectionIsGoneGoesNowhere) {
  DeferredCall later;
  std::weak_ptr<Session> watch;
  ServerContext* context = nullptr;
  Call([&](ServerCall& call) {
    context = &call.context();
    later = context->Defer();
    return Reply::Later();
  });
  EXPECT_FALSE(context->cancelled());
  connection_->DeliverClosed(absl::UnavailableError("lost"));
  EXPECT_TRUE(context->cancelled());
  watch = session_;
  session_ = nullptr;
  EXPECT_FALSE(watch.expired()) << "the call keeps its session";
  EXPECT_EQ(context->peer(), "fake:peer");
  later.Finish(absl::OkStatus());
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(ReplyTest, DrainWaitsForDeferredCalls) {
  DeferredCall later;
  Call([&](ServerCall& call) {
    later = call.context().Defer();
    return Reply::Later();
  });
  session_->Drain();
  EXPECT_EQ(connection_->TakeSent().header().type, transport::FrameType::kGoAway);
  EXPECT_EQ(drained_, 0);
  connection_->Deliver(MakeCall(8, kBaseId, kBaseId, 0));
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()), OutcomeIs(CallOutcome::kRefused));
  later.Finish(absl::OkStatus());
  EXPECT_EQ(drained_, 1);
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()), IsOk());
}

}  // namespace
}  // namespace mi7
