#pragma once

// For tests of streams that are made again: their first attempt goes over a connection whose peer
// is the test, the next ones to a server.

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "rpc/error_codec.h"
#include "rpc/server.h"
#include "rpc/stream_session_testing.h"

namespace mi7 {

inline constexpr absl::Duration kSoon = absl::Seconds(20);
inline constexpr int kWatch = 0;
inline constexpr int kUpload = 1;
inline constexpr int kChat = 2;

// What ends the first call: a refusal, or an answer.
inline transport::OutgoingMessage Refusal(
    const absl::Status& status = absl::UnavailableError("it goes away"), bool refused = true) {
  transport::OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = transport::FrameType::kReturn;
  message->header.call_id = 0;
  EncodeError(status, refused, {}, *message);
  return message;
}

class StreamRepeatTest : public testing::Test {
 protected:
  using Reader = StreamReader<TestMessage>;
  using Writer = StreamWriter<TestMessage>;
  using Upload = ClientStream<TestMessage, TestMessage>;
  using Chat = BidiStream<TestMessage, TestMessage>;

  StreamRepeatTest() {
    auto config =
        std::make_shared<SessionConfig>(SessionConfig{SmallWindow(), nullptr, nullptr, {}});
    session_ = std::make_shared<Session>(connection_, std::weak_ptr<Session::Observer>(), config);
    connection_->Start(session_);
  }
  ~StreamRepeatTest() override {
    connection_->End();
    channel_->Close();
    // Handlers that wait are told.
    server_ = nullptr;
  }
  void StartServer(uint32_t window = kStreamWindow,
                   uint32_t message_bytes_max = Limits{}.message_bytes_max) {
    ServerOptions options;
    options.limits.stream_window_bytes = window;
    options.limits.message_bytes_max = message_bytes_max;
    server_ = *ServerBuilder().SetOptions(options).AddService(&service_).Listen(endpoint_).Start();
  }
  // Before the first call.
  void NewChannel(const ChannelOptions& options) {
    channel_->Close();
    channel_ = *Channel::Create(endpoint_, options);
  }
  static Limits SmallWindow() {
    Limits limits;
    limits.stream_window_bytes = kStreamWindow;
    return limits;
  }

  // Ends in time, whatever goes wrong.
  ClientCallRef NewCall(int method, CallOptions options = {}) {
    if (options.deadline.infinite()) options.deadline = Deadline::After(kSoon);
    return ClientCallRef(ClientCall::New(channel_, std::shared_ptr(session_), kStreamInfo,
                                         kStreamMethods[method], options,
                                         transport::NewHeapMessage(64)));
  }
  // What was sent up to the next call.
  void TakeCall() {
    transport::IncomingMessage sent;
    do {
      sent = connection_->TakeSent();
    } while (sent.header().type != transport::FrameType::kCall && connection_->sent_count() != 0);
    EXPECT_EQ(sent.header().type, transport::FrameType::kCall);
  }
  Reader BeginWatch(const CallOptions& options = {}, const std::string& key = "watch") {
    StreamRequest<TestMessage, TestMessage> request(NewCall(kWatch, options));
    request->setKey(key.c_str());
    Reader reader = request.Send();
    TakeCall();
    return reader;
  }
  Upload BeginUpload(const CallOptions& options = {}) {
    Upload upload(NewCall(kUpload, options));
    TakeCall();
    return upload;
  }
  Chat BeginChat(const CallOptions& options = {}) {
    Chat chat(NewCall(kChat, options));
    TakeCall();
    return chat;
  }
  static StreamDraft<TestMessage> Draft(Writer& writer, const std::string& key) {
    StreamDraft<TestMessage> draft = writer.NewMessage();
    draft->setKey(key.c_str());
    return draft;
  }
  static absl::Status Write(Writer& writer, const std::string& key) {
    return writer.Write(Draft(writer, key)).Wait();
  }
  // The next message; "end" for the end in order, or its status.
  static std::string Next(Reader& reader) {
    auto message = reader.Read().Wait();
    if (!message.ok()) return message.status().ToString();
    return *message ? std::string((*message)->getKey()) : "end";
  }
  bool AwaitHeld(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() == count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kSoon);
  }
  // Of the calls that the server has begun.
  std::vector<int> attempts() {
    absl::MutexLock lock(&mutex_);
    return attempts_;
  }

  Reply Handle(uint16_t method, ServerCall& call) {
    ServerContext& context = call.context();
    if (!call.OpenStream(kStreamMethods[method])) return NeedsStreams(kStreamMethods[method]);
    {
      absl::MutexLock lock(&mutex_);
      attempts_.push_back(context.attempt());
      if (holds_) {
        held_.push_back(context.Defer());
        held_contexts_.push_back(&context);
        return Reply::Later();
      }
    }
    if (method == kWatch)
      return Echo(call.Params<TestMessage>().getKey(), call.Writer<TestMessage>());
    if (method == kUpload) return Join(call.Reader<TestMessage>(), call);
    return EchoAll(call.Reader<TestMessage>(), call.Writer<TestMessage>());
  }
  static Reply Echo(std::string key, Writer writer) {
    for (int i = 0; i < 3; ++i) {
      StreamDraft<TestMessage> draft = Draft(writer, absl::StrCat(key, i));
      if (absl::Status sent = co_await writer.Write(std::move(draft)); !sent.ok()) co_return sent;
    }
    if (absl::StartsWith(key, "fail")) co_return absl::AbortedError("as asked");
    co_return absl::OkStatus();
  }
  // What came, in order, each with the size of what is not shown.
  static Reply Join(Reader reader, ServerCall& call) {
    std::string all;
    for (;;) {
      auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!*message) break;
      const std::string key((*message)->getKey());
      absl::StrAppend(&all, key.substr(0, 5), key.size() > 5 ? absl::StrCat(key.size()) : "", " ");
    }
    call.Results<TestMessage>().setKey(all.c_str());
    co_return absl::OkStatus();
  }
  static Reply EchoAll(Reader reader, Writer writer) {
    for (;;) {
      auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!*message) co_return absl::OkStatus();
      StreamDraft<TestMessage> draft = Draft(writer, std::string((*message)->getKey()));
      if (absl::Status sent = co_await writer.Write(std::move(draft)); !sent.ok()) co_return sent;
    }
  }

  static std::string NewEndpoint() {
    static std::atomic<int> count{0};
    return absl::StrCat("inproc:stream-repeats-", count++);
  }
  const std::string endpoint_ = NewEndpoint();
  std::shared_ptr<Channel> channel_ = *Channel::Create(endpoint_, {.limits = SmallWindow()});
  LambdaService service_{kStreamInfo, [this](uint64_t, uint16_t method, ServerCall& call) {
                           return Handle(method, call);
                         }};
  absl::Mutex mutex_;
  std::atomic<bool> holds_{false};
  std::vector<int> attempts_ ABSL_GUARDED_BY(mutex_);
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
  std::vector<ServerContext*> held_contexts_ ABSL_GUARDED_BY(mutex_);
  const std::shared_ptr<FakeConnection> connection_ =
      std::make_shared<FakeConnection>(SmallWindow());
  std::shared_ptr<Session> session_;
  std::unique_ptr<Server> server_;
};

}  // namespace mi7
