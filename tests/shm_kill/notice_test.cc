// What each side is told when the other is killed: within 100 ms, that the calls in flight may have
// run, and that later ones were not sent; and what a program may do that forks.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/call_outcome.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "tests/shm_kill/shared.h"
#include "tests/shm_kill/test_main.h"

namespace mi7::shm_kill {
namespace {

using conformance::EchoResult;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::HasSubstr;

enum Role : uint32_t { kServer, kClientOfServer, kClientThatForks };

// Each death happens so often that all together are the hundred of which almost all must be noticed
// in time.
constexpr int kRounds = 20;

std::string TheEndpoint() { return absl::StrCat("shm:", Folder(), "/server"); }

ChannelOptions Options(transport::WaitPolicy wait) {
  ChannelOptions options;
  options.wait = wait;
  options.backoff.initial = absl::Milliseconds(1);
  options.backoff.max = absl::Milliseconds(10);
  return options;
}

std::shared_ptr<Channel> NewChannel(transport::WaitPolicy wait) {
  auto channel = Channel::Create(TheEndpoint(), Options(wait));
  MI7_CHECK(channel.ok(), "the endpoint is sound");
  return *std::move(channel);
}

CallOptions Patient() {
  return {.deadline = Deadline::After(absl::Seconds(20)), .wait_for_ready = true};
}

EchoResult Echo(const std::shared_ptr<Channel>& channel, const CallOptions& options) {
  auto request = ProbeStub(channel).Echo(options);
  request->setText("hello");
  return request.Send().Wait();
}

// Holds calls for ever, and counts them where the test sees it.
class HoldingProbe final : public conformance::ProbeService {
 public:
  Reply Echo(ServerContext& context, Probe::EchoParams::Reader params,
             Probe::EchoResults::Builder results) override {
    return conformance::Echo(context, params, results);
  }
  Reply Hold(ServerContext& context, Probe::HoldParams::Reader,
             Probe::HoldResults::Builder) override {
    held_.push_back(context.Defer());
    SharedState().board.steps.fetch_add(1);
    return Reply::Later();
  }

 private:
  std::vector<DeferredCall> held_;
};

std::unique_ptr<Server> StartServer(Service& service) {
  auto server = ServerBuilder().AddService(&service).Listen(TheEndpoint()).Start();
  MI7_CHECK(server.ok(), server.status().ToString().c_str());
  return *std::move(server);
}

[[noreturn]] void Rest() {
  for (;;) ::pause();
}

void Say(const std::string& text) {
  std::strncpy(SharedState().board.text.data(), text.c_str(), SharedState().board.text.size() - 1);
}

}  // namespace

void Live(const Order& order) {
  Board& board = SharedState().board;
  if (order.role == kServer) {
    auto& probe = *new HoldingProbe;
    const auto server = StartServer(probe);
    board.ready.store(true);
    Rest();
  }
  const auto channel = NewChannel(transport::WaitPolicy::kAdaptive);
  if (order.role == kClientOfServer) {
    static_cast<void>(ProbeStub(channel).Hold().Send().Wait());
    Rest();
  }
  // Forks.
  if (!Echo(channel, Patient()).ok()) ::_exit(5);
  const pid_t child = ::fork();
  if (child == 0) {
    const EchoResult result = Echo(channel, {.deadline = Deadline::After(absl::Seconds(20))});
    Say(result.status().ToString());
    board.steps.fetch_add(1);
    Rest();
  }
  board.child.store(child);
  // The parent goes on, before and after the child has tried.
  for (int i = 0; i < 100; ++i) {
    if (!Echo(channel, {}).ok()) ::_exit(6);
  }
  if (!Happens([&] { return board.steps.load() == 1; })) ::_exit(7);
  for (int i = 0; i < 100; ++i) {
    if (!Echo(channel, {}).ok()) ::_exit(8);
  }
  board.ready.store(true);
  Rest();
}

namespace {

// Of all tests.
Notices all_notices;
class Totals : public testing::Environment {
 public:
  void TearDown() override {
    std::printf("RELIABILITY: %s\n", all_notices.ToString().c_str());
    EXPECT_TRUE(all_notices.InTime()) << all_notices.ToString();
  }
};
testing::Environment* const totals = testing::AddGlobalTestEnvironment(new Totals);

class NoticeTest : public testing::Test {
 protected:
  void SetUp() override {
    Board& board = SharedState().board;
    board.ready = false;
    board.steps = 0;
    board.child = 0;
    board.text.fill(0);
  }
  pid_t StartServerProcess() {
    SharedState().board.ready.store(false);
    const pid_t server = TheZygote().Start({.role = kServer});
    EXPECT_TRUE(Happens([] { return SharedState().board.ready.load(); }));
    return server;
  }
  void Noticed(int64_t took_ns) {
    notices_.Add(took_ns);
    all_notices.Add(took_ns);
  }
  void TearDown() override {
    std::printf("%s\n", notices_.ToString().c_str());
    EXPECT_TRUE(notices_.InTime()) << notices_.ToString();
  }
  Notices notices_;
};

class ServerKilledTest : public NoticeTest,
                         public testing::WithParamInterface<transport::WaitPolicy> {};

TEST_P(ServerKilledTest, CallsInFlightMayHaveRunLaterOnesWereNotSentAndTheNextServerIsFound) {
  const auto channel = NewChannel(GetParam());
  for (int round = 0; round < kRounds; ++round) {
    const pid_t server = StartServerProcess();
    SharedState().board.steps = 0;
    ASSERT_THAT(Echo(channel, Patient()), IsOk()) << "round " << round;
    std::atomic<int> called{0};
    absl::Status by_callback;
    ProbeStub(channel).Hold().Send().Then([&](const auto& result) {
      by_callback = result.status();
      called.fetch_add(1);
    });
    std::atomic<bool> blocked_ended{false};
    absl::Status blocked;
    std::thread caller([&] {
      blocked = ProbeStub(channel).Hold().Send().Wait().status();
      blocked_ended.store(true);
    });
    ASSERT_TRUE(Happens([] { return SharedState().board.steps.load() == 2; })) << "both run";
    const int64_t killed_ns = MonotonicNanos();
    ::kill(server, SIGKILL);
    EXPECT_TRUE(Happens([&] { return called.load() == 1 && blocked_ended.load(); }));
    Noticed(MonotonicNanos() - killed_ns);
    caller.join();
    TheZygote().Reap(server);
    for (const absl::Status& status : {by_callback, blocked}) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("may have run")));
      EXPECT_THAT(status, OutcomeIs(CallOutcome::kUnknown));
    }
    const EchoResult later = Echo(channel, {});
    EXPECT_THAT(later, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(later, OutcomeIs(CallOutcome::kNotSent));
    EXPECT_TRUE(Happens([] { return GetHoldings().mappings == 0; }));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ServerKilledTest,
                         testing::Values(transport::WaitPolicy::kSpin,
                                         transport::WaitPolicy::kBlock,
                                         transport::WaitPolicy::kAdaptive));

TEST_F(NoticeTest, AnIdleClientNoticesThatItsServerWasKilled) {
  const auto channel = NewChannel(transport::WaitPolicy::kAdaptive);
  for (int round = 0; round < kRounds; ++round) {
    const pid_t server = StartServerProcess();
    ASSERT_THAT(Echo(channel, Patient()), IsOk());
    const int64_t killed_ns = MonotonicNanos();
    ::kill(server, SIGKILL);
    EXPECT_TRUE(Happens([&] { return channel->state() != ChannelState::kReady; }));
    Noticed(MonotonicNanos() - killed_ns);
    TheZygote().Reap(server);
    EXPECT_TRUE(Happens([] { return GetHoldings().mappings == 0; }));
  }
}

TEST_F(NoticeTest, HandlersOfAKilledClientAreToldAndItsMemoryIsFreed) {
  ProbeImpl probe;
  const auto server = StartServer(probe);
  for (int round = 0; round < kRounds; ++round) {
    const pid_t client = TheZygote().Start({.role = kClientOfServer});
    ASSERT_TRUE(probe.AwaitHeld(1));
    ProbeImpl::Held held = probe.TakeHeld();
    const int64_t killed_ns = MonotonicNanos();
    ::kill(client, SIGKILL);
    EXPECT_TRUE(Happens([&] { return held.context->cancelled(); }));
    EXPECT_TRUE(Happens([&] { return server->connection_count() == 0; }));
    Noticed(MonotonicNanos() - killed_ns);
    TheZygote().Reap(client);
    held.Answer();  // goes nowhere
    EXPECT_TRUE(Happens([] { return GetHoldings().mappings == 0; })) << GetHoldings().mappings;
  }
}

TEST_F(NoticeTest, AForkedChildIsRefusedItsParentGoesOnAndItsDeathIsNoticedThoughTheChildLives) {
  ProbeImpl probe;
  const auto server = StartServer(probe);
  Board& board = SharedState().board;
  for (int round = 0; round < kRounds; ++round) {
    board.ready = false;
    board.steps = 0;
    board.text.fill(0);
    const pid_t client = TheZygote().Start({.role = kClientThatForks});
    ASSERT_TRUE(Happens([&] { return board.ready.load(); })) << board.text.data();
    EXPECT_THAT(std::string(board.text.data()), HasSubstr("FAILED_PRECONDITION"));
    EXPECT_THAT(std::string(board.text.data()), HasSubstr("fork"));
    EXPECT_EQ(server->connection_count(), 1u);
    const int64_t killed_ns = MonotonicNanos();
    TheZygote().Kill(client);
    EXPECT_TRUE(Happens([&] { return server->connection_count() == 0; }));
    Noticed(MonotonicNanos() - killed_ns);
    EXPECT_EQ(::kill(board.child.load(), 0), 0) << "the child lives";
    TheZygote().Kill(board.child.load());
  }
}

}  // namespace
}  // namespace mi7::shm_kill
