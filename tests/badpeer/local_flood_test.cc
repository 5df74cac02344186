// Clients that flood, over every transport: frames as they like, by a connection of the transport's
// own, as nobody can write bytes of a handshake with descriptors by hand.

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/call_transport.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/connection.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/message.h"
#include "transport/transports.h"

namespace mi7::badpeer {
namespace {

using conformance::CallTransport;
using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::HasSubstr;

// What the server sends.
class Ears final : public transport::Receiver {
 public:
  void OnMessage(transport::IncomingMessage&& message) override {
    if (message.header().type == FrameType::kReturn) returns_.fetch_add(1);
  }
  void OnRejected(const FrameHeader&, const absl::Status&) override {}
  void OnWritable() override {}
  void OnUnsent(const FrameHeader&, const absl::Status&) override {}
  void OnClosed(const absl::Status& why) override {
    {
      absl::MutexLock lock(&mutex_);
      why_ = why;
    }
    closed_.Notify();
  }

  uint32_t returns() const { return returns_.load(); }
  absl::Status AwaitClosed() {
    if (!conformance::Happens(closed_)) return absl::DeadlineExceededError("not closed");
    absl::MutexLock lock(&mutex_);
    return why_;
  }

 private:
  std::atomic<uint32_t> returns_{0};
  absl::Notification closed_;
  absl::Mutex mutex_;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
};

class LocalFloodTest : public testing::TestWithParam<CallTransport> {
 protected:
  void Start(const Limits& limits) {
    ServerOptions options;
    options.limits = limits;
    options.event_loops = 1;  // the good client shares it with the bad one
    server_ = *ServerBuilder()
                   .SetOptions(options)
                   .AddService(&probe_)
                   .Listen(GetParam().new_endpoint())
                   .Start();
    channel_ = *Channel::Create(server_->endpoints()[0]);
    absl::Notification connected;
    transport::Connect(*transport::Endpoint::Parse(server_->endpoints()[0]), loop_.get(), {},
                       Deadline::After(kSoon), [&](auto connection) {
                         if (connection.ok()) {
                           peer_ = *std::move(connection);
                           peer_->Start(ears_);
                         }
                         connected.Notify();
                       });
    ASSERT_TRUE(conformance::Happens(connected));
    ASSERT_TRUE(peer_);
    peer_->SetBackground(true);
  }
  void TearDown() override {
    EXPECT_LE(HeldCalls(), 10u) << "the good client is served";
    if (!peer_) return;
    peer_->Close(absl::OkStatus());
    EXPECT_FALSE(absl::IsDeadlineExceeded(ears_->AwaitClosed()));
  }
  uint32_t HeldCalls() {
    const auto health =
        ProbeStub(channel_).Health({.deadline = Deadline::After(kSoon)}).Send().Wait();
    EXPECT_THAT(health, IsOk());
    return health.ok() ? health->getHeld() : ~0u;
  }
  // False: it is closed.
  bool SendFrame(FrameType type, uint32_t call_id) {
    transport::OutgoingMessage message = transport::NewHeapMessage(0);
    message->header = ControlHeader(type, call_id);
    message->has_body = false;
    return peer_->Send(std::move(message)).ok();
  }
  bool SendHold(uint32_t call_id) {
    transport::OutgoingMessage message = transport::NewHeapMessage(64);
    message->header = HoldHeader(call_id);
    message->initRoot<Probe::HoldParams>();
    return peer_->Send(std::move(message)).ok();
  }

  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
  const std::unique_ptr<transport::EventLoop> loop_ = *transport::EventLoop::Create({});
  const std::shared_ptr<Ears> ears_ = std::make_shared<Ears>();
  std::shared_ptr<transport::Connection> peer_;
};

INSTANTIATE_TEST_SUITE_P(All, LocalFloodTest,
                         testing::Values(CallTransport{"inproc", "inproc", conformance::InprocName},
                                         CallTransport{"unix", "unix", conformance::UnixPath},
                                         CallTransport{"shm", "shm", conformance::ShmPath}),
                         conformance::CallTransportName);

TEST_P(LocalFloodTest, FloodOfPingsClosesTheConnection) {
  Limits limits;
  limits.stray_frames_max = 1000;
  Start(limits);
  for (int i = 0; i <= 1000; ++i) SendFrame(FrameType::kPing, 1);
  EXPECT_THAT(ears_->AwaitClosed().ToString(), HasSubstr("limits.stray_frames_max, 1000"));
}

TEST_P(LocalFloodTest, FloodOfCancellationsClosesTheConnection) {
  Limits limits;
  limits.stray_frames_max = 1000;
  Start(limits);
  for (int i = 0; i <= 1000; ++i) SendFrame(FrameType::kCancel, 99);
  EXPECT_THAT(ears_->AwaitClosed().ToString(), HasSubstr("limits.stray_frames_max, 1000"));
}

TEST_P(LocalFloodTest, CallsThatAreOpenedAndResetInALoopStartNoMoreHandlers) {
  Limits limits;
  limits.calls_in_flight_max = 10;
  Start(limits);
  constexpr uint32_t kCalls = 2000;
  for (uint32_t id = 0; id < kCalls; ++id) {
    ASSERT_TRUE(SendHold(id));
    ASSERT_TRUE(SendFrame(FrameType::kCancel, id));
  }
  const Deadline patience = Deadline::After(kSoon);
  while (ears_->returns() < kCalls - 10) ASSERT_FALSE(patience.passed());
  EXPECT_EQ(HeldCalls(), 10u);
  for (int i = 0; i < 10; ++i) probe_.TakeHeld().Answer();
  while (ears_->returns() < kCalls) ASSERT_FALSE(patience.passed());
}

}  // namespace
}  // namespace mi7::badpeer
