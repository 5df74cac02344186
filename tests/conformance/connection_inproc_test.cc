#include <sys/resource.h>

#include <algorithm>
#include <thread>

#include <gtest/gtest.h>

#include "tests/conformance/connection_conformance.h"
#include "transport/inproc/inproc.h"

namespace mi7::transport::conformance {
namespace {

TransportCase Inproc(const std::string& name, WaitPolicy wait) {
  return {.name = name,
          .endpoint = "inproc:conformance",
          .listen = inproc::Listen,
          .connect = inproc::Connect,
          .wait = wait,
          .late = false};
}

INSTANTIATE_TEST_SUITE_P(Inproc, ConnectionConformance,
                         testing::Values(Inproc("Adaptive", WaitPolicy::kAdaptive),
                                         Inproc("Block", WaitPolicy::kBlock),
                                         Inproc("Spin", WaitPolicy::kSpin)),
                         [](const auto& tested) { return tested.param.name; });

// What only this transport promises.
class InprocConnectionTest : public ConnectionConformance {
 protected:
  // An echo server that notes on which thread it ran last.
  void ConnectToNotingEcho() {
    ASSERT_NO_FATAL_FAILURE(Connect());
    server_ = std::make_shared<RecordingReceiver>([this](IncomingMessage request) {
      ran_on_ = std::this_thread::get_id();
      EXPECT_TRUE(SendEcho(*server_connection_, request).ok());
    });
    server_connection_->Start(server_);
  }
  std::atomic<std::thread::id> ran_on_;
};

INSTANTIATE_TEST_SUITE_P(Only, InprocConnectionTest,
                         testing::Values(Inproc("Adaptive", WaitPolicy::kAdaptive),
                                         Inproc("Block", WaitPolicy::kBlock)),
                         [](const auto& tested) { return tested.param.name; });

TEST_P(InprocConnectionTest, MessagesAreReadWhereTheyWereBuilt) {
  ConnectAndStart();
  for (const size_t bytes : {size_t{10}, size_t{3000}, size_t{1} << 20}) {
    OutgoingMessage message = NewCall(*client_connection_, 1, bytes);
    const void* const place = message->getSegmentsForOutput()[0].begin();
    ASSERT_TRUE(client_connection_->Send(std::move(message)).ok());
    std::vector<IncomingMessage> received;
    ASSERT_TRUE(server_->WaitForMessages(1));
    while (received.empty()) received = server_->TakeMessages();
    EXPECT_EQ(received[0].segments()[0].begin(), place) << bytes;
  }
}

TEST_P(InprocConnectionTest, ABlockingCallWithoutDeadlineRunsItsHandlerOnTheCallersThread) {
  ConnectToNotingEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  // The loop may come first when this thread is not scheduled for long, which a machine that has
  // other work makes the rule for a while.
  int most_inline = 0;
  for (int round = 0; round < 50 && most_inline <= 50; ++round) {
    int inline_count = 0;
    for (uint32_t i = 0; i < 100; ++i) {
      ASSERT_TRUE(caller->Echo(*client_connection_, i, 10));
      inline_count += ran_on_.load() == std::this_thread::get_id();
    }
    most_inline = std::max(most_inline, inline_count);
  }
  EXPECT_GT(most_inline, 50);
}

TEST_P(InprocConnectionTest, ACallWithADeadlineLeavesItsHandlerToTheLoop) {
  ConnectToNotingEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  for (uint32_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(caller->Echo(*client_connection_, i, 10, TestDeadline()));
    ASSERT_NE(ran_on_.load(), std::this_thread::get_id());
  }
}

TEST_P(InprocConnectionTest, WhatNobodyAwaitsIsDeliveredByTheLoop) {
  ConnectToNotingEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  // Blocking calls teach the connection to expect an Await, which then does not come.
  for (uint32_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(caller->Echo(*client_connection_, i, 10));
    const size_t before = server_->message_count();
    ASSERT_TRUE(SendCall(*client_connection_, 1000 + i, 10).ok());
    ASSERT_TRUE(server_->WaitForMessages(before + 1));
  }
}

TEST_P(InprocConnectionTest, AnIdleConnectionMakesNoWakeups) {
  ConnectToNotingEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  for (uint32_t i = 0; i < 10; ++i) ASSERT_TRUE(caller->Echo(*client_connection_, i, 10));
  // Waits (through an idle connection) until the loops have been asleep for a while: a wakeup is a
  // voluntary context switch, and this thread makes one a wait.
  const auto switches_during_wait = [&] {
    rusage before{};
    rusage after{};
    ::getrusage(RUSAGE_SELF, &before);
    Completion never;
    EXPECT_FALSE(never.Sleep(Deadline::After(absl::Milliseconds(100))) == Completion::Woken::kDone);
    ::getrusage(RUSAGE_SELF, &after);
    return after.ru_nvcsw - before.ru_nvcsw;
  };
  long least = switches_during_wait();
  for (int i = 0; i < 20 && least > 5; ++i) least = std::min(least, switches_during_wait());
  EXPECT_LE(least, 5) << "a timer that stays on would make 100";
}

}  // namespace
}  // namespace mi7::transport::conformance
