// Clients that flood, over every transport: frames as they like, by a connection of the transport's
// own, as nobody can write bytes of a handshake with descriptors by hand.

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
#include "tests/conformance/call/feed_service.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/connection.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/message.h"
#include "transport/transports.h"

namespace mi7::badpeer {
namespace {

using conformance::CallTransport;
using conformance::Feed;
using conformance::FeedImpl;
using conformance::Item;
using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::HasSubstr;

using enum FeedMethod;

// What the server sends.
class Ears final : public transport::Receiver {
 public:
  void OnMessage(transport::IncomingMessage&& message) override {
    switch (message.header().type) {
      case FrameType::kReturn:
        returns_.fetch_add(1);
        break;
      case FrameType::kStreamMessage:
        stream_messages_.fetch_add(1);
        break;
      case FrameType::kPong:
        pongs_.fetch_add(1);
        break;
      default:
        break;
    }
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
  uint32_t stream_messages() const { return stream_messages_.load(); }
  uint32_t pongs() const { return pongs_.load(); }
  absl::Status AwaitClosed() {
    if (!conformance::Happens(closed_)) return absl::DeadlineExceededError("not closed");
    absl::MutexLock lock(&mutex_);
    return why_;
  }

 private:
  std::atomic<uint32_t> returns_{0}, stream_messages_{0}, pongs_{0};
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
                   .AddService(&feed_)
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

  // Of a stream of feed, whose parameters are an empty struct.
  bool OpenStream(uint32_t call_id, FeedMethod method) {
    transport::OutgoingMessage message = transport::NewHeapMessage(64);
    message->header = FeedHeader(call_id, method);
    message->initRoot<Feed::WatchParams>();
    return peer_->Send(std::move(message)).ok();
  }
  // The smallest message that an item can be, of a stream of parameters.
  bool SendItem(uint32_t call_id) {
    transport::OutgoingMessage message = transport::NewHeapMessage(64);
    message->header = StreamHeader(FrameType::kStreamMessage, call_id, 0);
    message->initRoot<Item>();
    item_bytes_ = transport::MessageBytes(*message);
    return peer_->Send(std::move(message)).ok();
  }
  bool SendCredit(uint32_t call_id, uint32_t bytes) {
    transport::OutgoingMessage message = transport::NewHeapMessage(0);
    message->header = StreamHeader(FrameType::kCredit, call_id, 1, bytes);
    message->has_body = false;
    return peer_->Send(std::move(message)).ok();
  }
  // Whether the server goes on when it has read and handled everything that the peer has sent.
  testing::AssertionResult IsThrough() {
    const uint32_t before = ears_->pongs();
    if (!SendFrame(FrameType::kPing, 7)) return testing::AssertionFailure() << "closed";
    const Deadline patience = Deadline::After(kSoon);
    while (ears_->pongs() == before) {
      if (patience.passed()) return testing::AssertionFailure() << "no pong";
    }
    return testing::AssertionSuccess();
  }
  // Streams are not answered. Of watches an item of 10,000 bytes is written, of uploads nothing is
  // read.
  void HoldStreams() {
    feed_.on_watch = [this](ServerContext& context, Feed::WatchParams::Reader,
                            StreamWriter<Item> writer) {
      absl::MutexLock lock(&mutex_);
      writer.Write(conformance::NewItem(writer, 1, 10'000)).Then([](const absl::Status&) {});
      held_.push_back({{}, std::move(writer), context.Defer()});
      return Reply::Later();
    };
    feed_.on_upload = [this](ServerContext& context, StreamReader<Item> reader,
                             Feed::UploadResults::Builder) {
      absl::MutexLock lock(&mutex_);
      held_.push_back({std::move(reader), {}, context.Defer()});
      return Reply::Later();
    };
  }
  size_t HeldStreams() {
    absl::MutexLock lock(&mutex_);
    return held_.size();
  }

  struct Held {
    StreamReader<Item> reader;
    StreamWriter<Item> writer;
    DeferredCall call;
  };
  ProbeImpl probe_;
  FeedImpl feed_;
  absl::Mutex mutex_;
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
  uint64_t item_bytes_ = 0;  // of the last item
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

// --- Streams

TEST_P(LocalFloodTest, TinyMessagesBeyondTheWindowCloseTheConnection) {
  Limits limits;
  limits.stream_window_bytes = 64u << 10;
  HoldStreams();
  Start(limits);
  ASSERT_TRUE(OpenStream(1, kUpload));
  // The last one that there is credit for may exceed it.
  for (uint64_t sent = 0; sent < limits.stream_window_bytes; sent += item_bytes_) {
    ASSERT_TRUE(SendItem(1));
  }
  ASSERT_TRUE(IsThrough()) << "nobody reads, and it lives";
  EXPECT_EQ(HeldCalls(), 0u) << "others are served";
  SendItem(1);
  EXPECT_THAT(ears_->AwaitClosed().ToString(), HasSubstr("without credit"));
}

TEST_P(LocalFloodTest, CrumbsOfCreditCloseTheConnection) {
  Limits limits;
  limits.stray_frames_max = 1000;
  HoldStreams();
  Start(limits);
  ASSERT_TRUE(OpenStream(1, kWatch));
  const Deadline patience = Deadline::After(kSoon);
  while (ears_->stream_messages() == 0) ASSERT_FALSE(patience.passed());
  for (int i = 0; i < 999; ++i) ASSERT_TRUE(SendCredit(1, 1));
  ASSERT_TRUE(IsThrough());
  SendCredit(1, 1);
  EXPECT_THAT(ears_->AwaitClosed().ToString(), HasSubstr("limits.stray_frames_max, 1000"));
}

TEST_P(LocalFloodTest, FramesOfStreamsThatAreNotInFlightCloseTheConnection) {
  Limits limits;
  limits.stray_frames_max = 1000;
  Start(limits);
  for (int i = 0; i <= 1000; ++i) {
    if (i % 3 == 0) SendItem(99);
    if (i % 3 == 1) SendCredit(99, 1);
    if (i % 3 == 2) SendFrame(FrameType::kStreamEnd, 99);
  }
  EXPECT_THAT(ears_->AwaitClosed().ToString(), HasSubstr("limits.stray_frames_max, 1000"));
}

// What was cancelled counts until its handler has ended, and its messages are those of a stream
// that has room for them.
TEST_P(LocalFloodTest, StreamsThatAreOpenedAndResetInALoopStartNoMoreHandlers) {
  Limits limits;
  limits.calls_in_flight_max = 10;
  HoldStreams();
  Start(limits);
  constexpr uint32_t kStreams = 2000;
  for (uint32_t id = 0; id < kStreams; ++id) {
    ASSERT_TRUE(OpenStream(id, kUpload));
    ASSERT_TRUE(SendItem(id));
    ASSERT_TRUE(SendFrame(FrameType::kCancel, id));
  }
  const Deadline patience = Deadline::After(kSoon);
  while (ears_->returns() < kStreams - 10) ASSERT_FALSE(patience.passed());
  EXPECT_TRUE(IsThrough());
  EXPECT_EQ(HeldStreams(), 10u);
  absl::MutexLock lock(&mutex_);
  for (Held& held : held_) held.call.Finish(absl::CancelledError("as it should"));
}

}  // namespace
}  // namespace mi7::badpeer
