// A server that never stops sending messages which answer nothing: callers still look at the clock.

#include <atomic>
#include <limits>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "tests/badpeer/bad_server.h"

namespace mi7::badpeer {
namespace {

// Sends Pongs, as fast as they are read, until it is destroyed or patience ends.
class PongStream {
 public:
  explicit PongStream(RawPeer* server) : server_(server), thread_([this] { Run(); }) {}
  ~PongStream() {
    stop_ = true;
    server_->CloseSending();  // which wakes it
    thread_.join();
  }
  // Whether it gave up: what the test waits for took longer than anybody waits.
  bool gave_up() const { return gave_up_; }

 private:
  void Run() {
    std::string pongs;
    for (int i = 0; i < 4096; ++i) pongs += Message(ControlHeader(FrameType::kPong));
    const Deadline patience = Deadline::After(absl::Seconds(30));
    while (!stop_ && server_->Send(pongs)) {
      if (!patience.passed()) continue;
      gave_up_ = true;
      server_->CloseSending();
      return;
    }
  }
  RawPeer* const server_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> gave_up_{false};
  std::thread thread_;
};

// The stream is not ended as a flood.
ChannelOptions Patient() {
  ChannelOptions options;
  options.limits.stray_frames_max = std::numeric_limits<uint32_t>::max();
  return options;
}

TEST_F(BadServerTest, DeadlineOfABlockingCallIsKeptUnderAnEndlessStreamOfPongs) {
  for (const transport::WaitPolicy policy :
       {transport::WaitPolicy::kAdaptive, transport::WaitPolicy::kBlock}) {
    SCOPED_TRACE(static_cast<int>(policy));
    ChannelOptions options = Patient();
    options.wait = policy;
    channel_ = *Channel::Create(listener_.endpoint(), options);
    Pending first = Send();
    RawPeer server = listener_.AcceptGreeted();
    server.Send(Message(ReturnHeader(TakeCall(server)), EchoBody()));
    ASSERT_THAT(first.Wait(), IsOk());  // from now on a thread that waits drives by itself

    PongStream pongs(&server);
    const Deadline deadline = Deadline::After(absl::Milliseconds(500));
    const EchoResult result = Send(channel_, "x", {.deadline = deadline}).Wait();
    EXPECT_TRUE(deadline.passed());
    EXPECT_FALSE(pongs.gave_up()) << "the caller looked at its deadline when the stream ended";
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  }
}

TEST_F(BadServerTest, DeadlineOfACallbackIsKeptUnderAnEndlessStreamOfPongs) {
  channel_ = *Channel::Create(listener_.endpoint(), Patient());
  Pending first = Send();
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Message(ReturnHeader(TakeCall(server)), EchoBody()));
  ASSERT_THAT(first.Wait(), IsOk());

  PongStream pongs(&server);
  const Deadline deadline = Deadline::After(absl::Milliseconds(500));
  absl::Notification done;
  absl::Status status;
  Send(channel_, "x", {.deadline = deadline}).Then([&](EchoResult result) {
    status = result.status();
    done.Notify();
  });
  ASSERT_TRUE(conformance::Happens(done));
  EXPECT_TRUE(deadline.passed());
  EXPECT_FALSE(pongs.gave_up());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded));
}

}  // namespace
}  // namespace mi7::badpeer
