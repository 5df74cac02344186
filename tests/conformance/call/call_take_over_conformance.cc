// A server that is replaced by another one while it is called (ServerOptions::take_over).

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

ServerOptions TakingOver() {
  ServerOptions options;
  options.take_over = true;
  return options;
}

EchoHandler Counting(std::atomic<uint64_t>& ran) {
  return [&ran](ServerContext& context, Probe::EchoParams::Reader params,
                Probe::EchoResults::Builder results) {
    ++ran;
    return Echo(context, params, results);
  };
}

// What callers do not notice: their calls are made again by themselves.
TEST_P(CallTest, SuccessorTakesOverWhileCallsAreMade) {
  std::atomic<uint64_t> ran{0}, answered{0};
  std::atomic<bool> stop{false};
  ProbeImpl successors_probe;
  probe_.on_echo = successors_probe.on_echo = Counting(ran);
  Start(TakingOver());
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([this, &answered, &stop] {
      while (!stop) {
        const EchoResult result = SendEcho("x", {.deadline = Deadline::After(kSoon)}).Wait();
        EXPECT_THAT(result, IsOk());
        if (!result.ok()) return;
        ++answered;
      }
    });
  }
  const auto goes_on = [&answered] {
    const Deadline patience = Deadline::After(kSoon);
    for (const uint64_t until = answered + 100; answered < until; std::this_thread::yield()) {
      if (patience.passed() || HasFailure()) return false;
    }
    return true;
  };
  for (int replaced = 0; replaced < 4 && !HasFailure(); ++replaced) {
    EXPECT_TRUE(goes_on());
    ServerOptions options = TakingOver();
    options.wait = GetParam().wait;
    auto successor =
        ServerBuilder().SetOptions(options).AddService(&successors_probe).Listen(endpoint_).Start();
    EXPECT_THAT(successor, IsOk());
    if (!successor.ok()) break;
    EXPECT_EQ((*successor)->endpoints()[0], endpoint_);
    EXPECT_TRUE(goes_on());
    EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk());
    server_ = *std::move(successor);
  }
  EXPECT_TRUE(goes_on());
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(ran, answered) << "each has run once";
  channel_ = nullptr;
  server_ = nullptr;
}

// The predecessor still answers another call, and would refuse this one, which is not repeated.
TEST_P(CallTest, RequestBegunBeforeTheServerWentAwayIsSentToItsSuccessor) {
  std::atomic<uint64_t> ran{0};
  ProbeImpl successors_probe;
  successors_probe.on_echo = Counting(ran);
  Start(TakingOver());
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  auto call = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  ServerOptions options = TakingOver();
  options.wait = GetParam().wait;
  auto successor =
      ServerBuilder().SetOptions(options).AddService(&successors_probe).Listen(endpoint_).Start();
  ASSERT_THAT(successor, IsOk());
  auto request = EchoRequest("x", {.deadline = Deadline::After(kSoon), .repeat = Repeat::kNever});
  absl::Status shut_down;
  std::thread shutdown([&] { shut_down = server_->Shutdown(Deadline::After(kSoon)); });
  const Deadline patience = Deadline::After(kSoon);
  while (channel_->state() == ChannelState::kReady && !patience.passed()) {
    std::this_thread::yield();
  }
  EXPECT_THAT(request.Send().Wait(), IsOk());
  EXPECT_EQ(ran, 1u);
  probe_.TakeHeld().Answer();
  EXPECT_THAT(call.Wait(), IsOk());
  shutdown.join();
  EXPECT_THAT(shut_down, IsOk());
  channel_ = nullptr;
  server_ = nullptr;
  *successor = nullptr;
}

TEST_P(CallTest, PredecessorFinishesItsCallsWhenItsSuccessorListens) {
  std::atomic<uint64_t> ran{0};
  ProbeImpl successors_probe;
  successors_probe.on_echo = Counting(ran);
  Start(TakingOver());
  auto call = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  ServerOptions options = TakingOver();
  options.wait = GetParam().wait;
  auto successor =
      ServerBuilder().SetOptions(options).AddService(&successors_probe).Listen(endpoint_).Start();
  ASSERT_THAT(successor, IsOk());
  const std::shared_ptr<Channel> old = channel_;
  channel_ = NewChannel();
  EXPECT_TRUE(Works());
  // Where there are ports, connections go to either of those who listen.
  if (!absl::StartsWith(endpoint_, "tcp:") && !absl::StartsWith(endpoint_, "mi7:")) {
    EXPECT_EQ(ran, 1u) << "new connections are the successor's";
  }
  absl::Status shut_down;
  std::thread shutdown([&] { shut_down = server_->Shutdown(Deadline::After(kSoon)); });
  const Deadline patience = Deadline::After(kSoon);
  while (old->state() == ChannelState::kReady && !patience.passed()) std::this_thread::yield();
  probe_.TakeHeld().Answer();
  EXPECT_THAT(call.Wait(), IsOk());
  shutdown.join();
  EXPECT_THAT(shut_down, IsOk());
  const uint64_t before = ran;
  channel_ = old;
  EXPECT_TRUE(Works()) << "it has come to the successor";
  EXPECT_EQ(ran, before + 1);
  channel_ = nullptr;
  server_ = nullptr;
  *successor = nullptr;
}

}  // namespace
}  // namespace mi7::conformance
