#pragma once

// A server with a good client, which is served whatever a bad one sends.

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::badpeer {

using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

// The good client's connection is there before and after each test.
class BadClientTest : public testing::Test {
 protected:
  void Start(const Limits& limits = {}) {
    ServerOptions options;
    options.limits = limits;
    StartWith(options);
  }
  void StartWith(ServerOptions options) {
    options.event_loops = 1;  // the good client shares it with the bad one
    server_ =
        *ServerBuilder().SetOptions(options).AddService(&probe_).Listen("tcp:127.0.0.1:0").Start();
    endpoint_ = server_->endpoints()[0];
    channel_ = *Channel::Create(endpoint_);
    ASSERT_TRUE(GoodClientIsServed());
  }
  void TearDown() override {
    EXPECT_TRUE(GoodClientIsServed());
    EXPECT_TRUE(HasConnections(1));
  }
  // Over its own connection, which never breaks.
  testing::AssertionResult GoodClientIsServed() {
    auto request = ProbeStub(channel_).Echo({.deadline = Deadline::After(kSoon)});
    request->setText("good");
    const auto result = request.Send().Wait();
    if (!result.ok()) return testing::AssertionFailure() << result.status();
    if (result->getText() != "good") return testing::AssertionFailure() << "wrong answer";
    return testing::AssertionSuccess();
  }
  testing::AssertionResult HasConnections(size_t count) {
    const Deadline patience = Deadline::After(kSoon);
    while (server_->connection_count() != count) {
      if (patience.passed()) {
        return testing::AssertionFailure() << server_->connection_count() << " connections";
      }
      std::this_thread::yield();
    }
    return testing::AssertionSuccess();
  }
  // The handler of the call learns, soon, that nobody waits for it.
  static testing::AssertionResult IsCancelled(const ProbeImpl::Held& held) {
    const Deadline patience = Deadline::After(kSoon);
    while (!held.context->cancelled()) {
      if (patience.passed()) return testing::AssertionFailure() << "not cancelled";
      std::this_thread::yield();
    }
    return testing::AssertionSuccess();
  }
  RawPeer Greeted() { return RawPeer::Greeted(endpoint_); }

  // The server says `why` in a close message and ends the connection.
  template <typename Matcher>
  void ExpectClosed(RawPeer& peer, const Matcher& why) {
    const std::optional<Received> close = peer.ReadMessageOf(FrameType::kClose);
    ASSERT_TRUE(close) << "ended without a word";
    EXPECT_THAT(close->status(), why);
    EXPECT_TRUE(peer.Ends());
  }
  // The server answers call `call_id` with `status`.
  template <typename Matcher>
  void ExpectReturn(RawPeer& peer, uint32_t call_id, const Matcher& status) {
    const std::optional<Received> received = peer.ReadMessage();
    ASSERT_TRUE(received) << "ended without a word";
    ASSERT_EQ(received->header.type, FrameType::kReturn) << received->status();
    EXPECT_EQ(received->header.call_id, call_id);
    EXPECT_THAT(received->status(), status);
  }
  // The bad client is served when it behaves.
  void ExpectServed(RawPeer& peer) {
    ASSERT_TRUE(peer.Send(EchoCall(4711)));
    const std::optional<Received> received = peer.ReadMessage();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->header.call_id, 4711u);
    EXPECT_EQ(received->text(), "hello");
  }

  ProbeImpl probe_;
  std::string endpoint_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7::badpeer
