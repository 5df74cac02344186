// Connecting and listening: names, deadlines, failures and their texts.

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "transport/stream/testing.h"
#include "transport/tcp/socket_address.h"
#include "transport/unique_fd.h"

namespace mi7::transport::testing {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;

Endpoint At(const std::string& host, uint16_t port) {
  Endpoint endpoint;
  endpoint.host = host;
  endpoint.port = port;
  return endpoint;
}

// A port on which nobody listens, and that nobody else is given meanwhile.
class FreePort {
 public:
  FreePort() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    SocketAddress address;
    SocketAddress::FromNumeric("127.0.0.1", 0, address);
    MI7_CHECK(::bind(fd_.get(), address.get(), address.length()) == 0, "binds");
  }
  uint16_t port() const { return SocketAddress::LocalOf(fd_.get()).port(); }

 private:
  const UniqueFd fd_;
};

TEST(ConnectTest, NamesAreResolvedAndAddressesTriedInOrder) {
  TestServer server;  // 127.0.0.1 only; localhost may be ::1 first
  auto loop = NewLoop();
  auto connected = ConnectTo(At("localhost", server.endpoint().port), loop.get());
  ASSERT_TRUE(connected.ok()) << connected.status();
  (*connected)->Close(absl::OkStatus());
}

TEST(ConnectTest, RefusedNamesEveryAddress) {
  auto loop = NewLoop();
  const FreePort free;
  const uint16_t port = free.port();
  const auto connected = ConnectTo(At("127.0.0.1", port), loop.get());
  EXPECT_EQ(connected.status(), absl::UnavailableError(absl::StrCat(
                                    "connecting to tcp:127.0.0.1:", port,
                                    " failed: 127.0.0.1:", port, ": Connection refused")));
}

TEST(ConnectTest, UnknownZoneIsNotFound) {
  auto loop = NewLoop();
  constexpr char kWhy[] =
      ": zone 'nosuch' of fe80::1%nosuch is no network interface of this machine";
  EXPECT_EQ(ConnectTo(At("fe80::1%nosuch", 1), loop.get()).status(),
            absl::NotFoundError(absl::StrCat("connecting to tcp:[fe80::1%nosuch]:1", kWhy)));
  EXPECT_EQ(TcpListen(At("fe80::1%nosuch", 1), {loop.get()}, {}, nullptr).status(),
            absl::NotFoundError(absl::StrCat("listening on tcp:[fe80::1%nosuch]:1", kWhy)));
  EXPECT_FALSE(SocketAddress::CheckZone("fe80::1%0").ok());
  EXPECT_TRUE(SocketAddress::CheckZone("fe80::1%lo").ok());
  EXPECT_TRUE(SocketAddress::CheckZone("fe80::1%1").ok());
  EXPECT_TRUE(SocketAddress::CheckZone("fe80::1").ok());
}

TEST(ConnectTest, UnknownHostIsUnavailable) {
  auto loop = NewLoop();
  const auto connected = ConnectTo(At("no-such-host.invalid", 1), loop.get());
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(connected.status().message()),
              HasSubstr("connecting to tcp:no-such-host.invalid:1: host name "
                        "'no-such-host.invalid' not found"));
}

TEST(ConnectTest, PortZeroAndEveryAddressAreInvalid) {
  auto loop = NewLoop();
  EXPECT_EQ(ConnectTo(At("127.0.0.1", 0), loop.get()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ConnectTo(At("", 80), loop.get()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ConnectTest, DeadlineEndsTheHandshakeWithASilentServer) {
  UniqueFd listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress address;
  SocketAddress::FromNumeric("127.0.0.1", 0, address);
  ASSERT_EQ(::bind(listening.get(), address.get(), address.length()), 0);
  ASSERT_EQ(::listen(listening.get(), 8), 0);
  const Endpoint endpoint = At("127.0.0.1", SocketAddress::LocalOf(listening.get()).port());
  auto loop = NewLoop();
  const auto connected =
      ConnectTo(endpoint, loop.get(), {}, Deadline::After(absl::Milliseconds(500)));
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(connected.status().message()),
              AllOf(HasSubstr(endpoint.ToString()), HasSubstr("said nothing")));
  TransportOptions options;
  options.limits.handshake_timeout = absl::Milliseconds(50);
  EXPECT_EQ(ConnectTo(endpoint, loop.get(), options).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(ConnectTest, PassedDeadlineFailsAtOnce) {
  TestServer server;
  auto loop = NewLoop();
  const auto connected = ConnectTo(server.endpoint(), loop.get(), {}, Deadline::AtNanos(1));
  EXPECT_EQ(connected.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(ListenTest, EveryAddressServesBothFamilies) {
  auto loop = NewLoop();
  auto listener = Listen(At("", 0), {loop.get()}, {}, [](std::shared_ptr<Connection> connection) {
    connection->Close(absl::OkStatus());
  });
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_NE((*listener)->endpoint().port, 0);
  EXPECT_TRUE(ConnectTo(At("127.0.0.1", (*listener)->endpoint().port), loop.get()).ok());
  SocketAddress v6;
  SocketAddress::FromNumeric("::1", 0, v6);
  UniqueFd probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (probe && ::bind(probe.get(), v6.get(), v6.length()) == 0) {
    auto connected = ConnectTo(At("::1", (*listener)->endpoint().port), loop.get());
    ASSERT_TRUE(connected.ok()) << connected.status();
    EXPECT_THAT((*connected)->info().peer, HasSubstr("tcp:[::1]:"));
  }
  (*listener)->Close();
}

TEST(ListenTest, AddressInUseAlreadyExists) {
  TestServer server;
  auto loop = NewLoop();
  const auto second =
      Listen(server.endpoint(), {loop.get()}, {}, [](std::shared_ptr<Connection>) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("listening on " + server.endpoint().ToString()));
}

TEST(ListenTest, ForeignAddressAndUnknownHostAreNotFound) {
  auto loop = NewLoop();
  const auto foreign =
      Listen(At("192.0.2.1", 0), {loop.get()}, {}, [](std::shared_ptr<Connection>) {});
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kNotFound);
  const auto unknown =
      Listen(At("no-such-host.invalid", 0), {loop.get()}, {}, [](std::shared_ptr<Connection>) {});
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
}

TEST(ListenTest, ConnectionsAreDealtToAllLoops) {
  constexpr int kLoops = 3;
  constexpr int kEach = 2;
  std::vector<std::unique_ptr<EventLoop>> loops;
  std::vector<EventLoop*> raw;
  for (int i = 0; i < kLoops; ++i) raw.push_back(loops.emplace_back(NewLoop()).get());
  absl::Mutex mutex;
  std::map<std::thread::id, int> accepted;  // by the loop's thread
  auto listener = Listen(At("127.0.0.1", 0), raw, {}, [&](std::shared_ptr<Connection> connection) {
    connection->Close(absl::OkStatus());
    absl::MutexLock lock(&mutex);
    ++accepted[std::this_thread::get_id()];
  });
  ASSERT_TRUE(listener.ok()) << listener.status();
  auto loop = NewLoop();
  for (int i = 0; i < kLoops * kEach; ++i) {
    ASSERT_TRUE(ConnectTo((*listener)->endpoint(), loop.get()).ok());
  }
  {
    absl::MutexLock lock(&mutex);
    const auto all = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      int sum = 0;
      for (const auto& [thread, count] : accepted) sum += count;
      return sum == kLoops * kEach;
    };
    EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&all), kPatience));
    EXPECT_THAT(accepted, AllOf(SizeIs(kLoops), Each(Pair(_, kEach))));
  }
  (*listener)->Close();
}

// A connection within this process: the sockets of both its ends.
class BothEnds {
 public:
  BothEnds() {
    server_.Accepted(0);
    const uint16_t port = server_.endpoint().port;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      int fd;
      if (!absl::SimpleAtoi(entry.path().filename().string(), &fd)) continue;
      const SocketAddress ends[] = {SocketAddress::LocalOf(fd), SocketAddress::PeerOf(fd)};
      if (ends[0].family() != AF_INET || ends[1].family() != AF_INET) continue;
      if (ends[0].port() == port || ends[1].port() == port) sockets_.push_back(fd);
    }
  }
  // Client's and server's, in either order.
  std::vector<int> Options(int level, int name) const {
    std::vector<int> values;
    for (const int fd : sockets_) {
      int value = -1;
      socklen_t size = sizeof(value);
      EXPECT_EQ(::getsockopt(fd, level, name, &value, &size), 0);
      values.push_back(value);
    }
    return values;
  }

 private:
  TestServer server_;
  TestClient client_{server_.endpoint()};
  std::vector<int> sockets_;
};

TEST(ConnectTest, NeitherSideWaitsToSendMoreAtATime) {
  EXPECT_THAT(BothEnds().Options(IPPROTO_TCP, TCP_NODELAY), ElementsAre(1, 1));
}

// Where no calls are in flight nothing else notices that the peer's host is gone.
TEST(ConnectTest, BothSidesHaveTheSystemProbeAnIdlePeer) {
  const BothEnds ends;
  EXPECT_THAT(ends.Options(SOL_SOCKET, SO_KEEPALIVE), ElementsAre(1, 1));
  EXPECT_THAT(ends.Options(IPPROTO_TCP, TCP_KEEPIDLE), ElementsAre(30, 30));
  EXPECT_THAT(ends.Options(IPPROTO_TCP, TCP_KEEPINTVL), ElementsAre(10, 10));
  EXPECT_THAT(ends.Options(IPPROTO_TCP, TCP_KEEPCNT), ElementsAre(3, 3));
  EXPECT_THAT(ends.Options(IPPROTO_TCP, TCP_USER_TIMEOUT), ElementsAre(60'000, 60'000));
}

TEST(ListenTest, NothingIsAcceptedAfterClose) {
  TestServer server;
  const Endpoint endpoint = server.endpoint();
  server.listener().Close();
  server.listener().Close();  // idempotent
  auto loop = NewLoop();
  EXPECT_EQ(ConnectTo(endpoint, loop.get()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(ListenTest, ClosedListenerLeavesItsConnectionsAlive) {
  TestServer server({}, /*echo=*/true);
  TestClient client(server.endpoint());
  server.Accepted(0);
  server.listener().Close();
  Completion completion;
  client.receiver().set_hook([&](IncomingMessage) { completion.Complete(); });
  ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, 1, 8)).ok());
  EXPECT_TRUE(client.connection().Await(completion, Deadline::After(kPatience)));
}

TEST(SocketAddressTest, TextsAreEndpointTexts) {
  SocketAddress address;
  ASSERT_TRUE(SocketAddress::FromNumeric("127.0.0.1", 80, address));
  EXPECT_EQ(address.ToString(), "127.0.0.1:80");
  ASSERT_TRUE(SocketAddress::FromNumeric("::1", 81, address));
  EXPECT_EQ(address.ToString(), "[::1]:81");
  ASSERT_TRUE(SocketAddress::FromNumeric("::ffff:10.0.0.1", 82, address));
  EXPECT_EQ(address.ToString(), "10.0.0.1:82");
  EXPECT_FALSE(SocketAddress::FromNumeric("localhost", 80, address));
}

}  // namespace
}  // namespace mi7::transport::testing
