// Listening and connecting.

#include <thread>

#include <gmock/gmock.h>

#include "tests/conformance/connection_conformance.h"

namespace mi7::transport::conformance {
namespace {

using testing::HasSubstr;

TEST_P(ConnectionConformance, InfoNamesTransportAndBothEnds) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  const std::string scheme = GetParam().endpoint.substr(0, GetParam().endpoint.find(':'));
  for (const auto& connection : {client_connection_, server_connection_}) {
    const ConnectionInfo info = connection->info();
    EXPECT_EQ(info.transport, scheme);
    EXPECT_EQ(info.peer.substr(0, scheme.size()), scheme);
    EXPECT_EQ(info.local.substr(0, scheme.size()), scheme);
    EXPECT_EQ(info.negotiated.version, 1);
    EXPECT_EQ(info.negotiated.message_bytes_max, Limits{}.message_bytes_max);
    EXPECT_EQ(info.negotiated.calls_in_flight_max, Limits{}.calls_in_flight_max);
    EXPECT_NE(info.negotiated.features & kFeatureStreams, 0u);
    EXPECT_NE(info.negotiated.features & kFeatureRequestIds, 0u);
    EXPECT_EQ(info.negotiated.stream_window_bytes, Limits{}.stream_window_bytes);
  }
  EXPECT_EQ(client_connection_->info().peer, listener_->endpoint().ToString());
}

TEST_P(ConnectionConformance, NobodyListeningIsUnavailable) {
  ASSERT_TRUE(Listen({}).ok());
  const Endpoint endpoint = listener_->endpoint();
  listener_->Close();
  const absl::Status status = ConnectTo(endpoint, {}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(endpoint.ToString()));
}

TEST_P(ConnectionConformance, ListeningTwiceAlreadyExists) {
  ASSERT_TRUE(Listen({}).ok());
  const absl::Status status = GetParam()
                                  .listen(listener_->endpoint(), {server_loop_.get()}, {},
                                          [](std::shared_ptr<Connection>) {})
                                  .status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(listener_->endpoint().ToString()));
}

TEST_P(ConnectionConformance, AnEndpointIsFreeAgainAfterItsListenerClosed) {
  ASSERT_TRUE(Listen({}).ok());
  const Endpoint endpoint = listener_->endpoint();
  listener_.reset();
  absl::StatusOr<std::unique_ptr<Listener>> again =
      GetParam().listen(endpoint, {server_loop_.get()}, {}, [](std::shared_ptr<Connection>) {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->endpoint(), endpoint);
}

TEST_P(ConnectionConformance, ConnectionsLiveOnWhenTheirListenerCloses) {
  ConnectToEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  listener_->Close();
  listener_->Close();
  EXPECT_TRUE(caller->Echo(*client_connection_, 1, 100));
  listener_.reset();
  EXPECT_TRUE(caller->Echo(*client_connection_, 2, 100));
}

TEST_P(ConnectionConformance, ManyConnectionsOfOneListenerAreApart) {
  ASSERT_TRUE(Listen({}).ok());
  struct Pair {
    std::shared_ptr<Connection> client;
    std::shared_ptr<Connection> server;
    std::shared_ptr<Caller> caller = std::make_shared<Caller>();
    std::shared_ptr<RecordingReceiver> echo;
  };
  std::vector<Pair> pairs(10);
  for (Pair& pair : pairs) {
    absl::StatusOr<std::shared_ptr<Connection>> connection = ConnectTo(listener_->endpoint(), {});
    ASSERT_TRUE(connection.ok()) << connection.status();
    pair.client = *std::move(connection);
    pair.server = WaitForAccepted();
    ASSERT_NE(pair.server, nullptr);
    pair.echo =
        std::make_shared<RecordingReceiver>([server = pair.server.get()](IncomingMessage request) {
          EXPECT_TRUE(SendEcho(*server, request).ok());
        });
    pair.server->Start(pair.echo);
    pair.client->Start(pair.caller);
  }
  std::vector<std::thread> threads;
  for (Pair& pair : pairs) {
    threads.emplace_back([&pair] {
      for (uint32_t i = 0; i < 50; ++i) ASSERT_TRUE(pair.caller->Echo(*pair.client, i, 100));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (Pair& pair : pairs) {
    EXPECT_EQ(pair.echo->message_count(), 50u);
    pair.client->Close(absl::OkStatus());
  }
  for (Pair& pair : pairs) {
    EXPECT_TRUE(pair.caller->WaitForClosed());
    EXPECT_TRUE(pair.echo->WaitForClosed());
  }
}

TEST_P(ConnectionConformance, OneConnectionMoreThanAllowedIsTurnedAway) {
  Limits limits;
  limits.connections_max = 1;
  ConnectToEcho(limits);
  const std::shared_ptr<Caller> caller = StartCaller();
  EXPECT_TRUE(caller->Echo(*client_connection_, 1, 10));
  absl::StatusOr<std::shared_ptr<Connection>> second = ConnectTo(listener_->endpoint(), {});
  EXPECT_TRUE(absl::IsResourceExhausted(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("the server has limits.connections_max, 1, connections"));
  EXPECT_TRUE(caller->Echo(*client_connection_, 2, 10));
  // Room again once the first has closed and is forgotten.
  CloseBoth();
  client_connection_.reset();
  server_connection_.reset();
  second = absl::UnavailableError("not tried");
  const Deadline deadline = TestDeadline();
  while (!second.ok() && !deadline.passed()) second = ConnectTo(listener_->endpoint(), {});
  EXPECT_TRUE(second.ok()) << second.status();
}

TEST_P(ConnectionConformance, ListenersMayCloseWhileOthersConnect) {
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(Listen({}).ok());
    const Endpoint endpoint = listener_->endpoint();
    std::thread closer([this] { listener_->Close(); });
    absl::StatusOr<std::shared_ptr<Connection>> connection =
        ConnectTo(endpoint, {}, Deadline::After(absl::Seconds(30)));
    closer.join();
    if (connection.ok()) {
      // Accepted, or refused by the end of the listener: either way it ends with its peer.
      auto receiver = std::make_shared<RecordingReceiver>();
      (*connection)->Start(receiver);
      (*connection)->Close(absl::OkStatus());
      EXPECT_TRUE(receiver->WaitForClosed());
    } else {
      EXPECT_TRUE(absl::IsUnavailable(connection.status())) << connection.status();
    }
    listener_.reset();
  }
}

}  // namespace
}  // namespace mi7::transport::conformance
