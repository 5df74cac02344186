#include <atomic>
#include <thread>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/stream/testing.h"

namespace mi7::transport::testing {
namespace {

class StreamConnectionTest : public ::testing::TestWithParam<Endpoint::Scheme> {};
INSTANTIATE_TEST_SUITE_P(Kinds, StreamConnectionTest,
                         ::testing::Values(Endpoint::Scheme::kTcp, Endpoint::Scheme::kUnix),
                         SchemeName);

TEST_P(StreamConnectionTest, MessagesTravelBothWays) {
  TestServer server({}, /*echo=*/false, /*loops=*/1, WaitPolicy::kAdaptive, GetParam());
  TestClient client(server.endpoint());
  auto [accepted, received] = server.Accepted(0);
  received->set_keep(true);
  ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, 5, 100)).ok());
  ASSERT_TRUE(received->WaitMessages(1));
  const auto kept = received->TakeKept();
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].header().call_id, 5u);
  EXPECT_EQ(BodyOf(kept[0]), std::string(100, '\7'));

  ASSERT_TRUE(accepted->Send(MakeMessage(FrameType::kReturn, 5, 0)).ok());
  ASSERT_TRUE(client.receiver().WaitMessages(1));
  EXPECT_EQ(client.connection().info().transport,
            GetParam() == Endpoint::Scheme::kUnix ? "unix" : "tcp");
  EXPECT_EQ(client.connection().info().peer, server.endpoint().ToString());
  EXPECT_EQ(client.connection().info().local, accepted->info().peer);
  EXPECT_EQ(accepted->info().local, server.endpoint().ToString());
}

class AwaitTest : public ::testing::TestWithParam<std::tuple<WaitPolicy, Endpoint::Scheme>> {
 protected:
  static WaitPolicy policy() { return std::get<0>(GetParam()); }
  static Endpoint::Scheme scheme() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(
    Policies, AwaitTest,
    ::testing::Combine(::testing::Values(WaitPolicy::kBlock, WaitPolicy::kAdaptive,
                                         WaitPolicy::kSpin),
                       ::testing::Values(Endpoint::Scheme::kTcp, Endpoint::Scheme::kUnix)));

TEST_P(AwaitTest, ThreadsShareOneConnectionAndDriveInTurn) {
  TransportOptions options;
  options.wait = policy();
  TestServer server(options, /*echo=*/true, /*loops=*/1, policy(), scheme());
  TestClient client(server.endpoint(), options);
  constexpr int kThreads = 4;
  constexpr int kCalls = 300;
  std::vector<Completion*> waiting(kThreads);
  client.receiver().set_hook(
      [&waiting](IncomingMessage message) { waiting[message.header().call_id]->Complete(); });
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (uint32_t id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      for (int i = 0; i < kCalls; ++i) {
        Completion completion;
        waiting[id] = &completion;
        const size_t bytes = i % 50 == 7 ? 300'000 : 64;
        ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, id, bytes)).ok());
        const Deadline deadline = i % 3 == 0 ? Deadline() : Deadline::After(kPatience);
        ASSERT_TRUE(client.connection().Await(completion, deadline));
        answered.fetch_add(1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered.load(), kThreads * kCalls);
}

// Handing a reply from the loop's thread to the caller's costs more than the call.
TEST_P(AwaitTest, AThreadThatWaitsReadsItsReplyItself) {
  constexpr uint32_t kCalls = 200;
  std::atomic<Completion*> waiting{nullptr};
  std::atomic<uint32_t> own{0};
  TransportOptions options;
  options.wait = policy();
  TestServer server(options, /*echo=*/true, /*loops=*/1, policy(), scheme());
  TestClient client(server.endpoint(), options);
  client.receiver().set_hook([&, caller = std::this_thread::get_id()](IncomingMessage) {
    own += std::this_thread::get_id() == caller;
    waiting.load()->Complete();
  });
  for (uint32_t id = 0; id < kCalls; ++id) {
    Completion completion;
    waiting = &completion;
    ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, id, 64)).ok());
    ASSERT_TRUE(client.connection().Await(completion, Deadline::After(kPatience)));
  }
  // The loop may be first while the thread is on its way from one to the other.
  EXPECT_GT(own.load(), kCalls / 2);
}

TEST_P(AwaitTest, DeadlineEndsTheWait) {
  TransportOptions options;
  options.wait = policy();
  TestServer server(options, /*echo=*/false, /*loops=*/1, policy(), scheme());
  TestClient client(server.endpoint(), options);
  Completion completion;
  const Deadline deadline = Deadline::After(absl::Milliseconds(20));
  EXPECT_FALSE(client.connection().Await(completion, deadline));
  EXPECT_TRUE(deadline.passed());
}

TEST_P(StreamConnectionTest, MessageThatCameWithTheHandshakeReachesAThreadThatDrivesAtOnce) {
  auto loop = NewLoop();
  auto listener = ListenAt(
      NewEndpoint(GetParam()), {loop.get()}, {}, [](std::shared_ptr<Connection> connection) {
        connection->Start(std::make_shared<Recorder>());
        EXPECT_TRUE(connection->Send(MakeMessage(FrameType::kReturn, 1, 100)).ok());
        // Dropping it closes it after what was sent.
      });
  ASSERT_TRUE(listener.ok());
  for (int i = 0; i < 200; ++i) {
    auto client_loop = NewLoop();
    auto connection = ConnectTo((*listener)->endpoint(), client_loop.get());
    ASSERT_TRUE(connection.ok()) << connection.status();
    Completion completion;
    auto receiver = std::make_shared<Recorder>();
    receiver->set_hook([&](IncomingMessage) { completion.Complete(); });
    (*connection)->Start(receiver);
    ASSERT_TRUE((*connection)->Await(completion, Deadline::After(kPatience)));
    (*connection)->Close(absl::OkStatus());
    EXPECT_EQ(receiver->WaitClosed(), absl::OkStatus());
  }
  (*listener)->Close();
}

TEST_P(StreamConnectionTest, CloseIsSeenByBothSidesInOrder) {
  TestServer server({}, /*echo=*/false, /*loops=*/1, WaitPolicy::kAdaptive, GetParam());
  TestClient client(server.endpoint());
  auto [accepted, received] = server.Accepted(0);
  client.connection().Close(absl::OkStatus());
  EXPECT_EQ(client.receiver().WaitClosed(), absl::OkStatus());
  EXPECT_EQ(received->WaitClosed(), absl::OkStatus());
  EXPECT_EQ(accepted->Send(MakeMessage(FrameType::kReturn, 1, 0)).code(),
            absl::StatusCode::kUnavailable);
}

TEST_P(StreamConnectionTest, ReasonOfCloseTravels) {
  TestServer server({}, /*echo=*/false, /*loops=*/1, WaitPolicy::kAdaptive, GetParam());
  TestClient client(server.endpoint());
  auto [accepted, received] = server.Accepted(0);
  accepted->Close(absl::ResourceExhaustedError("too much of it"));
  EXPECT_EQ(client.receiver().WaitClosed(),
            absl::ResourceExhaustedError("peer closed: too much of it"));
  EXPECT_EQ(received->WaitClosed(), absl::ResourceExhaustedError("too much of it"));
}

}  // namespace
}  // namespace mi7::transport::testing
