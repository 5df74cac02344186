#pragma once

// For tests of what a session sends and accepts for streams, frame by frame; the peer is the test.

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/callee_stream.h"
#include "rpc/channel.h"
#include "rpc/client_streams.h"
#include "rpc/fake_connection.h"
#include "rpc/session.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"
#include "transport/buffer_pool.h"

namespace mi7 {

inline constexpr MethodInfo kStreamMethods[] = {
    {.interface_id = kBaseId,
     .method_id = 0,
     .name = "Base.watch",
     .kind = MethodKind::kServerStreaming},
    {.interface_id = kBaseId,
     .method_id = 1,
     .name = "Base.upload",
     .kind = MethodKind::kClientStreaming},
    {.interface_id = kBaseId,
     .method_id = 2,
     .name = "Base.chat",
     .kind = MethodKind::kBidirectional},
    {.interface_id = kBaseId, .method_id = 3, .name = "Base.ask"},
};
inline constexpr InterfaceInfo kStreamInfo = {kBaseId, "Base", kStreamMethods, 4, nullptr, 0};
inline constexpr uint32_t kStreamWindow = 1000;

inline transport::OutgoingMessage MakeStreamMessage(uint32_t call_id,
                                                    transport::StreamDirection direction,
                                                    size_t key_bytes = 3) {
  transport::OutgoingMessage message = transport::NewHeapMessage(64);
  message->header.type = transport::FrameType::kStreamMessage;
  message->header.call_id = call_id;
  message->header.code = static_cast<uint16_t>(direction);
  message->initRoot<TestMessage>().setKey(std::string(key_bytes, 'k').c_str());
  return message;
}
inline transport::OutgoingMessage MakeCredit(uint32_t call_id, transport::StreamDirection direction,
                                             uint32_t bytes) {
  transport::OutgoingMessage message = MakeControl(transport::FrameType::kCredit, call_id);
  message->header.code = static_cast<uint16_t>(direction);
  message->header.timeout = bytes;
  return message;
}
// A stream message that tells when its memory is given back, which is what happens to one that is
// not taken.
class WhenReleased final : transport::Backing {
 public:
  explicit WhenReleased(std::function<void()> tell) : tell_(std::move(tell)) {}
  // Once. Lives no longer than this.
  transport::IncomingMessage StreamMessage(uint32_t call_id, transport::StreamDirection direction) {
    transport::FrameHeader header;
    header.type = transport::FrameType::kStreamMessage;
    header.call_id = call_id;
    header.code = static_cast<uint16_t>(direction);
    header.size = transport::kFrameHeaderBytes + sizeof(body_);
    return *transport::ParseMessage(header, std::as_bytes(std::span(body_)), this, 0, {});
  }

 private:
  void Release(uint64_t) override { tell_(); }

  const std::function<void()> tell_;
  // One segment of a null pointer.
  const std::array<uint64_t, 2> body_ = {uint64_t{1} << 32, 0};
};
// As the caller sees them.
inline constexpr transport::StreamDirection kIn = transport::StreamDirection::kToCaller;
inline constexpr transport::StreamDirection kOut = transport::StreamDirection::kToCallee;

// A session whose peer is the test. It serves kStreamInfo, and makes calls.
class StreamSessionTest : public testing::Test {
 protected:
  using Reader = StreamReader<TestMessage>;
  using Writer = StreamWriter<TestMessage>;

  void TearDown() override { connection_->End(); }

  void Start() {
    ASSERT_THAT(dispatcher_.Add(&service_), IsOk());
    config_->dispatcher = &dispatcher_;
    session_ = std::make_shared<Session>(connection_, std::weak_ptr<Session::Observer>(), config_);
    connection_->Start(session_);
  }

  // --- The end that makes calls

  ClientCallRef NewCall(int method) {
    return ClientCallRef(ClientCall::New(channel_, std::shared_ptr(session_), kStreamInfo,
                                         kStreamMethods[method], {},
                                         transport::NewHeapMessage(64)));
  }
  Reader Watch() {
    StreamRequest<TestMessage, TestMessage> request(NewCall(0));
    request->setKey("watch");
    Reader reader = request.Send();
    EXPECT_EQ(connection_->TakeSent().header().type, transport::FrameType::kCall);
    return reader;
  }
  ClientStream<TestMessage, TestMessage> Upload() {
    ClientStream<TestMessage, TestMessage> upload(NewCall(1));
    EXPECT_EQ(connection_->TakeSent().header().type, transport::FrameType::kCall);
    return upload;
  }
  BidiStream<TestMessage, TestMessage> Chat() {
    BidiStream<TestMessage, TestMessage> chat(NewCall(2));
    EXPECT_EQ(connection_->TakeSent().header().type, transport::FrameType::kCall);
    return chat;
  }
  static StreamDraft<TestMessage> Draft(Writer& writer, size_t key_bytes = 3) {
    StreamDraft<TestMessage> draft = writer.NewMessage();
    draft->setKey(std::string(key_bytes, 'k').c_str());
    return draft;
  }
  // Bytes of what Draft makes, as it travels.
  static uint32_t BytesOf(size_t key_bytes) {
    transport::OutgoingMessage message = MakeStreamMessage(0, kOut, key_bytes);
    return static_cast<uint32_t>(transport::MessageBytes(*message));
  }

  // --- The end that answers

  // Delivers a call of `method`; the handler keeps its stream in handled_.
  void DeliverCall(uint32_t call_id, uint16_t method) {
    connection_->Deliver(MakeCall(call_id, kBaseId, kBaseId, method));
  }
  struct Handled {
    Reader reader;
    Writer writer;
    DeferredCall later;
  };

  bool Open() { return !connection_->closed_with(); }
  void ExpectClosed(const std::string& text) {
    ASSERT_TRUE(connection_->closed_with());
    EXPECT_THAT(*connection_->closed_with(),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr(text)));
  }

  // Of the session, its connection and the channel whose calls it makes, as outside of tests.
  static Limits SmallWindow() {
    Limits limits;
    limits.stream_window_bytes = kStreamWindow;
    return limits;
  }
  const std::shared_ptr<Channel> channel_ =
      *Channel::Create("inproc:never-connected", {.limits = SmallWindow()});
  const std::shared_ptr<SessionConfig> config_ =
      std::make_shared<SessionConfig>(SessionConfig{SmallWindow(), nullptr, nullptr, {}});
  LambdaService service_{
      kStreamInfo, [this](uint64_t, uint16_t method, ServerCall& call) -> Reply {
        if (method == 3) {
          deferred_.push_back(call.context().Defer());
          return Reply::Later();
        }
        if (on_open_) on_open_(call.context());
        if (!call.OpenStream(kStreamMethods[method])) {
          return NeedsStreams(kStreamMethods[method]);
        }
        if (on_stream_) {
          return on_stream_(call.Reader<TestMessage>(), call.Writer<TestMessage>());
        }
        handled_.push_back(
            {call.Reader<TestMessage>(), call.Writer<TestMessage>(), call.context().Defer()});
        return Reply::Later();
      }};
  Dispatcher dispatcher_;
  std::function<void(ServerContext&)> on_open_;     // before a stream is opened
  std::function<Reply(Reader, Writer)> on_stream_;  // in place of keeping it
  std::vector<DeferredCall> deferred_;
  std::vector<Handled> handled_;
  const std::shared_ptr<FakeConnection> connection_ =
      std::make_shared<FakeConnection>(SmallWindow());
  std::shared_ptr<Session> session_;
};

}  // namespace mi7
