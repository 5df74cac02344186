// The system calls and wakeups of calls over shared memory: none a call while both sides are awake,
// one at most for a burst. And that a program that has one CPU does not poll against itself.
//
// Client and server are in this process, and every system call of mi7 is counted: this file defines
// the C library's functions that it calls.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
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
#include "transport/event_loop.h"
#include "transport/local/testing.h"
#include "transport/wait_policy.h"

namespace {

struct Counts {
  std::atomic<uint64_t> futex_wakes{0};
  std::atomic<uint64_t> bytes_sent{0};  // to wake a loop
  std::atomic<uint64_t> sleeps{0};      // in a futex, or in epoll with time to wait
  std::atomic<uint64_t> looks{0};       // at descriptors, without waiting
  std::atomic<uint64_t> yields{0};
  std::atomic<uint64_t> asks{0};  // whether others took the CPU
  std::atomic<uint64_t> others{0};

  void Clear() {
    for (auto* count : {&futex_wakes, &bytes_sent, &sleeps, &looks, &yields, &asks, &others}) {
      *count = 0;
    }
  }
  uint64_t wakes() const { return futex_wakes + bytes_sent; }
  std::string ToString() const {
    return absl::StrCat(futex_wakes.load(), " futex wakes, ", bytes_sent.load(), " bytes, ",
                        sleeps.load(), " sleeps, ", looks.load(), " looks, ", yields.load(),
                        " yields, ", asks.load(), " asks, ", others.load(), " others");
  }
};
Counts counts;

#if defined(__x86_64__)
long SystemCall(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}
#define MI7_COUNTS_SYSTEM_CALLS 1
#endif

}  // namespace

#if defined(MI7_COUNTS_SYSTEM_CALLS)
extern "C" {
long syscall(long number, ...) noexcept {  // NOLINT
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  switch (number) {
    case SYS_futex:
      switch (arguments[1] & 0x7f) {
        case 0:  // FUTEX_WAIT
        case 9:  // FUTEX_WAIT_BITSET
          ++counts.sleeps;
          break;
        default:
          ++counts.futex_wakes;
      }
      break;
    case 449:  // SYS_futex_waitv
      ++counts.sleeps;
      break;
    case SYS_epoll_pwait:
      ++(static_cast<int>(arguments[3]) == 0 ? counts.looks : counts.sleeps);
      break;
    default:
      ++counts.others;
  }
  return SystemCall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                    arguments[5]);
}
ssize_t send(int fd, const void* data, size_t size, int flags) {
  counts.bytes_sent += size;
  return SystemCall(SYS_sendto, fd, reinterpret_cast<long>(data), static_cast<long>(size), flags, 0,
                    0);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  ++counts.others;
  return SystemCall(SYS_recvmsg, fd, reinterpret_cast<long>(message), flags, 0, 0, 0);
}
// Passes memory of a size class to the peer.
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  ++counts.others;
  return SystemCall(SYS_sendmsg, fd, reinterpret_cast<long>(message), flags, 0, 0, 0);
}
// Commits pages, or gives them back.
int fallocate(int fd, int mode, off_t offset, off_t size) {
  ++counts.others;
  return static_cast<int>(SystemCall(SYS_fallocate, fd, mode, offset, size, 0, 0));
}
int epoll_pwait2(int fd, epoll_event* events, int count, const timespec* timeout,
                 const sigset_t* mask) {
  ++counts.sleeps;
  return static_cast<int>(SystemCall(SYS_epoll_pwait2, fd, reinterpret_cast<long>(events), count,
                                     reinterpret_cast<long>(timeout), reinterpret_cast<long>(mask),
                                     sizeof(long)));
}
int sched_yield() noexcept {
  ++counts.yields;
  return static_cast<int>(SystemCall(SYS_sched_yield, 0, 0, 0, 0, 0, 0));
}
int getrusage(__rusage_who_t who, rusage* usage) noexcept {
  ++counts.asks;
  return static_cast<int>(
      SystemCall(SYS_getrusage, who, reinterpret_cast<long>(usage), 0, 0, 0, 0));
}
}  // extern "C"
#endif

namespace mi7::conformance {
namespace {

using transport::WaitPolicy;

class ShmWakeupsTest : public testing::Test {
 protected:
  void SetUp() override {
#if !defined(MI7_COUNTS_SYSTEM_CALLS)
    std::fprintf(stderr, "NOTICE: test not run, it counts system calls on x86-64 only\n");
    GTEST_SKIP();
#endif
  }
  void Serve(WaitPolicy wait) {
    ServerOptions server;
    server.wait = wait;
    server.event_loops = 1;
    ChannelOptions channel;
    channel.wait = wait;
    const std::string endpoint = absl::StrCat("shm:", directory_ / "s");
    server_ = *ServerBuilder().SetOptions(server).AddService(&probe_).Listen(endpoint).Start();
    channel_ = *Channel::Create(endpoint, channel);
    for (int i = 0; i < 200; ++i) Call();
  }
  // With `bytes` there and back.
  void Call(unsigned bytes = 0) {
    auto request = ProbeStub(channel_).Echo();
    request->setText("text");
    if (bytes != 0) request->initData(bytes);
    ASSERT_THAT(request.Send().Wait(), IsOk());
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
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

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

// Who has one CPU only offers it in every wait.
bool HasSeveralCpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  return ::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) > 1;
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
    return counts.wakes() <= 2 * kCalls + kCalls / 2;
  });
  EXPECT_GT(counts.wakes(), kCalls / 2) << "they are counted: " << counts.ToString();
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
