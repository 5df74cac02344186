// A caller, its event loop and the server's on one CPU, which each offers the others while it
// waits: only who has something to do may take turns.

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/check.h"
#include "base/deadline.h"
#include "transport/completion.h"
#include "transport/shm/shm_connection.h"
#include "transport/shm/testing.h"
#include "transport/stream/testing.h"

namespace mi7::transport::shm {
namespace {

using transport::testing::Echo;
using transport::testing::kPatience;
using transport::testing::MakeMessage;
using transport::testing::NewLoop;
using transport::testing::Recorder;

// How often a thread of this process has got a CPU.
int64_t TurnsOf(pid_t thread) {
  std::ifstream file(absl::StrCat("/proc/self/task/", thread, "/schedstat"));
  int64_t ran_ns = 0;
  int64_t waited_ns = 0;
  int64_t turns = -1;
  file >> ran_ns >> waited_ns >> turns;
  MI7_CHECK(turns >= 0, "the turns of a thread are known");
  return turns;
}

class SharedCpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Threads that are made from here on have that CPU, too.
    ASSERT_EQ(::sched_getaffinity(0, sizeof(before_), &before_), 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &before_)) CPU_SET(cpu, &one);
    }
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
    client_loop_ = NewLoop();
    server_loop_ = NewLoop();
    std::tie(client_, server_) = ConnectPair(client_loop_.get(), server_loop_.get(), {});
    at_client_->set_hook([this](IncomingMessage message) {
      if (message.header().type != FrameType::kReturn) return;
      if (message.header().call_id % calls_between_ == 0) {
        client_->SetBackground(true);
        client_->SetBackground(false);
      }
      if (Completion* const waiter = waiter_; waiter != nullptr) waiter->Complete();
    });
    client_->Start(at_client_);
    at_server_->set_self(at_server_);
    at_server_->Attach(server_);
    absl::Notification known;
    client_loop_->Post([&] {
      loop_thread_ = ::gettid();
      known.Notify();
    });
    ASSERT_TRUE(known.WaitForNotificationWithTimeout(kPatience));
  }
  void TearDown() override {
    if (client_ != nullptr) {
      client_->Close(absl::OkStatus());
      server_->Close(absl::OkStatus());
      EXPECT_FALSE(absl::IsDeadlineExceeded(at_client_->WaitClosed()));
      EXPECT_FALSE(absl::IsDeadlineExceeded(at_server_->WaitClosed()));
    }
    ::sched_setaffinity(0, sizeof(before_), &before_);
  }
  // Calls that this thread makes one after the other; false: one of them got no answer.
  bool Call(int count) {
    for (int i = 0; i < count; ++i) {
      Completion completion;
      waiter_ = &completion;
      const bool sent = client_->Send(MakeMessage(FrameType::kCall, ++calls_, 8)).ok();
      const bool answered = sent && client_->Await(completion, Deadline::After(kPatience));
      waiter_ = nullptr;
      if (!answered) return false;
    }
    return true;
  }

  cpu_set_t before_;
  std::unique_ptr<EventLoop> client_loop_;
  std::unique_ptr<EventLoop> server_loop_;
  std::shared_ptr<Recorder> at_client_ = std::make_shared<Recorder>();
  std::shared_ptr<Echo> at_server_ = std::make_shared<Echo>();
  std::shared_ptr<Connection> client_;
  std::shared_ptr<Connection> server_;
  pid_t loop_thread_ = 0;
  uint32_t calls_ = 0;
  std::atomic<uint32_t> calls_between_{UINT32_MAX};  // of whose returns one calls the loop
  std::atomic<Completion*> waiter_{nullptr};
};

TEST_F(SharedCpuTest, LoopThatWasCalledLeavesTheCpuToTheCallerThatDrives) {
  ASSERT_TRUE(Call(200));
  // It finds the token taken where it gets the CPU only while the caller, which drives, offers
  // that; whether it does depends on the scheduler, so it is called often.
  constexpr int kCalls = 4000;
  calls_between_ = kCalls / 40;
  for (int round = 0; round < 5; ++round) {
    const int64_t before = TurnsOf(loop_thread_);
    ASSERT_TRUE(Call(kCalls));
    EXPECT_LT(TurnsOf(loop_thread_) - before, kCalls / 4);
  }
}

TEST_F(SharedCpuTest, WhatArrivesAfterTheLastCallIsSeenByTheLoopThatWasLeftUncalled) {
  for (int round = 0; round < 20; ++round) {
    calls_between_ = 50;
    ASSERT_TRUE(Call(53));
    const int seen = at_client_->messages();
    ASSERT_TRUE(server_->Send(MakeMessage(FrameType::kReturn, 0, 8)).ok());
    ASSERT_TRUE(at_client_->WaitMessages(seen + 1)) << "round " << round;
  }
}

}  // namespace
}  // namespace mi7::transport::shm
