// The conformance suite on connections that deliver late and in pieces; and what holds when they
// are lost.

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "tests/conformance/connection_conformance.h"
#include "tests/conformance/fault_case.h"
#include "transport/local/testing.h"
#include "transport/transports.h"

namespace mi7::transport::conformance {
namespace {

TransportCase Plain(const std::string& endpoint, WaitPolicy wait) {
  return {.name = "",
          .endpoint = endpoint,
          .listen = Listen,
          .connect = transport::Connect,
          .wait = wait,
          .late = false};
}

// A socket's path, as an endpoint of `scheme`.
std::string At(const std::string& scheme) {
  static const transport::testing::TemporaryDirectory directory;
  return scheme + ":" + directory / scheme;
}

fault::Options Late(uint64_t seed, absl::Duration delay_max, uint32_t burst_max) {
  fault::Options options;
  options.seed = seed;
  options.delay_max = delay_max;
  options.burst_max = burst_max;
  return options;
}

INSTANTIATE_TEST_SUITE_P(
    Late, ConnectionConformance,
    ::testing::Values(WithFaults(Plain("inproc:late", WaitPolicy::kAdaptive), "Inproc",
                                 Late(1000, absl::Microseconds(200), 64)),
                      WithFaults(Plain("inproc:late", WaitPolicy::kBlock), "InprocBlock",
                                 Late(2000, absl::Microseconds(50), 16)),
                      WithFaults(Plain("tcp:127.0.0.1:0", WaitPolicy::kAdaptive), "Tcp",
                                 Late(3000, absl::Microseconds(200), 64)),
                      WithFaults(Plain(At("unix"), WaitPolicy::kAdaptive), "Unix",
                                 Late(4000, absl::Microseconds(200), 64)),
                      WithFaults(Plain(At("shm"), WaitPolicy::kAdaptive), "Shm",
                                 Late(5000, absl::Microseconds(200), 64))),
    [](const auto& tested) { return tested.param.name; });

// Counts, so that the suite does not become smaller unnoticed.
class Count : public ::testing::Environment {
 public:
  void TearDown() override {
    const size_t count = faulted_connections.load(std::memory_order_relaxed);
    std::printf("RELIABILITY: %zu connections had faults\n", count);
    if (::testing::GTEST_FLAG(filter) == "*") {
      EXPECT_GE(count, 300u);
    }
  }
};
::testing::Environment* const counting = ::testing::AddGlobalTestEnvironment(new Count);

// With connections that are lost, by seed. More of them with MI7_LONG in the environment.
class LostConnection : public ConnectionConformance {
 protected:
  const int rounds_ = std::getenv("MI7_LONG") != nullptr ? 500 : 10;
};

TEST_P(LostConnection, EveryMessageIsDeliveredInOrderOrToldAsUnsentOrLostInBetween) {
  for (int round = 0; round < rounds_; ++round) {
    ConnectAndStart();
    uint32_t accepted = 0;
    while (accepted < 500 && SendCall(*client_connection_, accepted + 1, 100).ok()) ++accepted;
    // As a rule it is lost before all has arrived.
    for (const Deadline deadline = TestDeadline();
         !client_->closed() && server_->message_count() < accepted && !deadline.passed();) {
      std::this_thread::yield();
    }
    client_connection_->Close(absl::OkStatus());
    ASSERT_TRUE(client_->WaitForClosed());
    ASSERT_TRUE(server_->WaitForClosed());
    // What arrived is a prefix of what was sent; what is unsent a suffix that never arrived.
    const std::vector<IncomingMessage> messages = server_->TakeMessages();
    for (uint32_t i = 1; i <= messages.size(); ++i) ASSERT_TRUE(IsCall(messages[i - 1], i, 100));
    const std::vector<uint32_t> unsent = client_->unsent();
    for (size_t i = 0; i < unsent.size(); ++i) {
      ASSERT_EQ(unsent[i], accepted - unsent.size() + 1 + i);
    }
    EXPECT_LE(messages.size() + unsent.size(), accepted);
    TearDown();
  }
}

TEST_P(LostConnection, EveryCallEnds) {
  size_t lost = 0;
  for (int round = 0; round < rounds_; ++round) {
    ConnectToEcho();
    const std::shared_ptr<Caller> caller = StartCaller();
    std::vector<std::thread> threads;
    for (uint32_t thread = 1; thread <= 3; ++thread) {
      threads.emplace_back([&, thread] {
        for (uint32_t i = 0; i < 100; ++i) {
          Caller::Call call(thread * 1000 + i);
          caller->Expect(call);
          if (!SendCall(*client_connection_, call.call_id, 50).ok()) {
            caller->Forget(call);
            return;
          }
          EXPECT_TRUE(client_connection_->Await(call.completion, TestDeadline()));
          if (!call.reply.has_body()) return;
          EXPECT_TRUE(IsCall(call.reply, call.call_id, 50));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (caller->closed()) {
      ++lost;
      EXPECT_TRUE(absl::IsUnavailable(caller->closed_why())) << caller->closed_why();
    }
    TearDown();
  }
  EXPECT_GT(lost, 0u) << "this test is about lost connections";
}

fault::Options Lossy(uint64_t seed) {
  fault::Options options = Late(seed, absl::Microseconds(100), 8);
  options.loss_probability = 0.01;
  return options;
}

INSTANTIATE_TEST_SUITE_P(
    Seeds, LostConnection,
    ::testing::Values(
        WithFaults(Plain("inproc:lossy", WaitPolicy::kAdaptive), "Inproc", Lossy(1)),
        WithFaults(Plain("inproc:lossy", WaitPolicy::kBlock), "InprocBlock", Lossy(500)),
        WithFaults(Plain("tcp:127.0.0.1:0", WaitPolicy::kAdaptive), "Tcp", Lossy(1000)),
        WithFaults(Plain(At("unix"), WaitPolicy::kAdaptive), "Unix", Lossy(1500)),
        WithFaults(Plain(At("shm"), WaitPolicy::kAdaptive), "Shm", Lossy(2000))),
    [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace mi7::transport::conformance
