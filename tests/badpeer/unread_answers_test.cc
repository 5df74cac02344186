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

// Answers every call with 1 MiB, on its own thread, once there are `calls_before` of them.
class LateAnswers {
 public:
  explicit LateAnswers(size_t calls_before) : calls_before_(calls_before) {
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
      const auto work = [this] { return stopped_ || waiting_.size() >= calls_before_; };
      mutex_.Await(absl::Condition(&work));
      if (waiting_.empty()) return;
      calls_before_ = 1;
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
  size_t calls_before_;
  size_t answered_ = 0;
  bool stopped_ = false;
  std::thread thread_{[this] { Run(); }};
};

ServerOptions SmallQueue(uint32_t calls_in_flight_max) {
  ServerOptions options;
  options.limits.queued_bytes_max = 8u << 20;
  options.limits.message_bytes_max = 2u << 20;
  options.limits.calls_in_flight_max = calls_in_flight_max;
  return options;
}

TEST(UnreadAnswersTest, DeferredAnswersThatExceedTheQueueWaitForRoom) {
  constexpr uint32_t kCalls = 64;
  LateAnswers answers(kCalls);  // all are read: a server with a full queue reads no further ones
  const auto server = *ServerBuilder()
                           .SetOptions(SmallQueue(kCalls))
                           .AddService(answers.service())
                           .Listen("tcp:127.0.0.1:0")
                           .Start();
  RawPeer peer = RawPeer::Greeted(server->endpoints()[0], /*receive_buffer=*/4096);
  std::string calls;
  for (uint32_t id = 0; id < kCalls; ++id) calls += EchoCall(id);
  ASSERT_TRUE(peer.Send(calls));
  ASSERT_TRUE(answers.Answered(kCalls));  // before any of them is read
  for (uint32_t id = 0; id < kCalls; ++id) {
    const std::optional<Received> answer = peer.ReadMessageOf(FrameType::kReturn);
    ASSERT_TRUE(answer.has_value()) << "after " << id << " answers";
    EXPECT_EQ(answer->header.call_id, id);
    ASSERT_THAT(answer->status(), IsOk());
    EXPECT_GT(answer->rest.size(), 1u << 20);
  }
}

TEST(UnreadAnswersTest, DeferredAnswersAreBoundedByTheCallsInFlight) {
  constexpr uint32_t kCalls = 300;
  LateAnswers answers(1);
  const auto server = *ServerBuilder()
                           .SetOptions(SmallQueue(/*calls_in_flight_max=*/16))
                           .AddService(answers.service())
                           .Listen("tcp:127.0.0.1:0")
                           .Start();
  RawPeer peer = RawPeer::Greeted(server->endpoints()[0], /*receive_buffer=*/4096);
  const size_t before = ResidentBytes();
  std::string calls;
  for (uint32_t id = 0; id < kCalls; ++id) calls += EchoCall(id);
  ASSERT_TRUE(peer.Send(calls));
  ASSERT_TRUE(answers.Answered(9));
  EXPECT_LT(ResidentBytes(), before + (80u << 20)) << "8 MiB may wait, and the answers to 16 calls";

  // Every call has its return in the end: results, or that there were too many at a time.
  size_t with_results = 0;
  for (uint32_t i = 0; i < kCalls; ++i) {
    const std::optional<Received> answer = peer.ReadMessageOf(FrameType::kReturn);
    ASSERT_TRUE(answer.has_value()) << "after " << i << " answers";
    if (answer->header.code == 0) {
      ++with_results;
    } else {
      EXPECT_THAT(answer->status(), StatusIs(absl::StatusCode::kResourceExhausted,
                                             testing::HasSubstr("calls_in_flight_max is 16")));
      EXPECT_TRUE(answer->refused());
    }
    ASSERT_LT(ResidentBytes(), before + (80u << 20)) << "after " << i << " answers";
  }
  EXPECT_GE(with_results, 16u);
}

TEST(UnreadAnswersTest, ResultsThatExceedWhatMayWaitBecomeErrors) {
  constexpr uint32_t kCalls = 100;
  LateAnswers answers(kCalls);
  ServerOptions options = SmallQueue(kCalls);
  options.limits.unread_answer_bytes_max = 16u << 20;
  const auto server = *ServerBuilder()
                           .SetOptions(options)
                           .AddService(answers.service())
                           .Listen("tcp:127.0.0.1:0")
                           .Start();
  RawPeer peer = RawPeer::Greeted(server->endpoints()[0], /*receive_buffer=*/4096);
  const size_t before = ResidentBytes();
  std::string calls;
  for (uint32_t id = 0; id < kCalls; ++id) calls += EchoCall(id);
  ASSERT_TRUE(peer.Send(calls));
  ASSERT_TRUE(answers.Answered(kCalls));  // before any of them is read
  EXPECT_LT(ResidentBytes(), before + (40u << 20));
  size_t with_results = 0;
  for (uint32_t id = 0; id < kCalls; ++id) {
    const std::optional<Received> answer = peer.ReadMessageOf(FrameType::kReturn);
    ASSERT_TRUE(answer.has_value()) << "after " << id << " answers";
    EXPECT_EQ(answer->header.call_id, id);
    if (answer->header.code == 0) {
      ++with_results;
    } else {
      EXPECT_THAT(
          answer->status(),
          StatusIs(absl::StatusCode::kResourceExhausted,
                   testing::AllOf(testing::HasSubstr("limits.unread_answer_bytes_max is 16777216"),
                                  testing::HasSubstr("the call has run"))));
    }
  }
  EXPECT_GE(with_results, 15u);
  EXPECT_LT(with_results, 60u);
}

}  // namespace
}  // namespace mi7::badpeer
