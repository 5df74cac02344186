// Calls that wait in one batch of received bytes behind a handler that takes its time: the
// deadlines of all count from when they came.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/badpeer/bad_client.h"

namespace mi7::badpeer {
namespace {

// Echo with a timeout in microseconds; 0: none.
std::string EchoWithin(uint32_t call_id, uint32_t timeout_us) {
  FrameHeader header = EchoHeader(call_id);
  header.timeout = timeout_us;
  return Message(header, EchoBody());
}

TEST_F(BadClientTest, CallsBehindASlowHandlerAreDroppedWhenTheyAreLate) {
  constexpr uint32_t kShortUs = 10'000;
  constexpr uint32_t kLongUs = 60'000'000;
  // Shared with the handler, which the fixture calls once more when the test is over.
  struct State {
    std::atomic<bool> slow{false};
    std::atomic<int> ran{0};
  };
  const auto state = std::make_shared<State>();
  probe_.on_echo = [state](ServerContext& context, Probe::EchoParams::Reader params,
                           Probe::EchoResults::Builder results) {
    ++state->ran;
    if (state->slow.exchange(false)) {
      const Deadline late = Deadline::After(absl::Microseconds(kShortUs));
      while (!late.passed()) std::this_thread::yield();
    }
    return conformance::Echo(context, params, results);
  };
  ASSERT_NO_FATAL_FAILURE(Start());
  RawPeer client = Greeted();
  state->ran = 0;
  state->slow = true;
  ASSERT_TRUE(client.Send(EchoWithin(1, kLongUs) + EchoWithin(2, kShortUs) +
                          EchoWithin(3, kLongUs) + EchoWithin(4, 0)));
  ExpectReturn(client, 1, IsOk());
  const std::optional<Received> dropped = client.ReadMessage();
  ASSERT_TRUE(dropped);
  EXPECT_EQ(dropped->header.call_id, 2u);
  EXPECT_THAT(dropped->status(), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                          "Probe.echo: deadline passed before the handler began"));
  EXPECT_TRUE(dropped->refused()) << "it has not run, and the caller may know";
  ExpectReturn(client, 3, IsOk());
  ExpectReturn(client, 4, IsOk());
  EXPECT_EQ(state->ran, 3);
  EXPECT_EQ(server_->statistics().calls_dropped_late, 1u);
}

TEST_F(BadClientTest, TimeoutsCountFromTheArrivalOfTheirOwnBatch) {
  ASSERT_NO_FATAL_FAILURE(Start());
  RawPeer client = Greeted();
  for (uint32_t i = 0; i < 20; ++i) {
    const Deadline late = Deadline::After(absl::Milliseconds(5));
    while (!late.passed()) std::this_thread::yield();
    ASSERT_TRUE(client.Send(EchoWithin(i, 2'000'000)));
    ExpectReturn(client, i, IsOk());
  }
  EXPECT_EQ(server_->statistics().calls_dropped_late, 0u);
}

}  // namespace
}  // namespace mi7::badpeer
