// Timeouts that the call does not bring itself: the method's and the channel's.

#include <cstdint>

#include "rpc/task.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

// Of Probe.remaining.
constexpr int64_t kMethodMs = 100'000;
constexpr int64_t kEndless = -1;

// The time left of `ms` when little of it was used.
testing::Matcher<int64_t> AboutMs(int64_t ms) {
  return testing::AllOf(testing::Gt(ms / 2), testing::Le(ms));
}

TEST_P(CallTest, MethodsTimeoutIsThatOfItsCalls) {
  Start();
  const auto response = stub().Remaining().Send().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(response->getMs(), AboutMs(kMethodMs));
}

TEST_P(CallTest, CallsDeadlineGoesBeforeTheMethodsTimeout) {
  Start();
  for (const int64_t ms : {50'000, 5'000'000}) {
    const CallOptions options = {.deadline = Deadline::After(absl::Milliseconds(ms))};
    const auto response = stub().Remaining(options).Send().Wait();
    ASSERT_THAT(response, IsOk());
    EXPECT_THAT(response->getMs(), AboutMs(ms));
  }
}

TEST_P(CallTest, ChannelsDefaultTimeoutIsThatOfCallsWithoutAnother) {
  ChannelOptions options;
  options.default_timeout = absl::Milliseconds(20);
  Start({}, options);
  EXPECT_THAT(SendHold(1).Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  const CallOptions longer = {.deadline = Deadline::After(kSoon)};
  EXPECT_THAT(EchoText("x", longer), IsOk());
  const auto of_method = stub().Remaining().Send().Wait();
  ASSERT_THAT(of_method, IsOk());
  EXPECT_THAT(of_method->getMs(), AboutMs(kMethodMs)) << "the method's goes before the channel's";
}

TEST_P(CallTest, CallMayHaveNoDeadlineWhateverItsMethodAndChannelSay) {
  ChannelOptions options;
  options.default_timeout = absl::Milliseconds(20);
  Start({}, options);
  const auto response = stub().Remaining({.no_deadline = true}).Send().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getMs(), kEndless);
}

TEST_P(CallTest, DefaultTimeoutEndsCallbacksAndCoroutines) {
  ChannelOptions options;
  options.default_timeout = absl::Milliseconds(20);
  Start({}, options);
  absl::Notification done;
  absl::Status status;
  SendHold(1).Then([&](auto result) {
    status = result.status();
    done.Notify();
  });
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(BlockOn([](ProbeStub stub) -> Task<absl::Status> {
                auto request = stub.Hold();
                co_return (co_await request.Send()).status();
              }(stub())),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
}

}  // namespace
}  // namespace mi7::conformance
