// A server that misuses streams: its client ends the connection, and goes on with another one.

#include <optional>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/badpeer/bad_server.h"
#include "tests/conformance/call/feed_service.h"

namespace mi7::badpeer {
namespace {

using conformance::FeedStub;
using conformance::Item;

constexpr uint32_t kWindow = 4096;
constexpr uint32_t kFit = (kWindow + kSmallStreamMessageBytes - 1) / kSmallStreamMessageBytes;

std::string ToCaller(uint32_t call_id) { return SmallStreamMessage(call_id, 1); }

class BadStreamServerTest : public BadServerTest {
 protected:
  // Few stray frames are allowed.
  BadStreamServerTest() {
    ChannelOptions options;
    options.backoff.initial = options.backoff.max = absl::Milliseconds(1);
    options.limits.stray_frames_max = 10;
    options.limits.stream_window_bytes = kWindow;
    channel_ = *Channel::Create(listener_.endpoint(), options);
  }
  // A stream that has reached the bad server, was given up, and that is known there, too; its id.
  uint32_t GiveUpWatch(RawPeer& server) {
    auto watch = FeedStub(channel_).Watch().Send();
    if (!accepted_) {
      server = listener_.AcceptGreeted();
      accepted_ = true;
    }
    const uint32_t id = TakeCall(server);
    watch.Cancel();
    const std::optional<Received> cancel = server.ReadMessageOf(FrameType::kCancel);
    EXPECT_TRUE(cancel && cancel->header.call_id == id);
    return id;
  }
  // The client has read everything that was sent before.
  testing::AssertionResult IsThrough(RawPeer& server) {
    if (!server.Send(Message(ControlHeader(FrameType::kPing, 99)))) {
      return testing::AssertionFailure() << "closed";
    }
    const std::optional<Received> pong = server.ReadMessageOf(FrameType::kPong);
    return pong ? testing::AssertionSuccess() : testing::AssertionFailure() << "no pong";
  }
  void ExpectClosedAsFlood(RawPeer& server) {
    // Should it go on instead, it says so at once.
    server.Send(Message(ControlHeader(FrameType::kPing, 98)));
    std::optional<Received> close;
    do {
      close = server.ReadMessage();
      ASSERT_TRUE(close) << "ended without a word";
      ASSERT_NE(close->header.type, FrameType::kPong) << "the connection goes on";
    } while (close->header.type != FrameType::kClose);
    EXPECT_THAT(close->status(), StatusIs(absl::StatusCode::kResourceExhausted,
                                          HasSubstr("limits.stray_frames_max, 10")));
    EXPECT_TRUE(server.Ends());
  }
  bool accepted_ = false;
};

// The server does not know yet that nobody waits, and sends what it has credit for.
TEST_F(BadStreamServerTest, WhatCrossesCancellationsIsNoFlood) {
  RawPeer server;
  std::string returns;
  for (int i = 0; i < 5; ++i) {
    const uint32_t id = GiveUpWatch(server);
    ASSERT_TRUE(server.Send(Times(kFit, ToCaller(id))));
    FrameHeader ended = ReturnHeader(id);
    ended.code = static_cast<uint16_t>(absl::StatusCode::kCancelled);
    ASSERT_TRUE(
        server.Send(i % 2 == 0 ? Message(ended) : Message(ControlHeader(FrameType::kPong))));
  }
  EXPECT_TRUE(IsThrough(server));
}

TEST_F(BadStreamServerTest, FloodOfMessagesForACallThatWasGivenUpClosesTheConnection) {
  RawPeer server;
  const uint32_t id = GiveUpWatch(server);
  // Messages are larger than the smallest that is thinkable.
  constexpr uint32_t kAllowed = kWindow / 40 + 1 + 4;
  ASSERT_TRUE(server.Send(Times(kAllowed + 9, ToCaller(id))));
  ASSERT_TRUE(IsThrough(server));
  server.Send(ToCaller(id));
  ExpectClosedAsFlood(server);
  ExpectRecovers();
}

// Streams and calls that are given up before a frame of theirs came owe nothing to each other.
TEST_F(BadStreamServerTest, FloodOfMessagesForAUnaryCallThatWasGivenUpClosesTheConnection) {
  std::optional<Pending> call = Send();
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(server);
  call.reset();
  ASSERT_TRUE(server.ReadMessageOf(FrameType::kCancel));
  server.Send(Times(11, ToCaller(id)));
  ExpectClosedAsFlood(server);
}

TEST_F(BadStreamServerTest, MalformedMessagesForACallThatWasGivenUpCountToo) {
  RawPeer server;
  const uint32_t id = GiveUpWatch(server);
  server.Send(Times(kWindow / 40 + 1 + 4 + 11, MalformedStreamMessage(id, 1)));
  ExpectClosedAsFlood(server);
}

TEST_F(BadStreamServerTest, MalformedMessageOfNoCallClosesTheConnection) {
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(server);
  server.Send(MalformedStreamMessage(id + 1, 1));
  ExpectClosed(server, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not in flight")));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(BadStreamServerTest, FloodOfTinyCreditClosesTheConnection) {
  auto upload = FeedStub(channel_).Upload();
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(server);
  ASSERT_THAT(upload.Write(conformance::NewItem(upload.writer(), 1, 10'000)).Wait(), IsOk());
  ASSERT_TRUE(server.ReadMessageOf(FrameType::kStreamMessage));
  server.Send(Times(11, Message(StreamHeader(FrameType::kCredit, id, 0, 1))));
  ExpectClosedAsFlood(server);
}

}  // namespace
}  // namespace mi7::badpeer
