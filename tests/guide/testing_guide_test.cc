// What docs/TESTING.md shows, which guide_test.sh compares with this file.

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "examples/hello/hello.mi7.h"
#include "examples/hello/hello.mi7.mock.h"
#include "rpc/call_outcome.h"
#include "rpc/status_testing.h"
#include "rpc/testing/in_process.h"
#include "transport/fault/fault_script.h"

namespace {

using mi7::IsOk;
using mi7::StatusIs;
using testing::_;
using testing::HasSubstr;

class Greeter : public hello::GreeterService {
  mi7::Reply Greet(mi7::ServerContext&, hello::Greeter::GreetParams::Reader params,
                   hello::Greeter::GreetResults::Builder results) override {
    results.setGreeting(absl::StrCat("Hello, ", params.getName().cStr(), "!"));
    return absl::OkStatus();
  }
};

// The code under test: asks for a greeting within a minute.
absl::StatusOr<std::string> GreetingFor(const hello::GreeterStub& greeter, const char* name) {
  auto request = greeter.Greet({.deadline = mi7::Deadline::After(absl::Minutes(1))});
  request->setName(name);
  auto response = request.Send().Wait();
  if (!response.ok()) return response.status();
  return response->getGreeting().cStr();
}

// --- A server and a channel

TEST(InProcessGuide, ServiceIsCalledForReal) {
  Greeter greeter;
  mi7::InProcess in_process(&greeter);
  auto stub = in_process.stub<hello::GreeterStub>();
  EXPECT_THAT(GreetingFor(stub, "world"), IsOk());
}

TEST(InProcessGuide, AnyTransportWillDo) {
  Greeter greeter;
  mi7::InProcess over_tcp(&greeter, {.endpoint = "tcp:127.0.0.1:0"});
  EXPECT_EQ(GreetingFor(over_tcp.stub<hello::GreeterStub>(), "world").value(), "Hello, world!");
  EXPECT_EQ(over_tcp.channel()->transport(), "tcp");
}

TEST(InProcessGuide, EachHasItsOwnName) {
  Greeter greeter;
  mi7::InProcess one(&greeter);
  mi7::InProcess another(&greeter);
  EXPECT_NE(one.endpoint(), another.endpoint());
}

// --- Mocks

TEST(MockGuide, ClientPassesOnWhatTheServerSays) {
  testing::StrictMock<hello::MockGreeterService> greeter;
  EXPECT_CALL(greeter, Greet(_, _, _))
      .WillOnce([](mi7::ServerContext&, auto params, auto results) -> mi7::Reply {
        EXPECT_EQ(params.getName(), "world");
        results.setGreeting("Good morning.");
        return absl::OkStatus();
      })
      .WillOnce([](auto&&...) -> mi7::Reply { return absl::PermissionDeniedError("not you"); });
  mi7::InProcess in_process(&greeter);
  auto stub = in_process.stub<hello::GreeterStub>();
  EXPECT_EQ(GreetingFor(stub, "world").value(), "Good morning.");
  EXPECT_THAT(GreetingFor(stub, "again"), StatusIs(absl::StatusCode::kPermissionDenied, "not you"));
}

// --- Time

// Answers nothing while it lives.
class SlowGreeter : public hello::GreeterService {
  mi7::Reply Greet(mi7::ServerContext& context, hello::Greeter::GreetParams::Reader,
                   hello::Greeter::GreetResults::Builder) override {
    calls_.push_back(context.Defer());
    return mi7::Reply::Later();
  }
  std::vector<mi7::DeferredCall> calls_;  // of one connection, whose calls begin one by one
};

TEST(FakeClockGuide, CallEndsAtItsDeadline) {
  mi7::FakeClock clock;
  SlowGreeter greeter;
  mi7::InProcess in_process(&greeter);
  ASSERT_THAT(in_process.channel()->Connect({}), IsOk());
  auto stub = in_process.stub<hello::GreeterStub>();
  auto request = stub.Greet({.deadline = mi7::Deadline::After(absl::Hours(1))});
  auto call = request.Send();
  clock.Advance(absl::Hours(1));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST(FakeClockGuide, BlockedCallIsEndedOnEveryTransport) {
  mi7::FakeClock clock;
  for (const char* endpoint : {"", "tcp:127.0.0.1:0", "mi7://127.0.0.1:0"}) {
    SlowGreeter greeter;
    mi7::InProcess in_process(&greeter, {.endpoint = endpoint});
    ASSERT_THAT(in_process.channel()->Connect({}), IsOk());
    auto stub = in_process.stub<hello::GreeterStub>();
    const mi7::Deadline deadline = mi7::Deadline::After(absl::Hours(1));
    // Its callback and a thread that waits, each by its own way.
    auto request = stub.Greet({.deadline = deadline});
    std::promise<absl::Status> ended;
    request.Send().Then([&ended](auto response) { ended.set_value(response.status()); });
    std::thread waiting([&stub, deadline] {
      auto blocked = stub.Greet({.deadline = deadline});
      EXPECT_THAT(blocked.Send().Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
    });
    clock.Advance(absl::Hours(1));
    EXPECT_THAT(ended.get_future().get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
    waiting.join();
  }
}

TEST(FakeClockGuide, ChannelConnectsAgainWhenItsBackoffIsOver) {
  mi7::FakeClock clock;
  auto faults = std::make_shared<mi7::FaultScript>();
  faults->Refuse(1);
  Greeter greeter;
  mi7::InProcessOptions options;
  options.channel.decorator = faults;
  options.channel.backoff.initial = absl::Hours(1);
  options.channel.backoff.max = absl::Hours(1);
  mi7::InProcess in_process(&greeter, options);
  EXPECT_THAT(in_process.channel()->Connect(mi7::Deadline::After(absl::Minutes(1))),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("refused")));
  EXPECT_EQ(in_process.channel()->state(), mi7::ChannelState::kBackoff);
  auto stub = in_process.stub<hello::GreeterStub>();
  auto request = stub.Greet({.wait_for_ready = true});
  request->setName("world");
  auto call = request.Send();
  clock.Advance(absl::Hours(2));
  EXPECT_THAT(call.Wait(), IsOk());
}

// --- Faults

TEST(FaultGuide, LostCallIsNotSaidToHaveFailed) {
  auto faults = std::make_shared<mi7::FaultScript>();
  faults->Add(
      {.frames = mi7::FaultFrames::kReturns, .action = mi7::FaultAction::kLose, .first = 2});
  Greeter greeter;
  mi7::InProcessOptions options;
  options.channel.decorator = faults;
  mi7::InProcess in_process(&greeter, options);
  auto stub = in_process.stub<hello::GreeterStub>();
  EXPECT_THAT(GreetingFor(stub, "first"), IsOk());
  EXPECT_THAT(GreetingFor(stub, "second"), mi7::OutcomeIs(mi7::CallOutcome::kUnknown));
  EXPECT_THAT(GreetingFor(stub, "third"), IsOk()) << "over another connection";
  EXPECT_EQ(faults->hits(), 1u);
}

TEST(FaultGuide, DroppedRequestTakesItsTime) {
  mi7::FakeClock clock;
  auto faults = std::make_shared<mi7::FaultScript>();
  faults->Add({.frames = mi7::FaultFrames::kCalls, .way = mi7::FaultWay::kSent});
  Greeter greeter;
  mi7::InProcessOptions options;
  options.channel.decorator = faults;
  mi7::InProcess in_process(&greeter, options);
  auto stub = in_process.stub<hello::GreeterStub>();
  ASSERT_THAT(in_process.channel()->Connect({}), IsOk());
  auto request = stub.Greet({.deadline = mi7::Deadline::After(absl::Hours(1))});
  auto call = request.Send();
  clock.Advance(absl::Hours(1));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(GreetingFor(stub, "next"), IsOk());
}

TEST(FaultGuide, SlowServerIsSlow) {
  auto faults = std::make_shared<mi7::FaultScript>();
  faults->Add({.action = mi7::FaultAction::kDelay,
               .count = mi7::FaultRule::kAll,
               .delay = absl::Milliseconds(20)});
  Greeter greeter;
  mi7::InProcessOptions options;
  options.server.decorator = faults;
  mi7::InProcess in_process(&greeter, options);
  const int64_t start_ns = mi7::MonotonicNanos();
  EXPECT_THAT(GreetingFor(in_process.stub<hello::GreeterStub>(), "world"), IsOk());
  EXPECT_GE(mi7::MonotonicNanos() - start_ns, 40'000'000) << "there and back";
}

TEST(FaultGuide, RefusedConnectionsAreNotMade) {
  auto faults = std::make_shared<mi7::FaultScript>();
  faults->Refuse(mi7::FaultRule::kAll);
  Greeter greeter;
  mi7::InProcessOptions options;
  options.channel.decorator = faults;
  mi7::InProcess in_process(&greeter, options);
  auto stub = in_process.stub<hello::GreeterStub>();
  const absl::StatusOr<std::string> greeting = GreetingFor(stub, "world");
  EXPECT_THAT(greeting, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("refused")));
  EXPECT_THAT(greeting, mi7::OutcomeIs(mi7::CallOutcome::kNotSent));
}

TEST(FaultGuide, FirstRuleThatAppliesDoes) {
  auto faults = std::make_shared<mi7::FaultScript>();
  faults->Add(
      {.frames = mi7::FaultFrames::kReturns, .action = mi7::FaultAction::kLose, .first = 2});
  faults->Add({.action = mi7::FaultAction::kDelay, .count = mi7::FaultRule::kAll});
  Greeter greeter;
  mi7::InProcessOptions options;
  options.server.decorator = faults;
  mi7::InProcess in_process(&greeter, options);
  auto stub = in_process.stub<hello::GreeterStub>();
  EXPECT_THAT(GreetingFor(stub, "first"), IsOk());
  EXPECT_EQ(faults->hits(), 2u) << "both frames of the call were delayed, by nothing";
  EXPECT_THAT(GreetingFor(stub, "second"), mi7::OutcomeIs(mi7::CallOutcome::kUnknown));
  faults->Clear();
  EXPECT_THAT(GreetingFor(stub, "third"), IsOk());
}

}  // namespace
