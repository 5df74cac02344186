#include "rpc/server_shutdown.h"

#include <memory>
#include <optional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fake_clock.h"
#include "rpc/fake_connection.h"
#include "rpc/server_context.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using transport::FrameType;

// Of a server whose clients are the test.
class ServerShutdownTest : public testing::Test, public Session::Observer {
 protected:
  void SetUp() override {
    ASSERT_THAT(dispatcher_.Add(&service_), IsOk());
    config_->dispatcher = &dispatcher_;
  }
  void TearDown() override {
    for (const auto& connection : connections_) connection->End();
  }
  FakeConnection& Connect() {
    connections_.push_back(std::make_shared<FakeConnection>());
    auto session = std::make_shared<Session>(connections_.back(), observer_, config_);
    sessions_.Add(session);
    connections_.back()->Start(std::move(session));
    return *connections_.back();
  }
  void OnGoAway(Session&) override {}
  void OnSessionClosed(Session& session, const absl::Status&) override {
    sessions_.OnClosed(session);
  }
  void OnDrained(Session&) override {}

  FakeClock clock_;
  const std::shared_ptr<Session::Observer> observer_{this, [](Session::Observer*) {}};
  LambdaService service_{kBaseInfo, [this](uint64_t, uint16_t, ServerCall& call) -> Reply {
                           contexts_.push_back(&call.context());
                           deferred_.push_back(call.context().Defer());
                           return Reply::Later();
                         }};
  Dispatcher dispatcher_;
  const std::shared_ptr<SessionConfig> config_ = std::make_shared<SessionConfig>();
  ServerSessions sessions_;
  std::vector<std::shared_ptr<FakeConnection>> connections_;
  std::vector<ServerContext*> contexts_;
  std::vector<DeferredCall> deferred_;
};

TEST_F(ServerShutdownTest, WithoutConnectionsItIsOverAtOnce) {
  ServerShutdown shutdown(sessions_, Deadline::Infinite());
  EXPECT_EQ(shutdown.Step(), std::nullopt);
  EXPECT_THAT(shutdown.result(), IsOk());
}

TEST_F(ServerShutdownTest, ClientsAreAskedToGoAndItIsOverWhenTheLastHasGone) {
  FakeConnection& first = Connect();
  FakeConnection& second = Connect();
  const Deadline deadline = Deadline::After(absl::Hours(1));
  ServerShutdown shutdown(sessions_, deadline);
  EXPECT_EQ(shutdown.Step(), deadline);
  EXPECT_EQ(first.TakeSent().header().type, FrameType::kGoAway);
  EXPECT_EQ(second.TakeSent().header().type, FrameType::kGoAway);
  first.DeliverClosed(absl::OkStatus());
  EXPECT_EQ(shutdown.Step(), deadline);
  EXPECT_EQ(second.sent_count(), 0u) << "they are asked once";
  second.DeliverClosed(absl::OkStatus());
  EXPECT_EQ(shutdown.Step(), std::nullopt);
  EXPECT_THAT(shutdown.result(), IsOk());
}

TEST_F(ServerShutdownTest, AcceptedCallsHaveUntilTheDeadlineAndAreThenCutOff) {
  FakeConnection& connection = Connect();
  connection.Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  connection.Deliver(MakeCall(2, kBaseId, kBaseId, 0));
  const Deadline deadline = Deadline::After(absl::Hours(1));
  ServerShutdown shutdown(sessions_, deadline);
  EXPECT_EQ(shutdown.Step(), deadline);
  EXPECT_EQ(connection.TakeSent().header().type, FrameType::kGoAway);
  deferred_[0].Finish(absl::OkStatus());
  EXPECT_THAT(ReturnStatus(connection.TakeSent()), IsOk());
  EXPECT_EQ(shutdown.Step(), deadline);
  EXPECT_EQ(connection.closed_with(), std::nullopt);

  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(shutdown.Step(), Deadline::Infinite());
  EXPECT_THAT(connection.closed_with(), testing::Optional(StatusIs(absl::StatusCode::kUnavailable,
                                                                   "server is shutting down")));
  connection.DeliverClosed(absl::OkStatus());
  EXPECT_TRUE(contexts_[1]->cancelled());
  EXPECT_EQ(shutdown.Step(), std::nullopt);
  EXPECT_THAT(shutdown.result(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("1 calls on 1 connections")));
}

TEST_F(ServerShutdownTest, AnswersThatAreNotReadByTheDeadlineAreCutOff) {
  FakeConnection& reads_late = Connect();
  FakeConnection& silent = Connect();
  reads_late.Deliver(MakeCall(1, kBaseId, kBaseId, 0));
  deferred_[0].Finish(absl::OkStatus());
  reads_late.SetUnsent(true);
  ServerShutdown shutdown(sessions_, Deadline::AtNanos(0));
  EXPECT_EQ(shutdown.Step(), Deadline::Infinite());
  EXPECT_NE(reads_late.closed_with(), std::nullopt);
  reads_late.DeliverClosed(absl::OkStatus());
  silent.DeliverClosed(absl::OkStatus());
  EXPECT_EQ(shutdown.Step(), std::nullopt);
  EXPECT_THAT(shutdown.result(),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       "0 calls on 2 connections, and answers that 1 clients had not read, were "
                       "cut off at the deadline"));
}

TEST_F(ServerShutdownTest, ConnectionsThatStayWithoutCallsAreNoFailure) {
  FakeConnection& silent = Connect();
  ServerShutdown shutdown(sessions_, Deadline::AtNanos(0));
  EXPECT_EQ(shutdown.Step(), Deadline::Infinite());
  EXPECT_NE(silent.closed_with(), std::nullopt);
  silent.DeliverClosed(absl::OkStatus());
  EXPECT_EQ(shutdown.Step(), std::nullopt);
  EXPECT_THAT(shutdown.result(), IsOk());
}

}  // namespace
}  // namespace mi7
