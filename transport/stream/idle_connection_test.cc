// What a connection costs while nothing happens on it.

#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <latch>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "base/heap_testing.h"
#include "transport/stream/testing.h"

namespace mi7::transport::testing {
namespace {

// The least receiver: at most one waits on all connections.
class LeastReceiver : public Receiver {
 public:
  explicit LeastReceiver(Completion* completion) : completion_(completion) {}
  void OnMessage(IncomingMessage&& message) override {
    if (completion_ == nullptr) return;
    kept_ = std::move(message);  // as a caller keeps its reply for a while
    completion_->Complete();
  }
  void OnRejected(const FrameHeader&, const absl::Status&) override {}
  void OnWritable() override {}
  void OnUnsent(const FrameHeader&, const absl::Status&) override {}
  void OnClosed(const absl::Status&) override {}
  void Release() { kept_.reset(); }

 private:
  Completion* const completion_;
  IncomingMessage kept_;
};

class IdleConnectionTest : public ::testing::TestWithParam<Endpoint::Scheme> {};
INSTANTIATE_TEST_SUITE_P(Kinds, IdleConnectionTest,
                         ::testing::Values(Endpoint::Scheme::kTcp, Endpoint::Scheme::kUnix),
                         SchemeName);

TEST_P(IdleConnectionTest, BothEndsTogetherTakeLittleMemoryAndNoBuffer) {
  if (!kHeapIsCounted) {
    std::fprintf(stderr, "NOTICE: test not run, a sanitizer's allocator counts otherwise\n");
    GTEST_SKIP();
  }
  auto server_loop = NewLoop();
  auto client_loop = NewLoop();
  Completion answered;
  const auto receiver = std::make_shared<LeastReceiver>(&answered);
  std::vector<std::shared_ptr<Connection>> accepted;
  std::vector<std::shared_ptr<Connection>> connected;
  constexpr size_t kWarm = 100;
  constexpr size_t kCounted = 1000;
  constexpr size_t kRounds = 3;
  accepted.reserve(kWarm + kRounds * kCounted);
  connected.reserve(kWarm + kRounds * kCounted);
  std::atomic<size_t> accepted_count{0};
  auto listener =
      ListenAt(NewEndpoint(GetParam()), {server_loop.get()}, {},
               [&](std::shared_ptr<Connection> connection) {
                 connection->Start(std::make_shared<LeastReceiver>(nullptr));
                 connection->Send(MakeMessage(FrameType::kReturn, 1, 1000)).IgnoreError();
                 accepted.push_back(std::move(connection));
                 accepted_count.fetch_add(1);
               });
  ASSERT_TRUE(listener.ok());
  const auto open = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) {
      auto connection = ConnectTo((*listener)->endpoint(), client_loop.get());
      ASSERT_TRUE(connection.ok()) << connection.status();
      answered.Reset();  // the answer may come as soon as it is started
      (*connection)->Start(receiver);
      // Each has been used: buffers would be held now if they ever were.
      ASSERT_TRUE((*connection)->Send(MakeMessage(FrameType::kCall, 1, 1000)).ok());
      ASSERT_TRUE((*connection)->Await(answered, Deadline()));
      receiver->Release();
      connected.push_back(*std::move(connection));
    }
  };
  open(kWarm);
  // rpc adds at most 350 bytes to each end, which makes 1 KiB.
  constexpr size_t kBoth = 2 * (1024 - 350);
  size_t each = kBoth + 1;
  // What threads keep of freed memory counts, too, and is more when the machine has them meet in
  // unusual ways: the best of three counts. A buffer may be in use still for what came last.
  for (size_t round = 0; round < kRounds && each > kBoth; ++round) {
    const size_t before = HeapBytes();
    open(kCounted);
    const Deadline patience = Deadline::After(kPatience);
    while (accepted_count != connected.size()) ASSERT_FALSE(patience.passed());
    const Deadline settled = Deadline::After(absl::Milliseconds(300));
    do {
      each = (HeapBytes() - before) / kCounted;
    } while (each > kBoth && !settled.passed());
  }
  EXPECT_LE(each, kBoth) << "bytes for the two ends of a connection";
  RecordProperty("bytes_for_both_ends", static_cast<int>(each));
  (*listener)->Close();
  accepted.clear();  // dropping closes
  connected.clear();
}

// Context switches that the loop's thread made so far because it slept.
int64_t Sleeps(EventLoop& loop) {
  int64_t sleeps = 0;
  std::latch done(1);
  loop.Post([&] {
    rusage usage;
    ::getrusage(RUSAGE_THREAD, &usage);
    sleeps = usage.ru_nvcsw;
    done.count_down();
  });
  done.wait();
  return sleeps;
}

TEST_P(IdleConnectionTest, IdleConnectionsWakeNobody) {
  TestServer server({}, /*echo=*/true, /*loops=*/1, WaitPolicy::kAdaptive, GetParam());
  TestClient client(server.endpoint());
  Completion completion;
  client.receiver().set_hook([&](IncomingMessage) { completion.Complete(); });
  // Hot enough that the loop's watch is lent, and must come back by itself.
  for (int i = 0; i < 50; ++i) {
    completion.Reset();
    ASSERT_TRUE(client.connection().Send(MakeMessage(FrameType::kCall, 1, 8)).ok());
    ASSERT_TRUE(client.connection().Await(completion, Deadline()));
  }
  // On a loop of its own: the timer wakes none of those that are looked at.
  auto clock = NewLoop();
  const auto wait = [&clock](absl::Duration time) {
    std::latch done(1);
    EventLoop::Timer timer(clock.get(), [&] { done.count_down(); });
    timer.Schedule(Deadline::After(time));
    done.wait();
  };
  // A loop that nobody wakes falls asleep once, when it has answered the first question. A machine
  // that has other work lets the watch come back late.
  int64_t client_sleeps = 2;
  int64_t server_sleeps = 2;
  for (int round = 0; round < 20 && (client_sleeps > 1 || server_sleeps > 1); ++round) {
    wait(absl::Milliseconds(60));
    const int64_t client_before = Sleeps(client.loop());
    const int64_t server_before = Sleeps(server.loop(0));
    wait(absl::Milliseconds(300));
    client_sleeps = Sleeps(client.loop()) - client_before;
    server_sleeps = Sleeps(server.loop(0)) - server_before;
  }
  EXPECT_LE(client_sleeps, 1);
  EXPECT_LE(server_sleeps, 1);
  // The watch is back: the end is noticed without anybody driving.
  server.Accepted(0).first->Close(absl::OkStatus());
  EXPECT_EQ(client.receiver().WaitClosed(), absl::OkStatus());
}

}  // namespace
}  // namespace mi7::transport::testing
