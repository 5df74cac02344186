// Which streams are made again: what a server that went away had said of them, and what is kept of
// them.

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/call_outcome.h"
#include "rpc/go_away.h"
#include "rpc/stream_repeat_testing.h"

namespace mi7 {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(StreamRepeatTest, AStreamThatADrainingServerHasNotNamedIsMadeAgainWhenItDies) {
  StartServer();
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(NewGoAway({}));
  connection_->End();
  chat.writer().Close();
  EXPECT_EQ(Next(chat.reader()), "one");
  EXPECT_EQ(Next(chat.reader()), "end");
  EXPECT_THAT(attempts(), ElementsAre(2));
}

TEST_F(StreamRepeatTest, AStreamThatItHasNamedMayHaveRun) {
  StartServer();
  Reader reader = BeginWatch();
  connection_->Deliver(NewGoAway(std::vector<uint32_t>{0}));
  connection_->End();
  EXPECT_EQ(OutcomeOf(reader.Read().Wait().status()), CallOutcome::kUnknown);
  EXPECT_THAT(attempts(), IsEmpty());
}

TEST_F(StreamRepeatTest, AChannelThatKeepsNothingMakesNoStreamAgainThatWasSent) {
  NewChannel({.limits = SmallWindow(), .retry = {.kept_request_bytes_max = 0}});
  StartServer();
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(Refusal());
  const absl::Status end = chat.reader().Read().Wait().status();
  EXPECT_EQ(OutcomeOf(end), CallOutcome::kRefused) << end;
  EXPECT_THAT(attempts(), IsEmpty());
}

// What a channel keeps of large requests has a bound for all of them.
TEST_F(StreamRepeatTest, OfAStreamThatHasBegunAndFailedNothingIsKept) {
  NewChannel({.limits = SmallWindow(), .retry = {.kept_bytes_max = 250'000}});
  StartServer();
  for (int i = 0; i < 4; ++i) {
    Reader reader = BeginWatch({}, "fail" + std::string(100'000, 'x'));
    connection_->Deliver(Refusal());
    for (int message = 0; message < 3; ++message) {
      ASSERT_THAT(reader.Read().Wait(), IsOk()) << i;
    }
    EXPECT_THAT(reader.Read().Wait(), StatusIs(absl::StatusCode::kAborted, HasSubstr("as asked")));
  }
  EXPECT_THAT(attempts(), ElementsAre(2, 2, 2, 2));
}

// Its writer has been told that it was sent.
TEST_F(StreamRepeatTest, AStreamWithAMessageThatTheNextServerDoesNotAdmitEndsAsUnknown) {
  StartServer(kStreamWindow, /*message_bytes_max=*/20'000);
  Chat chat = BeginChat();
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  auto large = chat.writer().Write(Draft(chat.writer(), std::string(25'000, 'x')));
  connection_->Deliver(Refusal());
  const auto is_the_end =
      AllOf(StatusIs(absl::StatusCode::kResourceExhausted,
                     HasSubstr("stream message, in a further attempt: message of 25")),
            OutcomeIs(CallOutcome::kUnknown));
  EXPECT_THAT(large.Wait(), is_the_end);
  EXPECT_THAT(Write(chat.writer(), "three"), is_the_end);
  // What the handler had answered before may have come.
  absl::Status end;
  while (end.ok()) end = chat.reader().Read().Wait().status();
  EXPECT_THAT(end, is_the_end);
}

// One that waits to be sent is told of as ever.
TEST_F(StreamRepeatTest, AMessageThatIsWrittenInBetweenAndTheNextServerDoesNotAdmitIsLeftOut) {
  Chat chat = BeginChat({.wait_for_ready = true});
  EXPECT_THAT(Write(chat.writer(), "one"), IsOk());
  connection_->Deliver(Refusal());  // nobody listens
  auto large = chat.writer().Write(Draft(chat.writer(), std::string(25'000, 'x')));
  StartServer(kStreamWindow, /*message_bytes_max=*/20'000);
  EXPECT_THAT(large.Wait(), StatusIs(absl::StatusCode::kResourceExhausted,
                                     HasSubstr("exceeds limits.message_bytes_max, 20000")));
  EXPECT_THAT(Write(chat.writer(), "three"), IsOk());
  chat.writer().Close();
  EXPECT_EQ(Next(chat.reader()), "one");
  EXPECT_EQ(Next(chat.reader()), "three");
  EXPECT_EQ(Next(chat.reader()), "end");
}

}  // namespace
}  // namespace mi7
