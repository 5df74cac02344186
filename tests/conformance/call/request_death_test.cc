// Handles that are used when they have nothing any more: our user's mistake, which ends the program
// where it is made, and does not write into memory that is another call's by then.

#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include "rpc/channel.h"
#include "tests/conformance/call/feed.mi7.h"
#include "tests/conformance/call/probe.mi7.h"

namespace mi7::conformance {
namespace {

class RequestDeathTest : public testing::Test {
 protected:
  // The channel has a thread.
  RequestDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  const std::shared_ptr<Channel> channel_ = *Channel::Create("inproc:nobody-is-there");
  ProbeStub probe_{channel_};
  FeedStub feed_{channel_};
};

TEST_F(RequestDeathTest, RequestIsUsedAfterSend) {
  auto request = probe_.Echo();
  request->setText("in time");
  auto call = request.Send();
  constexpr char kWhy[] = "Request: used after Send or a move";
  EXPECT_DEATH(request->setText("too late"), kWhy);
  EXPECT_DEATH((*request).setText("too late"), kWhy);
  EXPECT_DEATH(static_cast<void>(request.Send()), "Request::Send called twice or after a move");
}

TEST_F(RequestDeathTest, RequestIsUsedAfterAMove) {
  auto request = probe_.Echo();
  const auto moved = std::move(request);
  EXPECT_DEATH(request->setText("too late"), "Request: used after Send or a move");
}

TEST_F(RequestDeathTest, StreamRequestIsUsedAfterSend) {
  auto request = feed_.Watch();
  request->setCount(1);
  auto reader = request.Send();
  constexpr char kWhy[] = "StreamRequest: used after Send or a move";
  EXPECT_DEATH(request->setCount(2), kWhy);
  EXPECT_DEATH((*request).setCount(2), kWhy);
  EXPECT_DEATH(static_cast<void>(request.Send()),
               "StreamRequest::Send called twice or after a move");
}

TEST_F(RequestDeathTest, FlowRequestIsUsedAfterSend) {
  auto request = feed_.Pour();
  request->setNumber(1);
  auto sending = request.Send();
  constexpr char kWhy[] = "FlowRequest: used after Send or a move";
  EXPECT_DEATH(request->setNumber(2), kWhy);
  EXPECT_DEATH((*request).setNumber(2), kWhy);
  EXPECT_DEATH(static_cast<void>(request.Send()), "FlowRequest::Send called twice or after a move");
}

TEST_F(RequestDeathTest, CallIsWaitedForTwice) {
  auto call = probe_.Echo().Send();
  EXPECT_FALSE(call.Wait().ok()) << "there is no server";
  EXPECT_DEATH(static_cast<void>(call.Wait()), "PendingCall: Wait after Wait, Then, co_await");
  EXPECT_DEATH(call.Then([](auto) {}), "PendingCall: Then after Wait, Then, co_await");
  EXPECT_DEATH(static_cast<void>(call.canceller()), "PendingCall: canceller after Wait, Then, co_");
}

}  // namespace
}  // namespace mi7::conformance
