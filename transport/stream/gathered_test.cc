// Messages that may wait for others (MessageBody::may_gather): when they do, and who writes them.

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "base/deadline.h"
#include "transport/completion.h"
#include "transport/stream/raw_peer.h"
#include "transport/stream/testing.h"

namespace mi7::transport::testing {
namespace {

class GatheredTest : public ::testing::TestWithParam<Endpoint::Scheme> {
 protected:
  GatheredTest() : server_(GetParam()), loop_(NewLoop()), receiver_(std::make_shared<Recorder>()) {
    std::thread accepts([this] {
      peer_.emplace(server_.Accept());
      peer_->Send(Greeting());
      peer_->Read(GreetingBytes());
    });
    auto connected = ConnectTo(server_.endpoint(), loop_.get());
    accepts.join();
    MI7_CHECK(connected.ok(), "a test can connect");
    connection_ = *std::move(connected);
    connection_->Start(receiver_);
  }
  ~GatheredTest() override {
    ReleaseLoop();
    connection_->Close(absl::OkStatus());
    static_cast<void>(receiver_->WaitClosed());
  }

  // From now on the loop does nothing.
  void BlockLoop() {
    absl::Notification blocked;
    release_ = std::make_shared<absl::Notification>();
    loop_->Post([&blocked, release = release_] {
      blocked.Notify();
      release->WaitForNotification();
    });
    blocked.WaitForNotification();
  }
  void ReleaseLoop() {
    if (release_ != nullptr) std::exchange(release_, nullptr)->Notify();
  }

  // A message with the next number, which counts as sent; `may_gather`: one of a series.
  OutgoingMessage NextMessage(bool may_gather = true, size_t bytes = 64) {
    const auto make = [&] {
      return MakeMessage(may_gather ? FrameType::kStreamMessage : FrameType::kCall, number_, bytes);
    };
    sent_ += BytesOf(make());
    OutgoingMessage message = make();
    message->may_gather = may_gather;
    ++number_;
    return message;
  }
  void Send(bool may_gather = true, size_t bytes = 64) {
    ASSERT_TRUE(connection_->Send(NextMessage(may_gather, bytes)).ok());
  }
  // Sends a series until a message of it has not come to the peer; false: all of many have. Several
  // at a time, made before, since one waits only if it comes right after another. What has come is
  // read, so that the socket has room.
  bool SendUntilOneWaits() {
    for (int i = 0; i < 1000; ++i) {
      std::array<OutgoingMessage, 4> messages;
      for (OutgoingMessage& message : messages) message = NextMessage();
      for (OutgoingMessage& message : messages) {
        if (!connection_->Send(std::move(message)).ok()) return false;
      }
      if (peer_->Waiting() < sent_.size()) return true;
      if (!AllArrives()) return false;
    }
    return false;
  }
  // Whether the peer gets what was sent since the last call, in order.
  ::testing::AssertionResult AllArrives() {
    const std::string sent = std::exchange(sent_, {});
    const std::string got = peer_->Read(sent.size());
    if (got == sent) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << got.size() << " bytes of " << sent.size() << " came";
  }

  Connection& connection() { return *connection_; }
  RawPeer& peer() { return *peer_; }

 private:
  RawServer server_;
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<Recorder> receiver_;
  std::optional<RawPeer> peer_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<absl::Notification> release_;
  uint32_t number_ = 0;
  std::string sent_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, GatheredTest,
                         ::testing::Values(Endpoint::Scheme::kTcp, Endpoint::Scheme::kUnix),
                         SchemeName);

TEST_P(GatheredTest, WhatComesRightAfterAWriteIsWrittenByTheLoop) {
  // Each time anew.
  for (int round = 0; round < 50; ++round) {
    BlockLoop();
    ASSERT_TRUE(SendUntilOneWaits()) << round;
    ReleaseLoop();
    ASSERT_TRUE(AllArrives()) << round;
  }
}

TEST_P(GatheredTest, WhoWaitsWritesIt) {
  BlockLoop();
  ASSERT_TRUE(SendUntilOneWaits());
  Completion never;
  EXPECT_FALSE(connection().Await(never, Deadline::After(absl::Milliseconds(1))));
  EXPECT_TRUE(AllArrives());
}

TEST_P(GatheredTest, ACallTakesItAlong) {
  BlockLoop();
  ASSERT_TRUE(SendUntilOneWaits());
  Send(/*may_gather=*/false);
  EXPECT_TRUE(AllArrives());
}

TEST_P(GatheredTest, ALargeOneDoesNotWait) {
  BlockLoop();
  ASSERT_TRUE(SendUntilOneWaits());
  Send(/*may_gather=*/true, 8'000);
  EXPECT_TRUE(AllArrives());
}

// Until so many nanoseconds have passed.
void Pause(int64_t pause_ns) {
  const int64_t until_ns = MonotonicNanos() + pause_ns;
  while (MonotonicNanos() < until_ns) std::this_thread::yield();
}

TEST_P(GatheredTest, OneThatComesLaterIsWrittenAtOnce) {
  BlockLoop();
  for (int i = 0; i < 20; ++i) {
    Send();
    ASSERT_TRUE(AllArrives()) << i;
    Pause(20'000);
  }
}

TEST_P(GatheredTest, ALoopThatIsBusyHoldsUpNoSeries) {
  BlockLoop();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(SendUntilOneWaits());
    Pause(200'000);
    Send();
    ASSERT_TRUE(AllArrives()) << i;
  }
}

TEST_P(GatheredTest, CallsDoNotGather) {
  BlockLoop();
  for (int i = 0; i < 100; ++i) Send(/*may_gather=*/false);
  EXPECT_TRUE(AllArrives());
}

TEST_P(GatheredTest, ItIsWrittenBeforeTheEnd) {
  BlockLoop();
  ASSERT_TRUE(SendUntilOneWaits());
  connection().Close(absl::OkStatus());
  ReleaseLoop();
  EXPECT_TRUE(AllArrives());
  EXPECT_EQ(peer().Read(), "");
}

}  // namespace
}  // namespace mi7::transport::testing
