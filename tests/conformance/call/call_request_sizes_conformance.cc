// Requests of every size are made once more when they were refused, and arrive whole.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/deadline.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using EchoCall = PendingCall<Probe::EchoResults>;

uint8_t ByteAt(uint32_t number, size_t at) {
  return static_cast<uint8_t>((number + 1) * 37 + at + (at >> 8) * 3 + (at >> 16) * 7);
}

// Sees that what came is what was sent.
class WholeEcho {
 public:
  EchoHandler handler() {
    return [this](ServerContext&, Probe::EchoParams::Reader params,
                  Probe::EchoResults::Builder) -> Reply {
      const auto number = static_cast<uint32_t>(std::stoul(params.getText().cStr()));
      const auto data = params.getData();
      ++runs_;
      for (size_t i = 0; i < data.size(); ++i) {
        if (data[i] == ByteAt(number, i)) continue;
        return absl::DataLossError(
            absl::StrCat("call ", number, " of ", data.size(), " bytes, at ", i));
      }
      return absl::OkStatus();
    };
  }
  int runs() const { return runs_; }

 private:
  std::atomic<int> runs_{0};
};

EchoCall SendNumbered(const ProbeStub& stub, uint32_t number, size_t bytes) {
  auto request = stub.Echo();
  request->setText(absl::StrCat(number));
  auto data = request->initData(static_cast<uint32_t>(bytes));
  for (size_t i = 0; i < bytes; ++i) data[i] = ByteAt(number, i);
  return request.Send();
}

// One call at a time, and as many attempts as that takes.
ServerOptions OneAtATime() {
  ServerOptions options;
  options.load.calls_max = 1;
  options.load.retry_after = absl::Milliseconds(5);
  return options;
}
ChannelOptions Stubborn() {
  ChannelOptions options;
  options.retry.policy.attempts_max = 10'000;
  options.retry.budget.tokens_max = 1e6;
  return options;
}

bool AwaitRefused(const Server& server, uint64_t count) {
  const Deadline patience = Deadline::After(kSoon);
  while (server.load().refused < count) {
    if (patience.passed()) return false;
    std::this_thread::yield();
  }
  return true;
}

// Both ways, and once more when it was refused, so that it was kept.
TEST_P(CallTest, ContentInMemoryThatWasNotClearedArrivesWhole) {
  probe_.on_echo = [](ServerContext&, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) -> Reply {
    const auto sent = params.getData();
    auto back = InitForOverwrite(results, &Probe::EchoResults::Builder::initData, sent.size());
    std::copy(sent.begin(), sent.end(), back.begin());
    return absl::OkStatus();
  };
  Start(OneAtATime(), Stubborn());
  const Ends ends(this);
  uint32_t number = 0;
  for (const size_t bytes : {8u, 100u << 10, 1u << 20, 16u << 20, 1000u, 1u << 20, 100u << 10}) {
    SCOPED_TRACE(bytes);
    const uint64_t refused = server_->load().refused;
    auto held = SendHold(1);
    ASSERT_TRUE(probe_.AwaitHeld(1));
    auto request = stub().Echo();
    auto data = InitForOverwrite(*request, &Probe::EchoParams::Builder::initData,
                                 static_cast<uint32_t>(bytes));
    for (size_t i = 0; i < bytes; ++i) data[i] = ByteAt(number, i);
    EchoCall call = request.Send();
    ASSERT_TRUE(AwaitRefused(*server_, refused + 1));
    probe_.TakeHeld().Answer();
    ASSERT_THAT(held.Wait(), IsOk());
    const auto result = call.Wait();
    ASSERT_THAT(result, IsOk());
    const auto back = result->getData();
    ASSERT_EQ(back.size(), bytes);
    size_t same = 0;
    while (same < bytes && back[same] == ByteAt(number, same)) ++same;
    EXPECT_EQ(same, bytes);
    ++number;
  }
}

TEST_P(CallTest, RefusedCallOfAnySizeIsMadeAgain) {
  WholeEcho echo;
  probe_.on_echo = echo.handler();
  Start(OneAtATime(), Stubborn());
  const Ends ends(this);
  for (const size_t bytes : {8u, 100u << 10, 1u << 20, 16u << 20}) {
    SCOPED_TRACE(bytes);
    // The second one knows how large the method's requests are.
    for (uint32_t number = 0; number < 2; ++number) {
      const uint64_t refused = server_->load().refused;
      auto held = SendHold(1);
      ASSERT_TRUE(probe_.AwaitHeld(1));
      EchoCall call = SendNumbered(stub(), number, bytes);
      ASSERT_TRUE(AwaitRefused(*server_, refused + 1));
      probe_.TakeHeld().Answer();
      ASSERT_THAT(held.Wait(), IsOk());
      ASSERT_THAT(call.Wait(), IsOk());
    }
  }
  EXPECT_EQ(echo.runs(), 8);
}

// Over shared memory: their slots are wanted by others from when the server has refused them until
// that is read here, which it is not while a callback keeps the thread that reads.
TEST_P(CallTest, RefusedCallsAreMadeAgainWholeAlthoughOthersNeedTheirMemory) {
  WholeEcho echo;
  probe_.on_echo = echo.handler();
  ChannelOptions options = Stubborn();
  options.local.shm.slot_classes = {{4u << 10, 16}, {64u << 10, 16}, {1u << 20, 16}};
  std::vector<EchoCall> calls;
  absl::Notification go_on;
  Start(OneAtATime(), options);
  const Ends ends(this);
  // How large the method's requests are is not known for the first, so it begins elsewhere.
  ASSERT_THAT(SendNumbered(stub(), 1, 100'000).Wait(), IsOk());
  auto held = SendHold(1);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  const bool in_slots = GetParam().transport == std::string("shm");
  const std::thread::id here = std::this_thread::get_id();
  for (bool kept_busy = !in_slots; !kept_busy;) {
    absl::Notification told;
    stub().Health().Send().Then([&](auto) {
      // Or it was done already.
      const bool elsewhere = std::this_thread::get_id() != here;
      kept_busy = elsewhere;
      told.Notify();
      if (elsewhere) Happens(go_on);
    });
    ASSERT_TRUE(Happens(told));
  }
  uint32_t number = 0;
  // Of one round all find a slot, so that nothing waits for what that thread reads.
  for (int round = 0; round < 5; ++round) {
    for (const size_t bytes : {2'000u, 3'900u, 30'000u, 60'000u, 500'000u, 1'000'000u}) {
      calls.push_back(SendNumbered(stub(), ++number, bytes));
      calls.push_back(SendNumbered(stub(), ++number, bytes));
    }
    if (in_slots) {
      EXPECT_TRUE(AwaitRefused(*server_, number)) << round;
    }
  }
  go_on.Notify();
  probe_.TakeHeld().Answer();
  ASSERT_THAT(held.Wait(), IsOk());
  for (EchoCall& call : calls) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_EQ(echo.runs(), 1 + 60);
}

}  // namespace
}  // namespace mi7::conformance
