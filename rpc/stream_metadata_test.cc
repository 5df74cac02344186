// The metadata of streams, frame by frame.

#include <memory>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/interceptor.h"
#include "rpc/metadata_codec.h"
#include "rpc/stream_session_testing.h"

namespace mi7 {
namespace {

using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

OutgoingMessage WithInitial(OutgoingMessage message, const char* key, const char* value) {
  ResponseMetadata metadata;
  metadata.initial.Add(key, value);
  EXPECT_THAT(EncodeResponseMetadata(metadata, {}, *message), IsOk());
  return message;
}

ResponseMetadata MetadataOf(const IncomingMessage& message) {
  ResponseMetadata metadata;
  EXPECT_THAT(DecodeResponseMetadata(message, {}, metadata), IsOk());
  return metadata;
}

class StreamMetadataTest : public StreamSessionTest {
 protected:
  Reader WatchTold() {
    CallOptions options;
    options.received = told_;
    StreamRequest<TestMessage, TestMessage> request(
        ClientCallRef(ClientCall::New(channel_, std::shared_ptr(session_), kStreamInfo,
                                      kStreamMethods[0], options, transport::NewHeapMessage(64))));
    Reader reader = request.Send();
    connection_->TakeSent();
    return reader;
  }
  // Delivers a call of watch, whose handler has initial metadata.
  Writer& DeliverWatch() {
    DeliverCall(7, 0);
    return handled_[0].writer;
  }
  void SetUp() override {
    on_open_ = [](ServerContext& context) { context.initial_metadata().Add("of", "handler"); };
  }

  const std::shared_ptr<ResponseMetadata> told_ = std::make_shared<ResponseMetadata>();
};

// The user may be reading them.
TEST_F(StreamMetadataTest, WhatTheFirstMessageToldIsNotChangedByLaterOnes) {
  Start();
  Reader reader = WatchTold();
  connection_->Deliver(WithInitial(MakeStreamMessage(0, kIn), "a", "1"));
  ASSERT_TRUE(reader.TryRead());
  EXPECT_EQ(told_->initial.Get("a"), "1");
  OutgoingMessage without_body = MakeControl(FrameType::kStreamMessage, 0);
  without_body->header.code = static_cast<uint16_t>(kIn);
  connection_->Deliver(WithInitial(std::move(without_body), "a", "2"));
  connection_->Deliver(WithInitial(MakeStreamMessage(0, kIn), "a", "3"));
  ASSERT_TRUE(reader.TryRead());
  connection_->Deliver(WithInitial(MakeControl(FrameType::kReturn, 0), "a", "4"));
  EXPECT_TRUE(reader.TryRead()->ok()) << "the end";
  EXPECT_EQ(told_->initial.Get("a"), "1");
  EXPECT_EQ(told_->initial.entries().size(), 1u);
}

TEST_F(StreamMetadataTest, AFirstMessageWithoutBodyTellsThemAtOnce) {
  Start();
  Reader reader = WatchTold();
  OutgoingMessage without_body = MakeControl(FrameType::kStreamMessage, 0);
  without_body->header.code = static_cast<uint16_t>(kIn);
  connection_->Deliver(WithInitial(std::move(without_body), "a", "1"));
  EXPECT_EQ(told_->initial.Get("a"), "1");
}

TEST_F(StreamMetadataTest, TheyGoWithTheFirstMessageThatIsSent) {
  Start();
  Writer& writer = DeliverWatch();
  connection_->FailSends(absl::ResourceExhaustedError("too large"));
  EXPECT_THAT(writer.Write(Draft(writer)).Wait(), StatusIs(absl::StatusCode::kResourceExhausted));
  connection_->FailSends(absl::OkStatus());
  EXPECT_THAT(writer.Write(Draft(writer)).Wait(), IsOk());
  EXPECT_EQ(MetadataOf(connection_->TakeSent()).initial.Get("of"), "handler");
  EXPECT_THAT(writer.Write(Draft(writer)).Wait(), IsOk());
  EXPECT_TRUE(MetadataOf(connection_->TakeSent()).initial.empty());
  handled_[0].later.Finish(absl::OkStatus());
  EXPECT_TRUE(MetadataOf(connection_->TakeSent()).initial.empty()) << "once";
}

TEST_F(StreamMetadataTest, TheyGoWithTheReturnOfAStreamWithoutMessages) {
  Start();
  Writer& writer = DeliverWatch();
  connection_->FailSends(absl::ResourceExhaustedError("too large"));
  EXPECT_FALSE(writer.Write(Draft(writer)).Wait().ok());
  connection_->FailSends(absl::OkStatus());
  handled_[0].later.Finish(absl::OkStatus());
  EXPECT_EQ(MetadataOf(connection_->TakeSent()).initial.Get("of"), "handler");
}

class Late final : public Interceptor {
  void OnEnd(InterceptedCall& call) override {
    call.response_metadata().initial.Add("late", "1");
    call.response_metadata().trailing.Add("cost", "7");
  }
};

TEST_F(StreamMetadataTest, WhatInterceptorsAddAtTheEndGoesWithTheReturnUnlessItIsInitial) {
  config_->interceptors = {std::make_shared<Late>()};
  Start();
  Writer& writer = DeliverWatch();
  EXPECT_THAT(writer.Write(Draft(writer)).Wait(), IsOk());
  EXPECT_EQ(MetadataOf(connection_->TakeSent()).initial.entries().size(), 1u);
  handled_[0].later.Finish(absl::OkStatus());
  const ResponseMetadata end = MetadataOf(connection_->TakeSent());
  EXPECT_TRUE(end.initial.empty());
  EXPECT_EQ(end.trailing.Get("cost"), "7");
}

class Answering final : public Interceptor {
  void OnStart(InterceptedCall& call) override { call.Answer<TestMessage>().setKey("x"); }
};

TEST_F(StreamMetadataTest, AnAnswerOfAnInterceptorEndsAStreamOfResultsWithoutABody) {
  config_->interceptors = {std::make_shared<Answering>()};
  Start();
  DeliverCall(7, 0);
  const IncomingMessage end = connection_->TakeSent();
  EXPECT_THAT(ReturnStatus(end), IsOk());
  EXPECT_FALSE(end.has_body());
}

}  // namespace
}  // namespace mi7
