#pragma once

// A server and a channel over shared memory in this process, whose system calls are counted.

#include <sched.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "tests/conformance/call/system_call_counts.h"
#include "transport/event_loop.h"
#include "transport/local/testing.h"
#include "transport/wait_policy.h"

namespace mi7::conformance {

using transport::WaitPolicy;

// Who has one CPU only offers it in every wait.
inline bool HasSeveralCpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  return ::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) > 1;
}

class ShmWakeupsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kCountsSystemCalls) {
      std::fprintf(stderr, "NOTICE: test not run, it counts system calls on x86-64 only\n");
      GTEST_SKIP();
    }
  }
  // `loop`: the channel's; nullptr: that of all channels.
  void Listen(WaitPolicy server_wait, WaitPolicy channel_wait,
              transport::EventLoop* loop = nullptr) {
    probe_.on_echo = [this](ServerContext& context, Probe::EchoParams::Reader params,
                            Probe::EchoResults::Builder results) {
      if (answers_late_) {
        EXPECT_TRUE(SleepsSoon());
      }
      while (held_up_) ::sched_yield();
      return Echo(context, params, results);
    };
    ServerOptions server;
    server.wait = server_wait;
    server.event_loops = 1;
    ChannelOptions channel;
    channel.wait = channel_wait;
    channel.event_loop = loop;
    const std::string endpoint = absl::StrCat("shm:", directory_ / "s");
    server_ = *ServerBuilder().SetOptions(server).AddService(&probe_).Listen(endpoint).Start();
    channel_ = *Channel::Create(endpoint, channel);
  }
  void Serve(WaitPolicy wait) {
    Listen(wait, wait);
    for (int i = 0; i < 200; ++i) Call();
  }
  // With `bytes` there and back.
  void Call(unsigned bytes = 0) {
    auto request = ProbeStub(channel_).Echo();
    request->setText("text");
    if (bytes != 0) request->initData(bytes);
    ASSERT_THAT(request.Send().Wait(), IsOk());
  }
  // Whether the thread that is watched sleeps until the answer wakes it.
  static bool SleepsSoon() {
    const Deadline soon = Deadline::After(kSoon);
    while (watched_counts.bell_sleeps == 0) {
      if (soon.passed()) return false;
      ::sched_yield();
    }
    return true;
  }
  // A machine that has other work keeps threads from running: what is counted must be `right` once.
  template <typename Try>
  static void ExpectOnce(Try right) {
    std::string seen;
    for (int i = 0; i < 20; ++i) {
      if (right()) return;
      absl::StrAppend(&seen, counts.ToString(), "\n");
    }
    ADD_FAILURE() << "each time:\n" << seen;
  }

  const transport::testing::TemporaryDirectory directory_;
  // Calls are answered when the thread that is watched sleeps.
  std::atomic<bool> answers_late_{false};
  // None is answered.
  std::atomic<bool> held_up_{false};
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7::conformance
