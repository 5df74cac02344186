// A client that makes calls and never reads their answers, against handlers that answer later, from
// a thread of their own: what the server keeps for it is bounded all the same.

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::badpeer {
namespace {

using conformance::Probe;

// Answers every call with 1 MiB, on its own thread.
class LateAnswers {
 public:
  LateAnswers() {
    service_.on_echo = [this](ServerContext& context, Probe::EchoParams::Reader,
                              Probe::EchoResults::Builder results) -> Reply {
      absl::MutexLock lock(&mutex_);
      waiting_.emplace_back(context.Defer(), results);
      return Reply::Later();
    };
  }
  ~LateAnswers() {
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
    }
    thread_.join();
  }
  Service* service() { return &service_; }
  // Waits until so many calls were answered.
  bool Answered(size_t calls) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return answered_ >= calls; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(60));
  }

 private:
  void Run() {
    absl::MutexLock lock(&mutex_);
    for (;;) {
      const auto work = [this] { return stopped_ || !waiting_.empty(); };
      mutex_.Await(absl::Condition(&work));
      if (waiting_.empty()) return;
      auto [call, results] = std::move(waiting_.front());
      waiting_.pop_front();
      mutex_.Unlock();
      results.initData(1 << 20);
      call.Finish(absl::OkStatus());
      mutex_.Lock();
      ++answered_;
    }
  }

  conformance::ProbeImpl service_;
  absl::Mutex mutex_;
  std::deque<std::pair<DeferredCall, Probe::EchoResults::Builder>> waiting_;
  size_t answered_ = 0;
  bool stopped_ = false;
  std::thread thread_{[this] { Run(); }};
};

TEST(UnreadAnswersTest, DeferredAnswersAreBoundedAndTheRestFailsWithTheLimit) {
  LateAnswers answers;
  ServerOptions options;
  options.limits.queued_bytes_max = 8u << 20;
  options.limits.message_bytes_max = 2u << 20;
  auto server = ServerBuilder()
                    .SetOptions(options)
                    .AddService(answers.service())
                    .Listen("tcp:127.0.0.1:0")
                    .Start();
  ASSERT_THAT(server.status(), IsOk());
  const std::string endpoint = (*server)->endpoints()[0];

  constexpr uint32_t kCalls = 1000;
  RawPeer peer = RawPeer::Greeted(endpoint, /*receive_buffer=*/4096);
  const size_t before = ResidentBytes();
  std::string calls;
  for (uint32_t id = 0; id < kCalls; ++id) calls += EchoCall(id);
  ASSERT_TRUE(peer.Send(calls));
  ASSERT_TRUE(answers.Answered(kCalls));
  EXPECT_LT(ResidentBytes(), before + (80u << 20)) << "1,000 MiB were answered, 8 may wait";

  // Every call has its return: the first ones their results, the others the reason.
  size_t with_results = 0;
  for (uint32_t i = 0; i < kCalls; ++i) {
    const std::optional<Received> answer = peer.ReadMessageOf(FrameType::kReturn);
    ASSERT_TRUE(answer.has_value()) << "after " << i << " answers";
    if (answer->header.code == 0) {
      ++with_results;
    } else {
      EXPECT_EQ(answer->status().code(), absl::StatusCode::kResourceExhausted);
      EXPECT_THAT(std::string(answer->status().message()),
                  testing::HasSubstr("limits.queued_bytes_max"));
    }
  }
  EXPECT_GT(with_results, 0u);
  EXPECT_LT(with_results, kCalls);
}

}  // namespace
}  // namespace mi7::badpeer
