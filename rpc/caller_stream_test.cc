// What the end of a stream that makes the call sends and accepts, frame by frame.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/call_outcome.h"
#include "rpc/stream_session_testing.h"

namespace mi7 {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

TEST_F(StreamSessionTest, ACallersStreamFrames) {
  Start();
  auto chat = Chat();
  ASSERT_THAT(chat.writer().Write(Draft(chat.writer())).Wait(), IsOk());
  const IncomingMessage message = connection_->TakeSent();
  EXPECT_EQ(message.header().type, FrameType::kStreamMessage);
  EXPECT_EQ(message.header().code, 0);
  EXPECT_EQ(message.header().call_id, 0u);
  EXPECT_EQ(KeyIn(message), "kkk");
  EXPECT_THAT(transport::CheckFrameHeader(message.header(), {}), IsOk());
  chat.writer().Close();
  chat.writer().Close();
  const IncomingMessage end = connection_->TakeSent();
  EXPECT_EQ(end.header().type, FrameType::kStreamEnd);
  EXPECT_THAT(transport::CheckFrameHeader(end.header(), {}), IsOk());
  EXPECT_EQ(connection_->sent_count(), 0u) << "one end";
}

TEST_F(StreamSessionTest, CreditIsGrantedWhenHalfAWindowWasTaken) {
  Start();
  Reader reader = Watch();
  const uint32_t bytes = BytesOf(3);
  uint32_t count = 0;
  for (; (count + 1) * bytes < kStreamWindow / 2; ++count) {
    connection_->Deliver(MakeStreamMessage(0, kIn));
    ASSERT_TRUE(reader.TryRead());
  }
  EXPECT_EQ(connection_->sent_count(), 0u);
  connection_->Deliver(MakeStreamMessage(0, kIn));
  EXPECT_EQ(connection_->sent_count(), 0u) << "not before it is taken";
  ASSERT_TRUE(reader.TryRead());
  const IncomingMessage credit = connection_->TakeSent();
  EXPECT_EQ(credit.header().type, FrameType::kCredit);
  EXPECT_EQ(credit.header().code, static_cast<uint16_t>(kIn));
  EXPECT_EQ(credit.header().timeout, (count + 1) * bytes);
  EXPECT_THAT(transport::CheckFrameHeader(credit.header(), {}), IsOk());
}

TEST_F(StreamSessionTest, MessagesBeyondTheCreditCloseTheConnection) {
  Start();
  Reader reader = Watch();
  const uint32_t fit = kStreamWindow / BytesOf(3);
  for (uint32_t i = 0; i <= fit; ++i) connection_->Deliver(MakeStreamMessage(0, kIn));
  EXPECT_TRUE(Open()) << "the last one began with credit left";
  connection_->Deliver(MakeStreamMessage(0, kIn));
  ExpectClosed("without credit; streamWindowBytes is 1000");
}

TEST_F(StreamSessionTest, AMessageLargerThanTheWindowNeedsAllOfIt) {
  Start();
  Reader reader = Watch();
  for (int i = 0; i < 3; ++i) {
    connection_->Deliver(MakeStreamMessage(0, kIn, 5000));
    ASSERT_TRUE(reader.TryRead());
    EXPECT_EQ(connection_->TakeSent().header().timeout, BytesOf(5000));
  }
  connection_->Deliver(MakeStreamMessage(0, kIn, 5000));
  EXPECT_TRUE(Open());
  connection_->Deliver(MakeStreamMessage(0, kIn));
  ExpectClosed("without credit");
}

TEST_F(StreamSessionTest, StreamMessagesForAUnaryCallFailThatCall) {
  Start();
  PendingCall<TestMessage> call = [&] {
    ClientCallRef ref = NewCall(3);
    ref->Start();
    return PendingCall<TestMessage>(std::move(ref));
  }();
  connection_->TakeSent();
  connection_->Deliver(MakeStreamMessage(0, kIn));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kInternal,
                                    AllOf(StartsWith("Base.ask: "), HasSubstr("schemas differ"))));
  EXPECT_TRUE(Open());
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
  connection_->Deliver(MakeStreamMessage(0, kIn));
  EXPECT_TRUE(Open()) << "of a call that was given up";
}

TEST_F(StreamSessionTest, StreamMessagesForAStreamOfParamsFailThatCall) {
  Start();
  auto upload = Upload();
  connection_->Deliver(MakeStreamMessage(0, kIn));
  EXPECT_THAT(upload.Finish().Wait(),
              StatusIs(absl::StatusCode::kInternal, StartsWith("Base.upload: ")));
  EXPECT_TRUE(Open());
}

TEST_F(StreamSessionTest, FramesForNoCallOfOursCloseTheConnection) {
  Start();
  connection_->Deliver(MakeStreamMessage(17, kIn));
  ExpectClosed("stream frame for call 17, which is not in flight");
}

TEST_F(StreamSessionTest, CreditForNoCallOfOursClosesTheConnection) {
  Start();
  connection_->Deliver(MakeCredit(17, kOut, 5));
  ExpectClosed("stream frame for call 17, which is not in flight");
}

TEST_F(StreamSessionTest, CreditForAUnaryCallClosesTheConnection) {
  Start();
  ClientCallRef call = NewCall(3);
  call->Start();
  connection_->Deliver(MakeCredit(0, kOut, 5));
  ExpectClosed("credit for call 0, which is no stream");
}

TEST_F(StreamSessionTest, CreditBeyondTheWindowClosesTheConnection) {
  Start();
  auto chat = Chat();
  const uint32_t bytes = BytesOf(3);
  ASSERT_THAT(chat.writer().Write(Draft(chat.writer())).Wait(), IsOk());
  connection_->Deliver(MakeCredit(0, kOut, bytes));
  EXPECT_TRUE(Open()) << "what was used";
  connection_->Deliver(MakeCredit(0, kOut, 1));
  ExpectClosed("credit of 1 bytes on a stream makes 1001, more than the streamWindowBytes");
}

TEST_F(StreamSessionTest, TheLargestCreditIsNoOverflow) {
  Start();
  auto chat = Chat();
  connection_->Deliver(MakeCredit(0, kOut, 0xffff'ffff));
  ExpectClosed("credit of 4294967295 bytes");
}

TEST_F(StreamSessionTest, WritersWaitForCreditAndCountWhatTravels) {
  Start();
  auto chat = Chat();
  const uint32_t bytes = BytesOf(3);
  uint32_t sent = 0;
  while (chat.writer().ready()) {
    auto writing = chat.writer().Write(Draft(chat.writer()));
    sent += connection_->TakeSent().header().size;
  }
  EXPECT_GE(sent, kStreamWindow);
  EXPECT_LT(sent, kStreamWindow + bytes);
  EXPECT_EQ(connection_->sent_count(), 0u);
  connection_->Deliver(MakeCredit(0, kOut, sent - kStreamWindow));
  EXPECT_FALSE(chat.writer().ready()) << "none is left";
  connection_->Deliver(MakeCredit(0, kOut, 1));
  EXPECT_TRUE(chat.writer().ready());
}

TEST_F(StreamSessionTest, WritersAndCreditWaitForRoom) {
  Start();
  auto chat = Chat();
  connection_->SetRoom(false);
  bool written = false;
  chat.writer().Write(Draft(chat.writer())).Then([&](absl::Status status) {
    EXPECT_THAT(status, IsOk());
    written = true;
  });
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kStreamMessage) << "one goes out";
  EXPECT_FALSE(written);
  connection_->Deliver(MakeStreamMessage(0, kIn, kStreamWindow));
  ASSERT_TRUE(chat.reader().TryRead());
  EXPECT_EQ(connection_->sent_count(), 0u) << "credit is due";
  EXPECT_FALSE(written);
  connection_->SetRoom(true);
  connection_->DeliverWritable();
  EXPECT_TRUE(written);
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCredit);
}

TEST_F(StreamSessionTest, StreamsAreToldOfRoomAsLongAsThereIsSome) {
  Start();
  connection_->SetRoom(false);
  constexpr int kChats = 10;
  std::vector<BidiStream<TestMessage, TestMessage>> chats;
  std::vector<int> order;
  for (int i = 0; i < kChats; ++i) {
    chats.push_back(Chat());
    auto& writer = chats.back().writer();
    writer.Write(Draft(writer)).Then([&order, i](absl::Status) { order.push_back(i); });
  }
  EXPECT_EQ(connection_->sent_count(), 0u) << "first messages wait, too";
  for (size_t sent = 1; sent <= kChats; ++sent) {
    connection_->DeliverWritable();
    EXPECT_EQ(connection_->sent_count(), sent) << "one, and there is no room again";
  }
  connection_->SetRoom(true);
  for (int i = 0; i < kChats; ++i) connection_->DeliverWritable();
  ASSERT_EQ(order.size(), size_t{kChats});
  for (int i = 0; i < kChats; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i) << "in turn";
  EXPECT_EQ(connection_->sent_count(), size_t{kChats});
}

TEST_F(StreamSessionTest, ACloseWhileTheFirstMessageWaitsForRoomFollowsIt) {
  Start();
  connection_->SetRoom(false);
  auto chat = Chat();
  chat.writer().Write(Draft(chat.writer())).Then([](absl::Status) {});
  chat.writer().Close();
  EXPECT_EQ(connection_->sent_count(), 0u);
  connection_->SetRoom(true);
  connection_->DeliverWritable();
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kStreamMessage);
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kStreamEnd);
}

TEST_F(StreamSessionTest, AWriteToALostConnectionEndsWithTheCall) {
  Start();
  auto chat = Chat();
  connection_->FailSends(absl::UnavailableError("connection is closed"));
  absl::Status written;
  chat.writer().Write(Draft(chat.writer())).Then([&](absl::Status status) { written = status; });
  EXPECT_THAT(written, IsOk()) << "not told yet";
  EXPECT_FALSE(chat.writer().ready());
  connection_->DeliverClosed(absl::UnavailableError("reset by peer"));
  EXPECT_THAT(written, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("reset by peer")));
  EXPECT_THAT(written, OutcomeIs(CallOutcome::kUnknown));
}

TEST_F(StreamSessionTest, AnAbandonedCallTellsItsWriter) {
  Start();
  auto upload = Upload();
  absl::Status written;
  const auto held = std::make_shared<int>(1);
  upload.Write(Draft(upload.writer(), 2 * kStreamWindow)).Then([&, held](absl::Status status) {
    written = status;
  });
  EXPECT_EQ(held.use_count(), 2) << "it waits for credit";
  // As when a coroutine that awaits Finish() is destroyed.
  { const auto dropped = upload.Finish(); }
  EXPECT_THAT(written, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(StreamSessionTest, ACallbackOutlivesItsReader) {
  Start();
  absl::Status read;
  {
    Reader reader = Watch();
    reader.Read().Then([&](auto result) { read = result.status(); });
  }
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(StreamSessionTest, AMalformedMessageEndsTheReadingOfACallThatEndedInOrder) {
  Start();
  Reader reader = Watch();
  FrameHeader header;
  header.type = FrameType::kStreamMessage;
  header.code = static_cast<uint16_t>(kIn);
  connection_->Deliver(MakeReceived(header, {0x0000000100000000, 0x0001000000000ff0}));
  connection_->Deliver(MakeStreamMessage(0, kIn));
  connection_->Deliver(MakeControl(FrameType::kReturn, 0));
  EXPECT_THAT(reader.TryRead()->status(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(reader.TryRead()->status(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(reader.status(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(StreamSessionTest, NothingIsSentForACallThatIsOver) {
  Start();
  auto chat = Chat();
  connection_->Deliver(MakeStreamMessage(0, kIn, kStreamWindow));
  StreamDraft<TestMessage> draft = Draft(chat.writer());
  OutgoingMessage end = MakeControl(FrameType::kReturn, 0);
  connection_->Deliver(std::move(end));
  EXPECT_THAT(chat.writer().Write(std::move(draft)).Wait(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       "Base.chat: the server has ended the stream with OK"));
  chat.writer().Close();
  ASSERT_TRUE(chat.reader().TryRead()) << "a message that came before";
  EXPECT_FALSE(*chat.reader().Read().Wait());
  EXPECT_EQ(connection_->sent_count(), 0u) << "no message, no end, no credit";
}

// Both ends': a message can be built on, in memory of the connection, when nothing else needs that.
TEST_F(StreamSessionTest, ADraftKeepsTheConnectionInWhoseMemoryItIsBuilt) {
  class Source final : public transport::SegmentSource {
   public:
    transport::FurtherSegments* NewFurtherSegments() override { return nullptr; }
  };
  Source source;
  connection_->SetSegmentSource(&source);
  Start();
  std::optional<StreamDraft<TestMessage>> drafts[2];
  DeliverCall(7, 2);
  drafts[0] = handled_[0].writer.NewMessage();
  handled_.clear();
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kReturn);
  {
    auto chat = Chat();
    drafts[1] = chat.writer().NewMessage();
  }
  connection_->DeliverClosed(absl::OkStatus());
  const std::weak_ptr<Session> session = std::exchange(session_, nullptr);
  drafts[0].reset();
  EXPECT_FALSE(session.expired());
  drafts[0] = std::exchange(drafts[1], std::nullopt);
  EXPECT_FALSE(session.expired());
  drafts[0].reset();
  EXPECT_TRUE(session.expired());
}

TEST_F(StreamSessionTest, ADraftKeepsNothingThatItDoesNotNeed) {
  Start();
  std::optional<StreamDraft<TestMessage>> draft;
  {
    auto chat = Chat();
    draft = chat.writer().NewMessage();
  }
  connection_->DeliverClosed(absl::OkStatus());
  const std::weak_ptr<Session> session = std::exchange(session_, nullptr);
  EXPECT_TRUE(session.expired());
}

TEST_F(StreamSessionTest, ACancelledStreamSaysSoOnceAndNothingMore) {
  Start();
  auto chat = Chat();
  connection_->Deliver(MakeStreamMessage(0, kIn, kStreamWindow));
  chat.Cancel();
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
  EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(chat.writer().Write(Draft(chat.writer())).Wait(),
              StatusIs(absl::StatusCode::kCancelled));
  connection_->Deliver(MakeStreamMessage(0, kIn));
  connection_->Deliver(MakeCredit(0, kOut, 100));
  EXPECT_TRUE(Open()) << "may have crossed the cancellation";
  connection_->Deliver(MakeReturn(0));
  EXPECT_EQ(connection_->sent_count(), 0u);
}

// Who was told that there is something finds it, or the end with its status: never nothing, which
// would be an end in order.
TEST_F(StreamSessionTest, WhatThereWasToReadStaysUntilItsCallHasEnded) {
  struct AtEnd final : Interceptor {
    void OnEnd(InterceptedCall&) override { run(); }
    std::function<void()> run;
  };
  Start();
  const auto at_end = std::make_shared<AtEnd>();
  const Interceptors interceptors = {at_end};
  ClientCallRef call = NewCall(0);
  call->Intercept(interceptors);
  Reader reader = StreamRequest<TestMessage, TestMessage>(std::move(call)).Send();
  for (int i = 0; i < 2; ++i) connection_->Deliver(MakeStreamMessage(0, kIn));
  int read = 0;
  at_end->run = [&] {
    const auto result = reader.TryRead();
    ASSERT_TRUE(result && result->ok());
    EXPECT_TRUE(**result);
    ++read;
  };
  reader.Cancel();
  EXPECT_EQ(read, 1);
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kCancelled))
      << "and the second one is dropped";
}

TEST_F(StreamSessionTest, WhatACallersStreamDropsIsNotMissedBeforeItsEnd) {
  Start();
  Reader reader = Watch();
  std::optional<Reader::Result> read;
  WhenReleased released([&] { read = reader.TryRead(); });
  connection_->Deliver(released.StreamMessage(0, kIn));
  reader.Cancel();
  ASSERT_TRUE(read);
  EXPECT_THAT(*read, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(StreamSessionTest, AMessageThatCannotBeDeliveredFailsItsStreamOnly) {
  Start();
  Reader reader = Watch();
  FrameHeader header;
  header.type = FrameType::kStreamMessage;
  header.code = static_cast<uint16_t>(kIn);
  connection_->DeliverRejected(header, absl::ResourceExhaustedError("too large"));
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kResourceExhausted,
                                             "Base.watch: stream message: too large"));
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
  EXPECT_TRUE(Open());
}

TEST_F(StreamSessionTest, AMalformedRootFailsItsStream) {
  Start();
  Reader reader = Watch();
  FrameHeader header;
  header.type = FrameType::kStreamMessage;
  header.code = static_cast<uint16_t>(kIn);
  // A root pointer that leads beyond the segment.
  connection_->Deliver(MakeReceived(header, {0x0000000100000000, 0x0001000000000ff0}));
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kInternal, HasSubstr("malformed")));
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kInternal)) << "to stay";
  EXPECT_EQ(connection_->TakeSent().header().type, FrameType::kCancel);
}

TEST_F(StreamSessionTest, AStreamOfResultsEndsWithoutABodyAndOneOfParamsNeedsOne) {
  Start();
  Reader reader = Watch();
  connection_->Deliver(MakeControl(FrameType::kReturn, 0));
  EXPECT_FALSE(*reader.Read().Wait());
  auto upload = Upload();
  connection_->Deliver(MakeControl(FrameType::kReturn, 0));
  EXPECT_THAT(upload.Finish().Wait(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(StreamSessionTest, APeerWithoutStreamsIsNotSentAny) {
  connection_->SetFeatures(0);
  Start();
  ClientStream<TestMessage, TestMessage> upload(NewCall(1));
  EXPECT_THAT(upload.Write(Draft(upload.writer())).Wait(),
              StatusIs(absl::StatusCode::kUnimplemented));
  const auto response = upload.Finish().Wait();
  EXPECT_THAT(response, StatusIs(absl::StatusCode::kUnimplemented,
                                 HasSubstr("Base.upload: the server's mi7 knows no streams")));
  EXPECT_THAT(response, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_EQ(connection_->sent_count(), 0u);
}

TEST_F(StreamSessionTest, StreamFramesWithoutTheFeatureCloseTheConnection) {
  connection_->SetFeatures(0);
  Start();
  connection_->Deliver(MakeStreamMessage(0, kOut));
  ExpectClosed("message of type 9 after the handshake");
}

}  // namespace
}  // namespace mi7
