// An inline unary call allocates nothing on the heap once warm, on either side.
//
// Client and server are in this process, and every allocation of it is counted (allocation_hook).

#include <execinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/allocation_hook.h"
#include "rpc/channel.h"
#include "rpc/interceptors/call_metrics.h"
#include "rpc/server.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/local/testing.h"
#include "transport/wait_policy.h"

namespace {

std::atomic<uint64_t> allocations{0};

// Where the first ones came from, for whoever must find them.
constexpr size_t kTracesMax = 4;
constexpr int kFramesMax = 24;
struct Trace {
  std::array<void*, kFramesMax> frames;
  int count = 0;
};
std::array<Trace, kTracesMax> traces;

void Count() {
  thread_local bool tracing = false;
  if (tracing) return;
  tracing = true;
  const uint64_t number = allocations.fetch_add(1, std::memory_order_relaxed);
  if (number < kTracesMax) {
    traces[number].count = ::backtrace(traces[number].frames.data(), kFramesMax);
  }
  tracing = false;
}

}  // namespace

namespace mi7::conformance {
namespace {

struct Parameters {
  const char* name;
  const char* endpoint;
  transport::WaitPolicy wait;
};

class ZeroAllocationTest : public testing::TestWithParam<Parameters> {
 protected:
  static constexpr int kWarmUp = 3000;
  static constexpr int kCalls = 5000;
  static constexpr int kRounds = 10;

  void SetUp() override {
    if (!kAllocationHookIsCalled) {
      std::fprintf(stderr, "NOTICE: test not run, a sanitizer's allocator counts otherwise\n");
      GTEST_SKIP();
    }
    std::array<void*, 4> frames;
    ::backtrace(frames.data(), 4);  // its first use allocates
    Start({});
  }
  void Start(const Interceptors& interceptors) {
    stub_ = nullptr;
    server_ = nullptr;
    ServerOptions server;
    server.interceptors = interceptors;
    server.wait = GetParam().wait;
    server.event_loops = 1;
    std::string endpoint = GetParam().endpoint;
    if (endpoint.back() == '/') {
      endpoint = absl::StrCat(endpoint.substr(0, endpoint.size() - 1), sockets_ / "s");
    }
    server_ = *ServerBuilder().SetOptions(server).AddService(&probe_).Listen(endpoint).Start();
    ChannelOptions channel;
    channel.interceptors = interceptors;
    channel.wait = GetParam().wait;
    stub_ = std::make_unique<ProbeStub>(*Channel::Create(server_->endpoints()[0], channel));
  }

  // Allocations of the whole process during kCalls calls, after kWarmUp others: the least of
  // several rounds, until it is what is `expected`. A call that allocates does so in every round;
  // what the system's scheduling causes now and then (a connection that was idle for a moment and
  // wakes up, a call that ends on another thread than those before, whose caches are cold) does
  // not.
  template <typename Call>
  uint64_t Allocations(Call call, uint64_t expected = 0) {
    for (int i = 0; i < kWarmUp; ++i) call();
    uint64_t least = ~uint64_t{0};
    for (int round = 0; round < kRounds && least > expected; ++round) {
      allocations = 0;
      allocation_hook = &Count;
      for (int i = 0; i < kCalls; ++i) call();
      allocation_hook = nullptr;
      least = std::min<uint64_t>(least, allocations);
    }
    return least;
  }
  // Tells where the first allocations of the last round came from.
  static void PrintTraces() {
    for (const Trace& trace : traces) {
      ::backtrace_symbols_fd(trace.frames.data(), trace.count, STDERR_FILENO);
      static_cast<void>(!::write(STDERR_FILENO, "\n", 1));
    }
  }
  // `bytes`: of data, both ways.
  void BlockingCall(const CallOptions& options = {}, unsigned bytes = 0) {
    auto request = stub_->Echo(options);
    request->setText("a text of some length, as calls have");
    if (bytes != 0) request->initData(bytes);
    const EchoResult result = request.Send().Wait();
    wrong_ += !result.ok() || result->getText().size() != 36 || result->getData().size() != bytes;
  }

  const transport::testing::TemporaryDirectory sockets_;
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<ProbeStub> stub_;
  int wrong_ = 0;
};

TEST_P(ZeroAllocationTest, BlockingCall) {
  EXPECT_EQ(Allocations([&] { BlockingCall(); }), 0u);
  if (HasFailure()) PrintTraces();
  EXPECT_EQ(wrong_, 0);
}

TEST_P(ZeroAllocationTest, BlockingCallWithADeadline) {
  EXPECT_EQ(Allocations([&] { BlockingCall({.deadline = Deadline::After(kSoon)}); }), 0u);
  if (HasFailure()) PrintTraces();
  EXPECT_EQ(wrong_, 0);
}

// Over shared memory in a slot each way; elsewhere in a pooled buffer.
TEST_P(ZeroAllocationTest, BlockingCallOf2KiB) {
  EXPECT_EQ(Allocations([&] { BlockingCall({}, 2 << 10); }), 0u);
  if (HasFailure()) PrintTraces();
  EXPECT_EQ(wrong_, 0);
}

TEST_P(ZeroAllocationTest, BlockingCallThatIsCountedAtBothEnds) {
  const auto metrics = std::make_shared<CallMetrics>();
  Start({metrics});
  EXPECT_EQ(Allocations([&] { BlockingCall(); }), 0u);
  if (HasFailure()) PrintTraces();
  EXPECT_EQ(wrong_, 0);
  const std::vector<CallMetrics::Method> methods = metrics->Snapshot();
  ASSERT_EQ(methods.size(), 2u);
  EXPECT_EQ(methods[0].started, methods[1].started);
  EXPECT_GE(methods[0].started, static_cast<uint64_t>(kWarmUp + kCalls));
}

TEST_P(ZeroAllocationTest, CallbackCall) {
  // Made on this thread, ended on the channel's event loop.
  std::atomic<int> ended{0};
  int begun = 0;
  const auto call = [&] {
    auto request = stub_->Echo();
    request->setText("a text of some length, as calls have");
    ++begun;
    request.Send().Then([this, &ended](EchoResult result) {
      wrong_ += !result.ok() || result->getText().size() != 36;
      ended.fetch_add(1, std::memory_order_release);
      ended.notify_one();
    });
    for (int seen; (seen = ended.load(std::memory_order_acquire)) != begun;) ended.wait(seen);
  };
  // Some: an answer that comes before Then ends on this thread, whose cache takes the loop's
  // buffer, until it is full. That depends on the machine's load; a call that allocates does so
  // each time.
  EXPECT_LT(Allocations(call), kCalls / 100u);
  if (HasFailure()) PrintTraces();
  EXPECT_EQ(wrong_, 0);
}

TEST_P(ZeroAllocationTest, TheCounterCounts) {
  probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) {
    // On the server, in the handler: one a call.
    const std::unique_ptr<char[]> mistake(new char[100]);
    static_cast<volatile char*>(mistake.get())[0] = 1;
    return Echo(context, params, results);
  };
  constexpr uint64_t kOneEach = kCalls;
  EXPECT_EQ(Allocations([&] { BlockingCall(); }, kOneEach), kOneEach);
  EXPECT_EQ(wrong_, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, ZeroAllocationTest,
    testing::Values(
        Parameters{"tcp_adaptive", "tcp:127.0.0.1:0", transport::WaitPolicy::kAdaptive},
        Parameters{"tcp_block", "tcp:127.0.0.1:0", transport::WaitPolicy::kBlock},
        // In a directory of the test's.
        Parameters{"unix_adaptive", "unix:/", transport::WaitPolicy::kAdaptive},
        Parameters{"unix_block", "unix:/", transport::WaitPolicy::kBlock},
        Parameters{"shm_adaptive", "shm:/", transport::WaitPolicy::kAdaptive},
        Parameters{"shm_block", "shm:/", transport::WaitPolicy::kBlock},
        Parameters{"inproc_adaptive", "inproc:zero-allocation", transport::WaitPolicy::kAdaptive},
        Parameters{"inproc_block", "inproc:zero-allocation", transport::WaitPolicy::kBlock}),
    [](const testing::TestParamInfo<Parameters>& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace mi7::conformance
