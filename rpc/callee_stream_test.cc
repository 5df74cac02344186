// What the end of a stream that answers the call sends and accepts, frame by frame.

#include <optional>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/stream_session_testing.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;

TEST_F(StreamSessionTest, ACalleesStreamFrames) {
  Start();
  DeliverCall(7, 2);
  Handled& handled = handled_[0];
  ASSERT_THAT(handled.writer.Write(Draft(handled.writer)).Wait(), IsOk());
  const IncomingMessage message = connection_->TakeSent();
  EXPECT_EQ(message.header().type, FrameType::kStreamMessage);
  EXPECT_EQ(message.header().code, 1);
  EXPECT_EQ(message.header().call_id, 7u);
  EXPECT_THAT(transport::CheckFrameHeader(message.header(), {}), IsOk());
  handled.writer.Close();
  EXPECT_EQ(connection_->sent_count(), 0u) << "the return is its end";
  handled.later.Finish(absl::OkStatus());
  const IncomingMessage end = connection_->TakeSent();
  EXPECT_EQ(end.header().type, FrameType::kReturn);
  EXPECT_FALSE(end.has_body());
}

TEST_F(StreamSessionTest, ACalleeGrantsCreditAndHoldsItsPeerToIt) {
  Start();
  DeliverCall(7, 1);
  const uint32_t bytes = BytesOf(kStreamWindow / 2);
  connection_->Deliver(MakeStreamMessage(7, kOut, kStreamWindow / 2));
  ASSERT_TRUE(handled_[0].reader.TryRead());
  const IncomingMessage credit = connection_->TakeSent();
  EXPECT_EQ(credit.header().type, FrameType::kCredit);
  EXPECT_EQ(credit.header().code, static_cast<uint16_t>(kOut));
  EXPECT_EQ(credit.header().timeout, bytes);
  for (int i = 0; i < 2; ++i) connection_->Deliver(MakeStreamMessage(7, kOut, kStreamWindow / 2));
  EXPECT_TRUE(Open());
  connection_->Deliver(MakeStreamMessage(7, kOut));
  ExpectClosed("without credit");
}

TEST_F(StreamSessionTest, CreditBeyondTheCalleesWindowClosesTheConnection) {
  Start();
  DeliverCall(7, 0);
  connection_->Deliver(MakeCredit(7, kIn, 1));
  ExpectClosed("credit of 1 bytes on a stream makes 1001");
}

TEST_F(StreamSessionTest, MessagesAfterTheEndCloseTheConnection) {
  Start();
  DeliverCall(7, 1);
  connection_->Deliver(MakeControl(FrameType::kStreamEnd, 7));
  EXPECT_FALSE(*handled_[0].reader.Read().Wait());
  connection_->Deliver(MakeStreamMessage(7, kOut));
  ExpectClosed("stream message after the stream's end");
}

TEST_F(StreamSessionTest, ASecondEndClosesTheConnection) {
  Start();
  DeliverCall(7, 1);
  connection_->Deliver(MakeControl(FrameType::kStreamEnd, 7));
  connection_->Deliver(MakeControl(FrameType::kStreamEnd, 7));
  ExpectClosed("second end of a stream");
}

TEST_F(StreamSessionTest, FramesOfCallsThatAreOverOrUnaryAreDropped) {
  Start();
  DeliverCall(1, 3);
  DeliverCall(2, 0);
  DeliverCall(3, 1);
  handled_[1].later.Finish(absl::CancelledError());
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kReturn);
  for (int i = 0; i < 1000; ++i) {
    // Unknown, unary, a stream of results only, one that was answered.
    for (const uint32_t id : {99u, 1u, 2u, 3u}) {
      connection_->Deliver(MakeStreamMessage(id, kOut));
      connection_->Deliver(MakeControl(FrameType::kStreamEnd, id));
      if (id != 2) connection_->Deliver(MakeCredit(id, kIn, 1000));
    }
  }
  EXPECT_TRUE(Open());
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_FALSE(handled_[0].reader.TryRead());
}

TEST_F(StreamSessionTest, ACalleeSendsNothingAfterItsReturn) {
  Start();
  DeliverCall(7, 2);
  Handled& handled = handled_[0];
  connection_->Deliver(MakeStreamMessage(7, kOut, kStreamWindow));
  StreamDraft<TestMessage> draft = Draft(handled.writer);
  handled.later.Finish(absl::OkStatus());
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kReturn);
  EXPECT_THAT(handled.reader.Read().Wait(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(
      handled.writer.Write(std::move(draft)).Wait(),
      StatusIs(absl::StatusCode::kFailedPrecondition, "Base.chat: the call has been answered"));
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(StreamSessionTest, ACancelledCalleeHearsOfItAndStillAnswers) {
  Start();
  DeliverCall(7, 2);
  Handled& handled = handled_[0];
  absl::Status read;
  handled.reader.Read().Then([&](auto result) { read = result.status(); });
  connection_->Deliver(MakeControl(FrameType::kCancel, 7));
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kCancelled, "Base.chat: cancelled by the caller"));
  EXPECT_THAT(handled.writer.Write(Draft(handled.writer)).Wait(),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(connection_->sent_count(), 0u);
  handled.later.Finish(read);
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()), StatusIs(absl::StatusCode::kCancelled));
}

// Else a handler that reads on another thread could take what it was sent so far for all.
TEST_F(StreamSessionTest, WhatACalleesStreamDropsIsNotMissedBeforeItsEnd) {
  Start();
  DeliverCall(7, 1);
  std::optional<Reader::Result> read;
  WhenReleased released([&] { read = handled_[0].reader.TryRead(); });
  connection_->Deliver(released.StreamMessage(7, kOut));
  connection_->Deliver(MakeControl(FrameType::kCancel, 7));
  ASSERT_TRUE(read);
  EXPECT_THAT(*read, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(StreamSessionTest, ALoopOverMessagesWhereTheThreadMustNotWaitSaysSo) {
  absl::Status status;
  on_stream_ = [&](Reader reader, Writer) -> Reply {
    for (const auto& message : reader.Messages()) static_cast<void>(message);
    return status = reader.status();
  };
  Start();
  DeliverCall(7, 1);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Wait()")));
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(StreamSessionTest, TheFirstMessageWaitsForRoomUnlessTheAnswerFollows) {
  Start();
  connection_->SetRoom(false);
  DeliverCall(7, 0);
  bool written = false;
  handled_[0].writer.Write(Draft(handled_[0].writer)).Then([&](absl::Status) { written = true; });
  EXPECT_EQ(connection_->sent_count(), 0u);
  EXPECT_THAT(handled_[0].writer.Write(Draft(handled_[0].writer)).Wait(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("before the last")));
  handled_[0].later.Finish(absl::OkStatus());
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kStreamMessage);
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kReturn);
  EXPECT_TRUE(written);
}

TEST_F(StreamSessionTest, ARejectedMessageEndsTheCalleesReading) {
  Start();
  DeliverCall(7, 2);
  FrameHeader header;
  header.type = FrameType::kStreamMessage;
  header.call_id = 7;
  connection_->DeliverRejected(header, absl::ResourceExhaustedError("too large"));
  EXPECT_THAT(handled_[0].reader.Read().Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted, "too large"));
  EXPECT_THAT(handled_[0].writer.Write(Draft(handled_[0].writer)).Wait(), IsOk());
  EXPECT_TRUE(Open());
}

TEST_F(StreamSessionTest, AStreamingMethodNeedsACallerWithStreams) {
  connection_->SetFeatures(0);
  Start();
  DeliverCall(7, 2);
  EXPECT_THAT(ReturnStatus(connection_->TakeSent()),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "Base.chat is a stream, and the caller's mi7 knows no streams"));
}

}  // namespace
}  // namespace mi7
