// Calls that a server refuses, or that a lost connection had not sent: what has certainly not run
// is made once more.

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/badpeer/bad_server.h"

namespace mi7::badpeer {
namespace {

class RefusingServerTest : public BadServerTest {
 protected:
  // Refuses the call that comes, and answers the one that comes then, which must be the same.
  static testing::AssertionResult IsMadeOnceMore(RawPeer& server, Pending& call,
                                                 const std::string& text) {
    for (const bool again : {false, true}) {
      const std::optional<Received> attempt = server.ReadMessageOf(FrameType::kCall);
      if (!attempt) return testing::AssertionFailure() << "no call, again: " << again;
      if (attempt->text() != text) {  // which may be too long to be shown
        return testing::AssertionFailure() << "another text, of " << attempt->text().size();
      }
      const uint32_t id = attempt->header.call_id;
      server.Send(again ? Message(ReturnHeader(id), EchoBody()) : Refusal(id));
    }
    const EchoResult result = call.Wait();
    if (!result.ok()) return testing::AssertionFailure() << result.status();
    return testing::AssertionSuccess();
  }
};

TEST_F(RefusingServerTest, RefusedCallIsMadeOnceMore) {
  Pending call = Send("small");
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Refusal(TakeCall(server)));
  const std::optional<Received> again = server.ReadMessageOf(FrameType::kCall);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->text(), "small");
  server.Send(Message(ReturnHeader(again->header.call_id), EchoBody()));
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_F(RefusingServerTest, CallThatIsRefusedAgainAndAgainFailsAfterSoManyAttempts) {
  auto policy = std::make_shared<RetryPolicy>();
  policy->attempts_max = 4;
  policy->backoff.initial = absl::Milliseconds(1);
  Pending call = Send(channel_, "small", {.retry = policy});
  RawPeer server = listener_.AcceptGreeted();
  for (int i = 0; i < policy->attempts_max; ++i) {
    const std::optional<Received> attempt = server.ReadMessageOf(FrameType::kCall);
    ASSERT_TRUE(attempt);
    EXPECT_EQ(attempt->text(), "small") << i;
    server.Send(Refusal(attempt->header.call_id));
  }
  const EchoResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("(4 attempts)")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kRefused));
}

// Of several segments, because the first call of a method does not know yet how large it will be.
TEST_F(RefusingServerTest, RefusedCallWithARequestOfAnySizeIsMadeOnceMore) {
  std::string text(60'000, 'x');
  Pending first = Send(text);
  RawPeer server = listener_.AcceptGreeted();
  ASSERT_TRUE(IsMadeOnceMore(server, first, text));
  for (const size_t size : {8u, 60'000u, 100u << 10, 1u << 20, 16u << 20}) {
    SCOPED_TRACE(size);
    text.resize(size, 'y');
    Pending call = Send(text);
    ASSERT_TRUE(IsMadeOnceMore(server, call, text));
  }
}

TEST_F(RefusingServerTest, RefusedCallWhoseRequestIsNotKeptIsTheCallersToRepeat) {
  ChannelOptions options;
  options.retry.kept_request_bytes_max = 69'000;
  channel_ = *Channel::Create(listener_.endpoint(), options);
  Pending call = Send(std::string(70'000, 'x'));
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kRefused));
  const std::string smaller(68'000, 'x');
  Pending kept = Send(smaller);
  ASSERT_TRUE(IsMadeOnceMore(server, kept, smaller));
  // Also when it may not be repeated at all.
  Pending never = Send(channel_, "small", {.repeat = Repeat::kNever});
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(never.Wait(), OutcomeIs(CallOutcome::kRefused));
}

// Twice as large as what KeepsLittle keeps of all calls.
constexpr size_t kLarge = 1'000'000;
ChannelOptions KeepsLittle() {
  ChannelOptions options;
  options.retry.kept_bytes_max = 1'500'000;
  options.backoff.initial = options.backoff.max = absl::Milliseconds(1);
  return options;
}

TEST_F(RefusingServerTest, WhatAChannelKeepsOfAllCallsIsBounded) {
  channel_ = *Channel::Create(listener_.endpoint(), KeepsLittle());
  const std::string first_text(kLarge, 'a');
  Pending first = Send(first_text);
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t first_id = TakeCall(server);
  for (int i = 0; i < 2; ++i) {
    Pending second = Send(std::string(kLarge, 'b'));
    server.Send(Refusal(TakeCall(server)));
    const EchoResult result = second.Wait();
    EXPECT_THAT(result,
                StatusIs(absl::StatusCode::kUnavailable,
                         testing::HasSubstr(
                             "; its request was not kept to be repeated (ChannelOptions::retry, "
                             "kept_bytes_max); the call was refused and has not run")));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kRefused)) << "it is its caller's to repeat";
  }
  // Small ones are not counted.
  const std::string small(60'000, 's');
  Pending third = Send(small);
  ASSERT_TRUE(IsMadeOnceMore(server, third, small));
  // The first one is kept however often it is refused.
  server.Send(Refusal(first_id));
  ASSERT_TRUE(IsMadeOnceMore(server, first, first_text));
  const std::string last_text(kLarge, 'c');
  Pending last = Send(last_text);
  ASSERT_TRUE(IsMadeOnceMore(server, last, last_text)) << "there is room again";
}

TEST_F(RefusingServerTest, HoweverACallEndsItsRequestIsNotKeptAnyLonger) {
  channel_ = *Channel::Create(listener_.endpoint(), KeepsLittle());
  const std::string text(kLarge, 'x');
  Pending lost = Send(text);
  RawPeer server = listener_.AcceptGreeted();
  TakeCall(server);
  server.Reset();
  EXPECT_THAT(lost.Wait(), OutcomeIs(CallOutcome::kUnknown));

  Pending failed = Send(text);
  server = listener_.AcceptGreeted();
  FrameHeader failure = ReturnHeader(TakeCall(server));
  failure.code = static_cast<uint16_t>(absl::StatusCode::kNotFound);
  server.Send(Message(failure, Words{}));
  EXPECT_THAT(failed.Wait(), StatusIs(absl::StatusCode::kNotFound));

  Pending never = Send(channel_, text, {.repeat = Repeat::kNever});
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(never.Wait(), OutcomeIs(CallOutcome::kRefused));

  auto once = std::make_shared<RetryPolicy>();
  once->attempts_max = 2;
  Pending given_up = Send(channel_, text, {.retry = once});
  for (int i = 0; i < 2; ++i) server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(given_up.Wait(), OutcomeIs(CallOutcome::kRefused));

  // While it waits for its next attempt.
  auto patient = std::make_shared<RetryPolicy>();
  patient->backoff.initial = patient->backoff.max = absl::Hours(1);
  Pending waiting = Send(channel_, text, {.retry = patient});
  for (int i = 0; i < 2; ++i) server.Send(Refusal(TakeCall(server)));
  Pending dropped = Send(channel_, text, {.retry = patient});
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(dropped.Wait(), OutcomeIs(CallOutcome::kRefused)) << "there was no room for it";
  waiting.Cancel();
  EXPECT_THAT(waiting.Wait(), StatusIs(absl::StatusCode::kCancelled));

  Pending cancelled = Send(text);
  TakeCall(server);
  cancelled.Cancel();  // its handle stays

  Pending last = Send(text);
  ASSERT_TRUE(IsMadeOnceMore(server, last, text));
  EXPECT_THAT(cancelled.Wait(), StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(RefusingServerTest, ChannelThatKeepsNoRequestsRepeatsNone) {
  ChannelOptions options;
  options.retry.kept_request_bytes_max = 0;
  channel_ = *Channel::Create(listener_.endpoint(), options);
  Pending call = Send("small");
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kRefused));
}

TEST_F(RefusingServerTest, CallsThatALostConnectionDidNotSendGoToTheNext) {
  Pending first = Send();
  RawPeer server = listener_.AcceptGreeted(/*receive_buffer=*/4096);
  TakeCall(server);
  // What stops the small ones behind it: much more than the system takes.
  std::vector<Pending> large;
  for (int i = 0; i < 40; ++i) large.push_back(Send(std::string(1 << 20, 'x')));
  std::vector<Pending> small;
  for (int i = 0; i < 10; ++i) small.push_back(Send(absl::StrCat("small ", i)));
  server.Reset();
  RawPeer next = listener_.AcceptGreeted();
  std::thread answers([&next] {
    while (const std::optional<Received> call = next.ReadMessageOf(FrameType::kCall)) {
      const std::string text = call->text();
      EXPECT_TRUE(text.starts_with("small ") || text == std::string(1 << 20, 'x')) << text.size();
      next.Send(Message(ReturnHeader(call->header.call_id), EchoBody()));
    }
  });
  for (Pending& call : small) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_THAT(first.Wait(), OutcomeIs(CallOutcome::kUnknown));
  for (size_t i = 0; i < large.size(); ++i) {
    const EchoResult result = large[i].Wait();
    // The system may have taken some of the first ones.
    EXPECT_TRUE(result.ok() || (i < 20 && OutcomeOf(result.status()) == CallOutcome::kUnknown))
        << i << ": " << result.status();
  }
  channel_->Close();
  answers.join();
}

}  // namespace
}  // namespace mi7::badpeer
