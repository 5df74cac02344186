// Coroutines of handlers that ask to be stopped (ServerContext::StopWhenCancelled).

#include <coroutine>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/fake_clock.h"
#include "rpc/fake_connection.h"
#include "rpc/session.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"
#include "rpc/task.h"

namespace mi7 {
namespace {

using testing::ElementsAre;
using transport::FrameType;
using transport::IncomingMessage;

// What a coroutine waits for that is not mi7's. Its result can be neither copied nor moved.
class Gate {
 public:
  struct Result {
    explicit Result(int value) : number(value) {}
    Result(const Result&) = delete;
    const int number;
  };
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) { coroutine_ = coroutine; }
  Result await_resume() {
    ++taken_;
    return Result(17);
  }
  void Open() { std::exchange(coroutine_, nullptr).resume(); }
  bool waiting() const { return coroutine_ != nullptr; }
  int taken() const { return taken_; }

 private:
  std::coroutine_handle<> coroutine_;
  int taken_ = 0;
};

// The other ways to be awaited: by a member for temporaries, and by a function.
struct Ready {
  std::suspend_never operator co_await() && { return {}; }
};
struct AlsoReady {};
[[maybe_unused]] std::suspend_never operator co_await(const AlsoReady&) { return {}; }

class ReplyStopTest : public testing::Test, public Session::Observer {
 protected:
  ReplyStopTest() {
    auto config = std::make_shared<SessionConfig>();
    MI7_CHECK(dispatcher_.Add(&service_).ok(), "the only one");
    config->dispatcher = &dispatcher_;
    session_ = std::make_shared<Session>(connection_, observer_, config);
    connection_->Start(session_);
  }
  void TearDown() override { connection_->End(); }
  // A call of it arrives.
  void Call(std::function<Reply(ServerContext&)> handler, transport::OutgoingMessage message) {
    handler_ = std::move(handler);
    connection_->Deliver(std::move(message));
  }
  void Call(std::function<Reply(ServerContext&)> handler) {
    Call(std::move(handler), MakeCall(7, kBaseId, kBaseId, 0));
  }
  void Cancel() { connection_->Deliver(MakeControl(FrameType::kCancel, 7)); }
  absl::Status Answer() {
    EXPECT_EQ(connection_->sent_count(), 1u);
    return connection_->sent_count() == 0 ? absl::UnknownError("no answer")
                                          : ReturnStatus(connection_->TakeSent());
  }
  void OnGoAway(Session&) override {}
  void OnSessionClosed(Session&, const absl::Status&) override {}
  void OnDrained(Session&) override {}

  // Notes that it is gone.
  class Held {
   public:
    Held(ReplyStopTest* test, std::string name) : test_(test), name_(std::move(name)) {}
    Held(const Held&) = delete;
    ~Held() { test_->notes_.push_back(name_); }

   private:
    ReplyStopTest* const test_;
    const std::string name_;
  };

  Gate gate_;
  std::vector<std::string> notes_;
  std::function<Reply(ServerContext&)> handler_;
  LambdaService service_{
      kBaseInfo, [this](uint64_t, uint16_t, ServerCall& call) { return handler_(call.context()); }};
  Dispatcher dispatcher_;
  const std::shared_ptr<Session::Observer> observer_{this, [](Session::Observer*) {}};
  std::shared_ptr<FakeConnection> connection_ = std::make_shared<FakeConnection>();
  std::shared_ptr<Session> session_;
};

TEST_F(ReplyStopTest, ItEndsWhereItWaitsAndFreesWhatItHolds) {
  Call([this](ServerContext& context) -> Reply {
    co_await context.StopWhenCancelled();
    const Held outer(this, "outer");
    const Held inner(this, "inner");
    static_cast<void>(co_await gate_);
    notes_.push_back("went on");
    co_return absl::OkStatus();
  });
  Cancel();
  EXPECT_TRUE(gate_.waiting()) << "nothing is pulled away from under what it waits for";
  EXPECT_THAT(notes_, ElementsAre());
  gate_.Open();
  EXPECT_THAT(notes_, ElementsAre("inner", "outer"));
  EXPECT_EQ(gate_.taken(), 1) << "what came has been taken";
  EXPECT_EQ(Answer(), absl::CancelledError("the caller has given up"));
  EXPECT_EQ(session_->answers().in_flight(), 0u);
}

TEST_F(ReplyStopTest, ItGoesOnWhileItsCallerWaits) {
  Call([this](ServerContext& context) -> Reply {
    co_await context.StopWhenCancelled();
    const int number = (co_await gate_).number;
    co_await Ready();
    co_await AlsoReady();
    co_return absl::AlreadyExistsError(std::to_string(number));
  });
  gate_.Open();
  EXPECT_EQ(Answer(), absl::AlreadyExistsError("17"));
}

TEST_F(ReplyStopTest, WhoDoesNotAskGoesOn) {
  Call([this](ServerContext& context) -> Reply {
    static_cast<void>(co_await gate_);
    EXPECT_TRUE(context.cancelled());
    co_await Ready();
    co_return absl::AlreadyExistsError("its own end");
  });
  Cancel();
  gate_.Open();
  EXPECT_EQ(Answer(), absl::AlreadyExistsError("its own end"));
}

// Of what is ready at once, too: a loop that never waits ends as well.
TEST_F(ReplyStopTest, ItStopsAtWhatIsReady) {
  Call([this](ServerContext& context) -> Reply {
    static_cast<void>(co_await gate_);
    EXPECT_TRUE(context.cancelled());
    co_await context.StopWhenCancelled();
    for (;;) co_await Ready();
  });
  Cancel();
  gate_.Open();
  EXPECT_EQ(Answer(), absl::CancelledError("the caller has given up"));
}

TEST_F(ReplyStopTest, DeadlineStopsItAsSuch) {
  FakeClock clock;
  transport::OutgoingMessage call = MakeCall(7, kBaseId, kBaseId, 0);
  call->header.timeout = transport::EncodeTimeout(absl::ToInt64Nanoseconds(absl::Hours(1)));
  Call(
      [this](ServerContext& context) -> Reply {
        co_await context.StopWhenCancelled();
        static_cast<void>(co_await gate_);
        co_return absl::OkStatus();
      },
      std::move(call));
  clock.Advance(absl::Hours(1));
  gate_.Open();
  EXPECT_EQ(Answer(), absl::DeadlineExceededError("the caller's deadline has passed"));
}

TEST_F(ReplyStopTest, WhoCatchesEverythingIsStoppedAtTheNextWait) {
  Call([this](ServerContext& context) -> Reply {
    co_await context.StopWhenCancelled();
    try {
      static_cast<void>(co_await gate_);
    } catch (...) {
      notes_.push_back("caught");
    }
    co_await Ready();
    notes_.push_back("went on");
    co_return absl::OkStatus();
  });
  Cancel();
  gate_.Open();
  EXPECT_THAT(notes_, ElementsAre("caught"));
  EXPECT_EQ(Answer(), absl::CancelledError("the caller has given up"));
}

// A handler that calls another one, and goes without it.
TEST_F(ReplyStopTest, ItOutlivesItsCall) {
  const auto other = [this](ServerContext& context) -> Reply {
    co_await context.StopWhenCancelled();
    static_cast<void>(co_await gate_);
    notes_.push_back("went on");
    co_return absl::OkStatus();
  };
  Call([&](ServerContext& context) -> Reply {
    static_cast<void>(other(context));
    return absl::OkStatus();
  });
  EXPECT_THAT(Answer(), IsOk());
  gate_.Open();
  EXPECT_THAT(notes_, ElementsAre("went on")) << "nobody has given up";
}

TEST_F(ReplyStopTest, CoroutineThatItAwaitsEndsByItself) {
  const auto part = [](std::vector<std::string>* notes, Gate* gate) -> Task<int> {
    static_cast<void>(co_await *gate);
    notes->push_back("its part is done");
    co_return 5;
  };
  Call([&](ServerContext& context) -> Reply {
    co_await context.StopWhenCancelled();
    static_cast<void>(co_await part(&notes_, &gate_));
    notes_.push_back("went on");
    co_return absl::OkStatus();
  });
  Cancel();
  gate_.Open();
  EXPECT_THAT(notes_, ElementsAre("its part is done"));
  EXPECT_EQ(Answer(), absl::CancelledError("the caller has given up"));
}

}  // namespace
}  // namespace mi7
