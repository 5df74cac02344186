#pragma once

// A channel to a bad server, and a good server with a channel of its own, which works whatever the
// bad one does.

#include <memory>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::badpeer {

using conformance::EchoResult;
using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

using Pending = PendingCall<Probe::EchoResults>;

class BadServerTest : public testing::Test {
 protected:
  BadServerTest() {
    good_server_ = *ServerBuilder().AddService(&probe_).Listen("tcp:127.0.0.1:0").Start();
    good_channel_ = *Channel::Create(good_server_->endpoints()[0]);
    ChannelOptions options;
    options.backoff.initial = options.backoff.max = absl::Milliseconds(1);
    channel_ = *Channel::Create(listener_.endpoint(), options);
  }
  void TearDown() override {
    EXPECT_THAT(Send(good_channel_).Wait(), IsOk());
    channel_->Close();
  }
  static Pending Send(const std::shared_ptr<Channel>& channel, const std::string& text = "good",
                      const CallOptions& options = {}) {
    auto request = ProbeStub(channel).Echo(options);
    request->setText(text);
    return request.Send();
  }
  Pending Send(const std::string& text = "x") { return Send(channel_, text); }
  // A call that has reached the bad server; its id there.
  uint32_t TakeCall(RawPeer& server) {
    const std::optional<Received> call = server.ReadMessageOf(FrameType::kCall);
    EXPECT_TRUE(call);
    return call ? call->header.call_id : ~0u;
  }
  // The channel says `why` in a close message and ends the connection.
  template <typename Matcher>
  void ExpectClosed(RawPeer& server, const Matcher& why) {
    const std::optional<Received> close = server.ReadMessageOf(FrameType::kClose);
    ASSERT_TRUE(close) << "ended without a word";
    EXPECT_THAT(close->status(), why);
    EXPECT_TRUE(server.Ends());
  }
  // The next connection of the channel is served well.
  void ExpectRecovers() {
    Pending call =
        Send(channel_, "again", {.deadline = Deadline::After(kSoon), .wait_for_ready = true});
    RawPeer server = listener_.AcceptGreeted();
    const uint32_t id = TakeCall(server);
    server.Send(Message(ReturnHeader(id), EchoBody()));
    EchoResult result = call.Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getText(), "hello");
  }

  ProbeImpl probe_;
  std::unique_ptr<Server> good_server_;
  std::shared_ptr<Channel> good_channel_;
  RawListener listener_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7::badpeer
