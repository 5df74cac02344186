// Calls that a server refuses, or that a lost connection had not sent: what has certainly not run
// is made once more.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/badpeer/bad_server.h"

namespace mi7::badpeer {
namespace {

class RefusingServerTest : public BadServerTest {};

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
TEST_F(RefusingServerTest, RefusedCallWithARequestOfSomeSizeIsMadeOnceMore) {
  const std::string text(60'000, 'x');
  Pending call = Send(text);
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Refusal(TakeCall(server)));
  const std::optional<Received> again = server.ReadMessageOf(FrameType::kCall);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->text(), text);
  server.Send(Message(ReturnHeader(again->header.call_id), EchoBody()));
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_F(RefusingServerTest, RefusedCallWhoseRequestIsNotKeptIsTheCallersToRepeat) {
  Pending call = Send(std::string(70'000, 'x'));
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(call.Wait(), OutcomeIs(CallOutcome::kRefused));
  // Also when it may not be repeated at all.
  Pending never = Send(channel_, "small", {.repeat = Repeat::kNever});
  server.Send(Refusal(TakeCall(server)));
  EXPECT_THAT(never.Wait(), OutcomeIs(CallOutcome::kRefused));
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
  for (int i = 0; i < 10; ++i) {
    const std::optional<Received> call = next.ReadMessageOf(FrameType::kCall);
    ASSERT_TRUE(call);
    EXPECT_THAT(call->text(), StartsWith("small "));
    next.Send(Message(ReturnHeader(call->header.call_id), EchoBody()));
  }
  for (Pending& call : small) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_THAT(first.Wait(), OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(large.back().Wait(), OutcomeIs(CallOutcome::kNotSent));
}

}  // namespace
}  // namespace mi7::badpeer
