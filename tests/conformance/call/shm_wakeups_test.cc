// The system calls and wakeups of calls over shared memory: none a call while both sides are awake,
// one at most for a burst. That who waits long sleeps, and that a program that has one CPU does not
// poll against itself.

#include "tests/conformance/call/shm_wakeups.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

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

namespace mi7::conformance {
namespace {

// In the ring, in a slot, and in slots that are large enough to be cleared ahead.
struct Calls {
  unsigned bytes;
  int count;
};
constexpr Calls kAllCalls[] = {{0, 2000}, {2'048, 1000}, {1 << 20, 200}};

// Of all threads, which is both sides.
int64_t ProcessCpuNanos() {
  timespec time;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

TEST_F(ShmWakeupsTest, CallsOfTwoThatAreAwakeMakeNoSystemCalls) {
  Serve(WaitPolicy::kSpin);
  for (const auto& [bytes, count] : kAllCalls) {
    SCOPED_TRACE(absl::StrCat(bytes, " bytes"));
    const auto few = static_cast<uint64_t>(count / 100);
    counts.Clear();
    for (int i = 0; i < 20; ++i) Call(bytes);
    EXPECT_TRUE(bytes == 0 || counts.others > 0) << "memory is committed, and that is counted";
    ExpectOnce([&, bytes = bytes, count = count] {
      counts.Clear();
      const int64_t start_ns = MonotonicNanos();
      const int64_t start_cpu_ns = ProcessCpuNanos();
      for (int i = 0; i < count; ++i) Call(bytes);
      const int64_t took_ns = MonotonicNanos() - start_ns;
      const int64_t cpu_ns = ProcessCpuNanos() - start_cpu_ns;
      // Only a wait that takes long offers the CPU, after 1024 polls each time, and asks before and
      // after whether somebody wants it.
      const auto long_waits = static_cast<uint64_t>(cpu_ns / 20'000);
      if (HasSeveralCpus() && counts.yields > few + long_waits) return false;
      if (counts.asks > few + 2 * counts.yields) return false;
      // The client's loop takes over, and is woken, when the machine keeps a thread from running. A
      // lock for which two threads met, by chance.
      return counts.bytes_sent <= few && counts.futex_wakes <= few && counts.others <= few &&
             counts.loop_calls <= few &&
             // Now and then, by the clock and not by the call: the server's loop looks at its
             // descriptors every 50 us, the client's sleeps and looks every 5 ms whether the
             // connection is still in use.
             counts.looks <= static_cast<uint64_t>(took_ns / 50'000 + 10) &&
             counts.sleeps <= static_cast<uint64_t>(took_ns / 5'000'000 * 2 + 10);
    });
  }
}

// Under the policy for the least latency, neither an offer of the CPU nor the question whether
// somebody wants it stands in the way of a call.
TEST_F(ShmWakeupsTest, WhoSpinsKeepsItsCpu) {
  if (!HasSeveralCpus()) GTEST_SKIP() << "with one CPU each wait offers it";
  Serve(WaitPolicy::kSpin);
  // So few that in one of the tries no thread is kept from running, whatever else the machine does.
  constexpr int kTries = 2000;
  constexpr int kCalls = 10;
  // Takes about as long as the pauses with which every wait begins, and not as long as 1024 polls.
  constexpr unsigned kBytes = 16 << 10;
  for (int call = 0; call < 20; ++call) Call(kBytes);
  std::string seen;
  for (int i = 0; i < kTries; ++i) {
    counts.Clear();
    for (int call = 0; call < kCalls; ++call) Call(kBytes);
    seen = counts.ToString();
    // Each side asks once in a thousand waits.
    if (counts.yields == 0 && counts.asks <= 2) return;
  }
  ADD_FAILURE() << "in " << kCalls << " calls, the last time: " << seen;
}

// The default: who polls offers the CPU to others, and sleeps when the wait is long.
TEST_F(ShmWakeupsTest, CallsOfTwoThatPollForAWhileMakeNoOtherSystemCalls) {
  Serve(WaitPolicy::kAdaptive);
  for (const auto& [bytes, count] : kAllCalls) {
    SCOPED_TRACE(absl::StrCat(bytes, " bytes"));
    for (int i = 0; i < 20; ++i) Call(bytes);
    ExpectOnce([&, bytes = bytes, count = count] {
      counts.Clear();
      const int64_t start_ns = MonotonicNanos();
      for (int i = 0; i < count; ++i) Call(bytes);
      const int64_t took_ns = MonotonicNanos() - start_ns;
      const auto few = static_cast<uint64_t>(count / 20);
      // What takes longer than polling pays for is slept for, by each side once a call.
      const uint64_t sleeps = bytes >= 1 << 20 ? 2 * static_cast<uint64_t>(count) : few;
      // Each byte that wakes a loop is received there.
      return counts.others <= few + counts.bytes_sent && counts.asks <= few + 2 * counts.yields &&
             counts.wakes() <= sleeps + few &&
             counts.looks <= static_cast<uint64_t>(took_ns / 50'000 + 10) &&
             counts.sleeps <= sleeps + few + static_cast<uint64_t>(took_ns / 5'000'000 * 2 + 10);
    });
  }
}

TEST_F(ShmWakeupsTest, ACallWakesEachSideOnceAtMostWhenBothSleep) {
  Serve(WaitPolicy::kBlock);
  constexpr uint64_t kCalls = 500;
  ExpectOnce([&] {
    counts.Clear();
    for (uint64_t i = 0; i < kCalls; ++i) Call();
    // And now and then the client's loop, which takes over when a call takes long.
    return counts.wakes() <= 2 * kCalls + kCalls / 2 && counts.sleeps <= 4 * kCalls;
  });
  EXPECT_GT(counts.wakes(), kCalls / 2) << "they are counted: " << counts.ToString();
}

// However soon the answers before it came.
TEST_F(ShmWakeupsTest, WhoPollsForAWhileSleepsThen) {
  Serve(WaitPolicy::kAdaptive);
  watched_counts.Clear();
  answers_late_ = true;
  std::thread([&] {
    watched = true;
    Call();
  }).join();
}

TEST_F(ShmWakeupsTest, ABurstWakesEachSideOnceAtMost) {
  Serve(WaitPolicy::kBlock);
  constexpr int kBursts = 50;
  constexpr int kBurst = 32;
  uint64_t wakes = 0;
  int bursts = 0, many = 0;
  static std::atomic<int> answered;  // the last callback may still be in it when the test ends
  for (int attempt = 0; attempt < 20 * kBursts && bursts < kBursts; ++attempt) {
    answered = 0;
    bool in_callback = true;
    counts.Clear();
    // Inside a callback of the loop, so that it is known where the burst ends.
    ProbeStub(channel_).Echo().Send().Then([&, here = std::this_thread::get_id()](EchoResult) {
      // An answer that came before Then ends the call outside of any callback.
      in_callback = std::this_thread::get_id() != here;
      const uint64_t before = counts.bytes_sent;
      for (int i = 0; i < kBurst; ++i) {
        ProbeStub(channel_).Echo().Send().Then([&](EchoResult result) {
          EXPECT_THAT(result, IsOk());
          answered.fetch_add(1);
          answered.notify_one();
        });
      }
      if (in_callback) {
        EXPECT_EQ(counts.bytes_sent, before) << "the wakeup comes when the burst is over";
      }
    });
    for (int seen; (seen = answered.load()) != kBurst;) answered.wait(seen);
    if (!in_callback) continue;
    wakes += counts.bytes_sent;
    many += counts.bytes_sent > 6;
    ++bursts;
  }
  ASSERT_EQ(bursts, kBursts) << "answers kept coming before anything waited for them";
  // The server is woken by the first call and by the burst; the client, whose loop runs the
  // callbacks, by the answer to the first and by those to the burst, which may come in two parts.
  EXPECT_LE(many, kBursts / 2) << "of " << kBursts << " bursts, with " << wakes << " wakes";
  EXPECT_GE(wakes, 1u * kBursts / 2) << "they are counted";
}

// Polling against oneself takes whole time slices of the CPU, milliseconds each.
TEST_F(ShmWakeupsTest, OnOneCpuWaitingGivesTheCpuToWhoIsWaitedFor) {
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(std::max(0, ::sched_getcpu())), &one);
  // Inherited by the threads that Serve makes; this thread learns it with its first wait, so it is
  // one of its own.
  std::thread alone([&] {
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
    for (const WaitPolicy wait : {WaitPolicy::kAdaptive, WaitPolicy::kSpin}) {
      transport::EventLoop::Options loop_options{.name = "alone"};
      const auto loop = *transport::EventLoop::Create(loop_options);
      ProbeImpl probe;
      ServerOptions server_options;
      server_options.wait = wait;
      server_options.event_loops = 1;
      const std::string endpoint =
          absl::StrCat("shm:", directory_ / (wait == WaitPolicy::kSpin ? "spin" : "adaptive"));
      const auto server =
          *ServerBuilder().SetOptions(server_options).AddService(&probe).Listen(endpoint).Start();
      ChannelOptions options;
      options.wait = wait;
      options.event_loop = loop.get();
      channel_ = *Channel::Create(endpoint, options);
      for (int i = 0; i < 100; ++i) Call();
      constexpr int kCalls = 1000;
      ExpectOnce([&] {
        counts.Clear();
        const int64_t start_cpu_ns = ProcessCpuNanos();
        for (int i = 0; i < kCalls; ++i) Call();
        const int64_t cpu_ns = ProcessCpuNanos() - start_cpu_ns;
        return cpu_ns / kCalls < 200'000 && counts.yields < 100u * kCalls;
      });
      channel_->Close();
      channel_ = nullptr;
    }
  });
  alone.join();
}

}  // namespace
}  // namespace mi7::conformance
