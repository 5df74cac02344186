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

}  // namespace
}  // namespace mi7
