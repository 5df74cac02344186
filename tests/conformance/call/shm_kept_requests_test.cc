// Requests that are kept in the slots of shared memory where the server has read them, when other
// messages need these slots before the server's refusal has come.

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fake_clock.h"
#include "rpc/call_outcome.h"
#include "rpc/channel.h"
#include "rpc/retry_info.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/fault/fault_script.h"
#include "transport/local/testing.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

constexpr size_t kBytes = 1000;
constexpr uint32_t kSlots = 4;
constexpr absl::Duration kLate = absl::Seconds(5);

// A server with one place, which a call has, and a client that learns late of what it says.
class ShmKeptRequestsTest : public testing::Test {
 protected:
  void Start(uint64_t kept_copies_bytes_max) {
    constexpr Keepalive kNone = {.interval = absl::InfiniteDuration()};
    ServerOptions server;
    server.load.calls_max = 1;
    server.load.retry_after = absl::Milliseconds(1);
    server.keepalive = kNone;
    ChannelOptions channel;
    channel.local.shm.slot_classes = {{4096, kSlots}};
    channel.local.shm.kept_copies_bytes_max = kept_copies_bytes_max;
    channel.keepalive = kNone;
    channel.decorator = late_;
    probe_.on_echo = [this](ServerContext& context, Probe::EchoParams::Reader params,
                            Probe::EchoResults::Builder) -> Reply {
      attempts_.push_back(context.attempt());
      EXPECT_EQ(params.getData().size(), kBytes);
      return absl::OkStatus();
    };
    const std::string endpoint = absl::StrCat("shm:", directory_ / "s");
    server_ = *ServerBuilder().SetOptions(server).AddService(&probe_).Listen(endpoint).Start();
    channel_ = *Channel::Create(endpoint, channel);
    // So that it is known that requests are not small, which the first, begun before there was a
    // connection, does not tell.
    for (int i = 0; i < 2; ++i) ASSERT_THAT(Echo().Send().Wait(), IsOk());
    ASSERT_EQ(channel_->transport(), "shm");
    attempts_.clear();
  }
  Request<Probe::EchoParams, Probe::EchoResults> Echo() {
    auto request = ProbeStub(channel_).Echo({.no_deadline = true});
    request->initData(kBytes);
    return request;
  }
  // The client's script has seen so many frames.
  bool AwaitLate(uint64_t hits) {
    const absl::Time until = absl::Now() + kSoon;
    while (late_->hits() < hits && absl::Now() < until) std::this_thread::yield();
    return late_->hits() == hits;
  }
  // A call is refused, and others take all slots before its client learns that.
  EchoResult CallWhoseSlotIsNeeded() {
    auto holds = ProbeStub(channel_).Hold({.no_deadline = true});
    auto held = holds.Send();
    EXPECT_TRUE(probe_.AwaitHeld(1));
    late_->Add({.way = FaultWay::kReceived,
                .action = FaultAction::kDelay,
                .count = FaultRule::kAll,
                .delay = kLate});
    auto call = Echo().Send();
    // What comes behind it is refused when its request has been let go. It travels in the ring.
    auto behind = ProbeStub(channel_).Again({.no_deadline = true, .repeat = Repeat::kNever});
    auto refused = behind.Send();
    EXPECT_TRUE(AwaitLate(2)) << "they are refused";
    {
      std::vector<Request<Probe::EchoParams, Probe::EchoResults>> others;
      for (uint32_t i = 0; i < kSlots; ++i) others.push_back(Echo());
    }
    probe_.TakeHeld().Answer();
    EXPECT_TRUE(AwaitLate(3));
    late_->Clear();
    clock_.Advance(kLate);
    EXPECT_THAT(held.Wait(), IsOk());
    EXPECT_THAT(refused.Wait(), OutcomeIs(CallOutcome::kRefused));
    EXPECT_EQ(server_->load().refused, 2u);
    clock_.Advance(absl::Seconds(1));
    return call.Wait();
  }

  FakeClock clock_;
  const transport::testing::TemporaryDirectory directory_;
  const std::shared_ptr<FaultScript> late_ = std::make_shared<FaultScript>();
  std::vector<int> attempts_;
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

TEST_F(ShmKeptRequestsTest, RefusedCallWhoseRequestHasMovedToPrivateMemoryIsMadeAgain) {
  Start(/*kept_copies_bytes_max=*/2 * kBytes);
  EXPECT_THAT(CallWhoseSlotIsNeeded(), IsOk());
  EXPECT_THAT(attempts_, testing::ElementsAre(2));
}

TEST_F(ShmKeptRequestsTest, RefusedCallForWhoseRequestThereWasNoRoomEndsAsRefused) {
  Start(/*kept_copies_bytes_max=*/kBytes / 2);
  const EchoResult result = CallWhoseSlotIsNeeded();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("has not run")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kRefused));
  EXPECT_EQ(RetryAfter(result.status()), absl::Milliseconds(1)) << "it is its caller's to repeat";
  EXPECT_EQ(server_->load().refused, 2u) << "not made again";
  EXPECT_THAT(attempts_, testing::IsEmpty());
}

}  // namespace
}  // namespace mi7::conformance
