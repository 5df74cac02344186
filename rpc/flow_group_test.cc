// How the user of `-> stream` calls waits for them.

#include "rpc/flow_group.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "rpc/channel_fixture.h"
#include "rpc/flow_stub.h"
#include "rpc/task.h"
#include "rpc/turns.h"

namespace mi7 {
namespace {

using testing::HasSubstr;
using testing::Optional;
using transport::FrameType;

constexpr uint32_t kWindow = 1000;
// Of a call that fills the window; some small ones are below it.
constexpr size_t kAll = kWindow;

class FlowGroupTest : public ChannelTest {
 protected:
  void SetUp() override {
    ChannelTest::SetUp();
    Renew();
  }
  void Renew() {
    Make();
    Connect();
    group_ = FlowGroupRef(FlowGroup::New(kWindow));
  }
  FlowSending Pour(size_t bytes = 0) {
    FlowRequest<TestMessage> request(NewCall(), group_);
    request->setKey(std::string(bytes, 'x').c_str());
    return request.Send();
  }
  FlowSending Finish() { return FlowSending(group_, group_->Finish(), /*is_call=*/false); }
  // The calls with these ids, from 0 on.
  void AnswerAll(uint32_t count) {
    for (uint32_t id = 0; id < count; ++id) fakes_->last().Deliver(MakeReturn(id));
  }

  FlowGroupRef group_{FlowGroup::New(kWindow)};
};

Task<absl::Status> Await(FlowSending sending) { co_return co_await std::move(sending); }

auto IsSecondWait() {
  return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("a second wait"));
}

TEST_F(FlowGroupTest, OneCallIsWaitedForAtATime) {
  FlowSending first = Pour(), second = Pour(), third = Pour(), fourth = Pour(kAll);
  int told = 0;
  first.Then([&](const absl::Status& status) {
    EXPECT_THAT(status, IsOk());
    ++told;
  });
  std::optional<absl::Status> refused;
  second.Then([&](absl::Status status) { refused = std::move(status); });
  ASSERT_THAT(refused, Optional(IsSecondWait())) << "or the next one waits for ever";
  EXPECT_THAT(third.Wait(), IsSecondWait());
  EXPECT_THAT(BlockOn(Await(std::move(fourth))), IsSecondWait());
  EXPECT_EQ(told, 0);
  AnswerAll(4);
  EXPECT_EQ(told, 1);
  EXPECT_THAT(Finish().Wait(), IsOk());
}

// Who waits first is told when the callback that the thread is inside has returned.
TEST_F(FlowGroupTest, ACallThatMayBeFollowedIsWaitedForUntilThatIsTold) {
  FlowSending first = Pour(), second = Pour();
  int told = 0;
  std::optional<absl::Status> refused;
  {
    const Turns::Inside inside;
    first.Then([&](const absl::Status& status) {
      EXPECT_THAT(status, IsOk());
      ++told;
    });
    second.Then([&](absl::Status status) { refused = std::move(status); });
    EXPECT_EQ(told, 0);
    EXPECT_THAT(refused, Optional(IsSecondWait()));
  }
  EXPECT_EQ(told, 1);
  AnswerAll(2);
  EXPECT_THAT(Finish().Wait(), IsOk());
}

// The callback of a call that has failed at once waits for its turn.
TEST_F(FlowGroupTest, CallsThatFailAtOnceInACallbackAreFinishedThere) {
  channel_->Close();
  const Turns::Inside inside;
  static_cast<void>(Pour());
  EXPECT_THAT(Finish().Wait(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("channel is closed")));
}

// The thread that drives the connection of calls in flight would wait for itself, also when the
// channel uses that no more.
TEST_F(FlowGroupTest, NobodyWaitsInsideACallbackOfAConnectionThatTheChannelHasGivenUp) {
  const struct {
    const char* what;
    void (*give_up)(Channel&, FakeConnection&);
  } kWays[] = {
      {"it goes away",
       [](Channel&, FakeConnection& connection) {
         connection.Deliver(MakeControl(FrameType::kGoAway));
         connection.Deliver(MakeReturn(0));
       }},
      {"it is lost",
       [](Channel&, FakeConnection& connection) {
         connection.DeliverClosed(absl::UnavailableError("reset by peer"));
       }},
      {"it is closed",
       [](Channel& channel, FakeConnection& connection) {
         channel.Close();
         connection.Deliver(MakeReturn(0));
       }},
  };
  for (const auto& way : kWays) {
    SCOPED_TRACE(way.what);
    Renew();
    ClientCallRef other = NewCall();
    other->request().initRoot<TestMessage>();
    other->Start();
    std::optional<absl::Status> waited;
    PendingCall<TestMessage>(std::move(other)).Then([&](const auto&) {
      ASSERT_TRUE(channel_->InCallback());
      static_cast<void>(Pour());
      waited = Finish().Wait();
    });
    static_cast<void>(Pour());
    way.give_up(*channel_, fakes_->last());
    EXPECT_THAT(waited, Optional(StatusIs(absl::StatusCode::kFailedPrecondition,
                                          HasSubstr("would wait for itself"))));
    channel_->Close();
    fakes_->last().End();
    EXPECT_FALSE(channel_->InCallback());
  }
}

TEST(TurnsTest, WhoeverWaitsRunsWhatWaitsForItsTurn) {
  struct Counting : Turn {
    int ran = 0;
  };
  Counting first, second;
  first.run = second.run = [](Turn& self) { ++static_cast<Counting&>(self).ran; };
  const Turns::Inside inside;
  Turns::Run(first);
  EXPECT_EQ(first.ran, 0);
  {
    const Turns::Waiting waiting;
    EXPECT_EQ(first.ran, 1);
  }
  // It is still inside.
  Turns::Run(second);
  EXPECT_EQ(second.ran, 0);
}

}  // namespace
}  // namespace mi7
