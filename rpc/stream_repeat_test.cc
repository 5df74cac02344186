// Streams that are made again by themselves, and those that are not.

#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "rpc/call_outcome.h"
#include "rpc/retry_info.h"
#include "rpc/stream_repeat_testing.h"
#include "rpc/task.h"

namespace mi7 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using transport::FrameType;

TEST_F(StreamRepeatTest, ARefusedStreamOfResultsIsMadeAgain) {
  StartServer();
  Reader reader = BeginWatch();
  connection_->Deliver(Refusal());
  EXPECT_EQ(Next(reader), "watch0");
  EXPECT_EQ(Next(reader), "watch1");
  EXPECT_EQ(Next(reader), "watch2");
  EXPECT_EQ(Next(reader), "end");
  EXPECT_THAT(attempts(), ElementsAre(2));
}

TEST_F(StreamRepeatTest, WhatWasWrittenBeforeTheRefusalIsSentAgainOnceAndInOrder) {
  StartServer();
  Upload upload = BeginUpload();
  EXPECT_THAT(Write(upload.writer(), "one"), IsOk());
  EXPECT_THAT(Write(upload.writer(), "two"), IsOk());
  // Larger than what is copied; it takes all of the window, and more.
  auto large = upload.Write(Draft(upload.writer(), "large" + std::string(20'000, 'x')));
  connection_->Deliver(Refusal());
  EXPECT_THAT(large.Wait(), IsOk());
  EXPECT_THAT(Write(upload.writer(), "three"), IsOk());
  auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(std::string(response->getKey()), "one two large20005 three ");
  EXPECT_THAT(attempts(), ElementsAre(2));
}

TEST_F(StreamRepeatTest, AHalfCloseBeforeTheRefusalIsSentAgain) {
  StartServer();
  Upload upload = BeginUpload();
  EXPECT_THAT(Write(upload.writer(), "one"), IsOk());
  auto pending = upload.Finish();
  connection_->Deliver(Refusal());
  auto response = std::move(pending).Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(std::string(response->getKey()), "one ");
}

TEST_F(StreamRepeatTest, WhatIsWrittenWhileThereIsNoConnectionFollows) {
  Chat chat = BeginChat({.wait_for_ready = true});
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(Refusal());  // nobody listens
  auto early = chat.writer().Write(Draft(chat.writer(), "two"));
  EXPECT_FALSE(chat.writer().ready());
  StartServer();
  EXPECT_THAT(early.Wait(), IsOk());
  chat.writer().Close();
  EXPECT_EQ(Next(chat.reader()), "one");
  EXPECT_EQ(Next(chat.reader()), "two");
  EXPECT_EQ(Next(chat.reader()), "end");
}

TEST_F(StreamRepeatTest, AHalfCloseWhileThereIsNoConnectionFollows) {
  Upload upload = BeginUpload({.wait_for_ready = true});
  EXPECT_THAT(Write(upload.writer(), "one"), IsOk());
  connection_->Deliver(Refusal());
  auto pending = upload.Finish();
  StartServer();
  auto response = std::move(pending).Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(std::string(response->getKey()), "one ");
}

TEST_F(StreamRepeatTest, AServerThatGrantsLessGetsAllOfItInTheEnd) {
  StartServer(/*window=*/100);
  Upload upload = BeginUpload();
  std::string all;
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(Write(upload.writer(), absl::StrCat(i)), IsOk());
    absl::StrAppend(&all, i, " ");
  }
  auto pending = upload.Finish();
  connection_->Deliver(Refusal());
  auto response = std::move(pending).Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(std::string(response->getKey()), all);
}

TEST_F(StreamRepeatTest, NoMoreIsSentAgainThanTheNextServerGrants) {
  holds_ = true;
  StartServer(/*window=*/100);
  Upload upload = BeginUpload();
  for (int i = 0; i < 10; ++i) EXPECT_THAT(Write(upload.writer(), absl::StrCat(i)), IsOk());
  connection_->Deliver(Refusal());
  ASSERT_TRUE(AwaitHeld(1));
  // What comes after it on the same connection, which would be closed.
  holds_ = false;
  Reader reader = BeginWatch();
  connection_->Deliver(Refusal());
  EXPECT_EQ(Next(reader), "watch0");
  upload.Cancel();
  EXPECT_THAT(upload.Finish().Wait(), StatusIs(absl::StatusCode::kCancelled));
  absl::MutexLock lock(&mutex_);
  held_[0].Finish(absl::OkStatus());
}

TEST_F(StreamRepeatTest, ThreadsCallbacksAndCoroutinesWaitOn) {
  StartServer();
  Reader blocking = BeginWatch();
  absl::Notification waits;
  std::string read;
  std::thread thread([&] {
    waits.Notify();
    read = Next(blocking);
  });
  waits.WaitForNotification();
  connection_->Deliver(Refusal());
  thread.join();
  EXPECT_EQ(read, "watch0");

  Reader called_back = BeginWatch();
  absl::Notification called;
  called_back.Read().Then([&](Reader::Result message) {
    ASSERT_THAT(message, IsOk());
    read = std::string((**message).getKey());
    called.Notify();
  });
  connection_->Deliver(Refusal());
  ASSERT_TRUE(called.WaitForNotificationWithTimeout(kSoon));
  EXPECT_EQ(read, "watch0");

  Chat chat = BeginChat();
  absl::Notification begun;
  std::thread coroutine([&] {
    read = BlockOn([](Chat& own, absl::Notification& written) -> Task<std::string> {
      StreamDraft<TestMessage> draft = Draft(own.writer(), "said");
      if (!(co_await own.writer().Write(std::move(draft))).ok()) co_return "not written";
      written.Notify();
      auto message = co_await own.reader().Read();
      if (!message.ok()) co_return message.status().ToString();
      co_return std::string((*message)->getKey());
    }(chat, begun));
  });
  ASSERT_TRUE(begun.WaitForNotificationWithTimeout(kSoon));
  connection_->Deliver(Refusal());
  coroutine.join();
  EXPECT_EQ(read, "said");
}

TEST_F(StreamRepeatTest, AWriterThatWaitsForCreditGoesOnWithThatOfTheNextServer) {
  StartServer();
  Upload upload = BeginUpload();
  absl::Notification written;
  upload.Write(Draft(upload.writer(), "large" + std::string(2'000, 'x'))).Then([&](absl::Status s) {
    EXPECT_THAT(s, IsOk());
    written.Notify();
  });
  EXPECT_FALSE(written.HasBeenNotified());
  connection_->Deliver(Refusal());
  EXPECT_TRUE(written.WaitForNotificationWithTimeout(kSoon));
  EXPECT_THAT(upload.Finish().Wait(), IsOk());
}

TEST_F(StreamRepeatTest, AStreamThatWasNotSentIsMadeAgain) {
  StartServer();
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  transport::FrameHeader header;
  header.type = FrameType::kCall;
  header.call_id = 0;
  connection_->DeliverUnsent(header);
  EXPECT_EQ(Next(chat.reader()), "one");
  EXPECT_THAT(attempts(), ElementsAre(2));
}

TEST_F(StreamRepeatTest, AStreamWhoseConnectionTakesNothingIsMadeAgain) {
  StartServer();
  connection_->FailSends(absl::UnavailableError("lost"));
  Chat chat(NewCall(kChat));
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  EXPECT_EQ(Next(chat.reader()), "one");
  EXPECT_THAT(attempts(), ElementsAre(2));
}

TEST_F(StreamRepeatTest, AStreamThatMayHaveRunIsNotMadeAgain) {
  StartServer();
  Reader reader = BeginWatch();
  connection_->End();
  const absl::Status end = reader.Read().Wait().status();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable, Not(HasSubstr("attempts"))));
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kUnknown);
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, AnAnswerIsFinalWhateverTheOptionsSay) {
  StartServer();
  Reader reader = BeginWatch({.repeat = Repeat::kIdempotent});
  connection_->Deliver(Refusal(absl::UnavailableError("busy"), /*refused=*/false));
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kUnavailable, "busy"));
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, ARefusedStreamIsMadeAgainWhateverElseTheOptionsSay) {
  StartServer();
  Reader reader = BeginWatch({.repeat = Repeat::kIdempotent});
  connection_->Deliver(Refusal());
  EXPECT_EQ(Next(reader), "watch0");
}

// What it was told on the connection before, whose peer had granted more.
TEST_F(StreamRepeatTest, AWriterThatWasToldToGoOnMayWrite) {
  holds_ = true;
  StartServer(/*window=*/100);
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  EXPECT_THAT(Write(chat.writer(), "two"), IsOk());
  ASSERT_TRUE(chat.writer().ready());
  connection_->Deliver(Refusal());
  ASSERT_TRUE(AwaitHeld(1));
  EXPECT_FALSE(chat.writer().ready()) << "none of it is read";
  absl::Notification written;
  chat.writer().Write(Draft(chat.writer(), "three")).Then([&](absl::Status s) {
    EXPECT_THAT(s, StatusIs(absl::StatusCode::kCancelled)) << "it waited";
    written.Notify();
  });
  EXPECT_FALSE(written.HasBeenNotified());
  chat.Cancel();
  EXPECT_TRUE(written.HasBeenNotified());
  absl::MutexLock lock(&mutex_);
  held_[0].Finish(absl::OkStatus());
}

TEST_F(StreamRepeatTest, AStreamThatIsNotToBeRepeatedIsNot) {
  StartServer();
  Reader reader = BeginWatch({.repeat = Repeat::kNever});
  connection_->Deliver(Refusal());
  const absl::Status end = reader.Read().Wait().status();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable, Not(HasSubstr("attempts"))));
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kRefused);
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, ARefusalForWhatTheCallIsIsFinal) {
  StartServer();
  Reader reader = BeginWatch();
  connection_->Deliver(Refusal(absl::ResourceExhaustedError("too large")));
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(attempts(), IsEmpty());
}

// A server that shows signs of having begun the call, and then says that it has not, is not
// believed.
TEST_F(StreamRepeatTest, AStreamIsNotMadeAgainAfterAMessage) {
  StartServer();
  Reader reader = BeginWatch();
  connection_->Deliver(MakeStreamMessage(0, kIn));
  connection_->Deliver(Refusal());
  EXPECT_EQ(Next(reader), "kkk");
  EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, AStreamIsNotMadeAgainAfterACredit) {
  StartServer();
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(MakeCredit(0, kOut, 10));
  connection_->Deliver(Refusal());
  EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, AStreamIsNotMadeAgainThatWasNotSentAndGotAMessage) {
  StartServer();
  connection_->DoAtNextSend([this]() -> absl::Status {
    connection_->Deliver(MakeStreamMessage(0, kIn));
    return absl::UnavailableError("lost");
  });
  Chat chat(NewCall(kChat));
  EXPECT_EQ(Next(chat.reader()), "kkk");
  const absl::Status end = chat.reader().Read().Wait().status();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kNotSent);
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, AttemptsAreCountedAndLimited) {
  auto policy = std::make_shared<RetryPolicy>();
  policy->attempts_max = 1;
  Reader once = BeginWatch({.retry = policy});
  connection_->Deliver(Refusal());
  EXPECT_THAT(once.Read().Wait(),
              StatusIs(absl::StatusCode::kUnavailable, Not(HasSubstr("attempts"))));
  // Nobody listens, so the second attempt is not sent.
  Reader twice = BeginWatch();
  connection_->Deliver(Refusal());
  const absl::Status end = twice.Read().Wait().status();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("(2 attempts)")));
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kNotSent);
}

TEST_F(StreamRepeatTest, CancellationBetweenTwoAttemptsEndsTheStream) {
  StartServer();
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(
      Refusal(WithRetryAfter(absl::UnavailableError("busy"), absl::Milliseconds(100))));
  chat.Cancel();
  const absl::Status end = chat.reader().Read().Wait().status();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kNotSent) << "it was refused";
  EXPECT_THAT(Write(chat.writer(), "two"), StatusIs(absl::StatusCode::kCancelled));
  // By when the next attempt would have come, and another stream is answered.
  Chat other = BeginChat();
  connection_->Deliver(
      Refusal(WithRetryAfter(absl::UnavailableError("busy"), absl::Milliseconds(100))));
  EXPECT_THAT(Write(other.writer(), "other"), IsOk());
  EXPECT_EQ(Next(other.reader()), "other");
  EXPECT_THAT(attempts(), ElementsAre(2)) << "of the other one";
}

TEST_F(StreamRepeatTest, ADeadlineBeforeTheNextAttemptIsConnectedEndsTheStream) {
  Chat chat =
      BeginChat({.deadline = Deadline::After(absl::Milliseconds(50)), .wait_for_ready = true});
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(Refusal());
  EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, TheServerOfTheNextAttemptIsToldOfACancellation) {
  holds_ = true;
  StartServer();
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(Refusal());
  ASSERT_TRUE(AwaitHeld(1));
  absl::Notification told;
  DeferredCall held;
  std::stop_token token;
  {
    absl::MutexLock lock(&mutex_);
    token = held_contexts_[0]->stop_token();
    held = std::move(held_[0]);
  }
  {
    const std::stop_callback on_stop(token, [&] { told.Notify(); });
    chat.Cancel();
    EXPECT_TRUE(told.WaitForNotificationWithTimeout(kSoon));
  }
  const absl::Status end = chat.reader().Read().Wait().status();
  EXPECT_THAT(end, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kUnknown);
  held.Finish(absl::OkStatus());
}

TEST_F(StreamRepeatTest, TheServerOfTheNextAttemptIsToldOfTheDeadline) {
  holds_ = true;
  StartServer();
  Chat chat = BeginChat({.deadline = Deadline::After(absl::Milliseconds(300))});
  connection_->Deliver(Refusal());
  EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < held_.size(); ++i) {
    EXPECT_FALSE(held_contexts_[i]->deadline().infinite());
    held_[i].Finish(absl::OkStatus());
  }
}

TEST_F(StreamRepeatTest, AChannelThatIsClosedEndsTheNextAttempt) {
  Reader reader = BeginWatch({.wait_for_ready = true});
  connection_->Deliver(Refusal());
  channel_->Close();
  EXPECT_THAT(reader.Read().Wait(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("channel was closed")));
}

TEST_F(StreamRepeatTest, WhoWaitedForRoomGoesOnAtTheNextConnection) {
  StartServer();
  Chat first = BeginChat();
  connection_->SetRoom(false);
  absl::Notification written;
  first.writer().Write(Draft(first.writer(), "one")).Then([&](absl::Status s) {
    EXPECT_THAT(s, IsOk());
    written.Notify();
  });
  EXPECT_FALSE(written.HasBeenNotified());
  // Another one waits in the same list, behind it.
  ClientCallRef other_call = NewCall(kChat);
  Chat other(std::move(other_call));
  absl::Notification other_written;
  other.writer().Write(Draft(other.writer(), "other")).Then([&](absl::Status s) {
    EXPECT_THAT(s, IsOk());
    other_written.Notify();
  });
  connection_->Deliver(Refusal());
  EXPECT_EQ(Next(first.reader()), "one");
  EXPECT_TRUE(written.WaitForNotificationWithTimeout(kSoon));
  EXPECT_FALSE(other_written.HasBeenNotified());
  connection_->SetRoom(true);
  connection_->DeliverWritable();
  EXPECT_TRUE(other_written.HasBeenNotified());
}

TEST_F(StreamRepeatTest, WritersAndRefusalsRace) {
  StartServer();
  for (int i = 0; i < 300; ++i) {
    Upload upload = BeginUpload();
    std::string all;
    std::thread refuses([&] {
      for (int j = 0; j < i % 40; ++j) std::this_thread::yield();
      connection_->Deliver(Refusal());
    });
    for (int number = 0; number < 60; ++number) {
      if (absl::Status sent = Write(upload.writer(), absl::StrCat(number)); !sent.ok()) {
        ADD_FAILURE() << number << ": " << sent;
        break;
      }
      absl::StrAppend(&all, number, " ");
    }
    auto response = upload.Finish().Wait();
    refuses.join();
    ASSERT_THAT(response, IsOk());
    ASSERT_EQ(std::string(response->getKey()), all);
  }
}

TEST_F(StreamRepeatTest, CancellationsAndRefusalsRace) {
  StartServer();
  for (int i = 0; i < 300; ++i) {
    Chat chat = BeginChat();
    std::thread refuses([&] {
      for (int j = 0; j < i % 7; ++j) std::this_thread::yield();
      connection_->Deliver(Refusal());
    });
    EXPECT_TRUE(Write(chat.writer(), "one").ok());
    for (int j = 0; j < i % 40; ++j) std::this_thread::yield();
    chat.Cancel();
    refuses.join();
    auto message = chat.reader().Read().Wait();
    EXPECT_TRUE(absl::IsCancelled(message.status()) || message.ok()) << message.status();
  }
}

}  // namespace
}  // namespace mi7
