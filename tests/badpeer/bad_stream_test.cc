// A client that misuses streams: what the server keeps for it, and what others notice, is bounded.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/feed_service.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::badpeer {
namespace {

using conformance::FeedImpl;
using conformance::FeedStub;
using conformance::Item;
using conformance::kSoon;
using testing::HasSubstr;

using enum FeedMethod;

class BadStreamTest : public testing::Test {
 protected:
  BadStreamTest() {
    // Whatever is uploaded is not read until the test ends.
    feed_.on_upload = [this](ServerContext& context, StreamReader<Item> reader,
                             conformance::Feed::UploadResults::Builder) {
      absl::MutexLock lock(&mutex_);
      held_.push_back({std::move(reader), context.Defer()});
      return Reply::Later();
    };
  }
  void Start(const Limits& limits = {}) {
    ServerOptions options;
    options.limits = limits;
    options.event_loops = 1;  // the good client shares it with the bad one
    server_ =
        *ServerBuilder().SetOptions(options).AddService(&feed_).Listen("tcp:127.0.0.1:0").Start();
    endpoint_ = server_->endpoints()[0];
    channel_ = *Channel::Create(endpoint_);
    ASSERT_TRUE(GoodClientIsServed());
  }
  void TearDown() override { EXPECT_TRUE(GoodClientIsServed()); }

  testing::AssertionResult GoodClientIsServed() {
    auto chat = FeedStub(channel_).Chat({.deadline = Deadline::After(kSoon)});
    const absl::Status sent =
        chat.writer().Write(conformance::NewItem(chat.writer(), 5, 100)).Wait();
    if (!sent.ok()) return testing::AssertionFailure() << sent;
    const conformance::ItemRead read = chat.reader().Read().Wait();
    if (!read.ok()) return testing::AssertionFailure() << read.status();
    if (!*read || !conformance::IsItem(**read, 5, 100)) return testing::AssertionFailure();
    return testing::AssertionSuccess();
  }
  void ExpectClosed(RawPeer& peer, const std::string& text,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    // Should it go on instead, it says so at once.
    peer.Send(Message(ControlHeader(FrameType::kPing, 98)));
    std::optional<Received> close;
    do {
      close = peer.ReadMessage();
      ASSERT_TRUE(close) << "ended without a word";
      ASSERT_NE(close->header.type, FrameType::kPong) << "the connection goes on";
    } while (close->header.type != FrameType::kClose);
    EXPECT_THAT(close->status(), StatusIs(code, HasSubstr(text)));
    EXPECT_TRUE(peer.Ends());
  }
  void ExpectClosedAsFlood(RawPeer& peer, const std::string& text) {
    ExpectClosed(peer, text, absl::StatusCode::kResourceExhausted);
  }
  // Watches get an item of 10,000 bytes, and are not answered.
  void HoldWatches() {
    feed_.on_watch = [this](ServerContext& context, conformance::Feed::WatchParams::Reader,
                            StreamWriter<Item> writer) {
      absl::MutexLock lock(&mutex_);
      writer.Write(conformance::NewItem(writer, 1, 10'000)).Then([](const absl::Status&) {});
      held_watches_.push_back({std::move(writer), context.Defer()});
      return Reply::Later();
    };
  }
  // Whether the server has read and handled everything that the peer has sent.
  testing::AssertionResult IsThrough(RawPeer& peer) {
    if (!peer.Send(Message(ControlHeader(FrameType::kPing, 99)))) {
      return testing::AssertionFailure() << "closed";
    }
    const std::optional<Received> pong = peer.ReadMessageOf(FrameType::kPong);
    return pong ? testing::AssertionSuccess() : testing::AssertionFailure() << "no pong";
  }

  struct Held {
    StreamReader<Item> reader;
    DeferredCall later;
  };
  struct HeldWatch {
    StreamWriter<Item> writer;
    DeferredCall later;
  };
  std::atomic<uint64_t> written_{0};  // bytes; also while the server ends
  FeedImpl feed_;
  absl::Mutex mutex_;
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
  std::vector<HeldWatch> held_watches_ ABSL_GUARDED_BY(mutex_);
  std::string endpoint_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

// A stream's coroutine and a callback that wait for a client which says nothing, not even that it
// has given up.
TEST_F(BadStreamTest, DeadlineEndsHandlersThatWaitForASilentClient) {
  // The handlers', which may run on when the test has ended early.
  struct State {
    absl::Notification read_ended;
    absl::Status by_callback;
    std::optional<StreamReader<Item>> reader;
    std::optional<DeferredCall> later;
    std::atomic<int> uploads{0};
  };
  const auto state = std::make_shared<State>();
  feed_.on_upload = [state](ServerContext& context, StreamReader<Item> from,
                            conformance::Feed::UploadResults::Builder results) {
    if (++state->uploads != 2) return conformance::CountItems(context, std::move(from), results);
    state->reader.emplace(std::move(from));
    state->later.emplace(context.Defer());
    state->reader->Read().Then([state](conformance::ItemRead read) {
      state->by_callback = read.status();
      state->read_ended.Notify();
    });
    return Reply::Later();
  };
  server_ = *ServerBuilder().AddService(&feed_).Listen("tcp:127.0.0.1:0").Start();
  endpoint_ = server_->endpoints()[0];
  channel_ = *Channel::Create(endpoint_);
  RawPeer peer = RawPeer::Greeted(endpoint_);
  const auto upload_within = [](uint32_t call_id, uint32_t us) {
    std::string call = FeedCall(call_id, kUpload);
    call.replace(offsetof(FrameHeader, timeout), sizeof(us), reinterpret_cast<const char*>(&us),
                 sizeof(us));
    return call;
  };
  const auto end_of = [&peer](uint32_t call_id) {
    for (;;) {
      const std::optional<Received> end = peer.ReadMessageOf(FrameType::kReturn);
      if (!end) return absl::DataLossError("no return");
      if (end->header.call_id == call_id) return end->status();
    }
  };
  // A coroutine.
  ASSERT_TRUE(peer.Send(upload_within(1, 20'000)));
  EXPECT_THAT(end_of(1),
              StatusIs(absl::StatusCode::kDeadlineExceeded, "Feed.upload: deadline passed"));
  // A callback.
  ASSERT_TRUE(peer.Send(upload_within(2, 20'000)));
  ASSERT_TRUE(conformance::Happens(state->read_ended));
  EXPECT_THAT(state->by_callback, StatusIs(absl::StatusCode::kDeadlineExceeded));
  state->later->Finish(state->by_callback);
  EXPECT_THAT(end_of(2), StatusIs(absl::StatusCode::kDeadlineExceeded));
  // One that ends in time.
  ASSERT_TRUE(
      peer.Send(upload_within(3, 60'000'000) + Message(ControlHeader(FrameType::kStreamEnd, 3))));
  EXPECT_THAT(end_of(3), IsOk());
}

TEST_F(BadStreamTest, MessagesWithoutCreditCloseTheConnection) {
  Limits limits;
  limits.stream_window_bytes = 4096;
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_);
  std::string all = FeedCall(1, kUpload);
  const uint32_t fit = (4096 + kSmallStreamMessageBytes - 1) / kSmallStreamMessageBytes;
  for (uint32_t i = 0; i < fit; ++i) all += SmallStreamMessage(1);
  ASSERT_TRUE(peer.Send(all));
  ASSERT_TRUE(IsThrough(peer));
  peer.Send(SmallStreamMessage(1));
  ExpectClosed(peer, "without credit");
}

// Each of many streams within its window.
TEST_F(BadStreamTest, WhatAllStreamsOfAConnectionKeepTogetherIsBounded) {
  Limits limits;
  limits.stream_window_bytes = 4096;
  limits.stream_kept_bytes_max = 10'000;
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_);
  constexpr uint32_t kStreams = 50;
  constexpr uint32_t kEach = 20;
  std::string all;
  for (uint32_t call = 0; call < kStreams; ++call) all += FeedCall(call, kUpload);
  for (uint32_t i = 0; i < kEach; ++i) {
    for (uint32_t call = 0; call < kStreams; ++call) all += SmallStreamMessage(call);
  }
  ASSERT_TRUE(peer.Send(all));
  ASSERT_TRUE(IsThrough(peer)) << "the connection lives";
  uint64_t kept_bytes = 0;
  uint32_t failed = 0;
  {
    absl::MutexLock lock(&mutex_);
    ASSERT_EQ(held_.size(), kStreams);
    for (Held& held : held_) {
      while (auto item = held.reader.TryRead()) {
        if (item->ok()) {
          kept_bytes += kSmallStreamMessageBytes;
          continue;
        }
        ++failed;
        EXPECT_THAT(item->status(),
                    StatusIs(absl::StatusCode::kResourceExhausted,
                             HasSubstr("limits.stream_kept_bytes_max, 10000 bytes, is reached")));
        break;
      }
    }
  }
  EXPECT_LE(kept_bytes, limits.stream_kept_bytes_max);
  EXPECT_GT(failed, 0u);
  // What was read and dropped makes room again.
  for (uint32_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(peer.Send(FeedCall(1000 + i, kUpload) + SmallStreamMessage(1000 + i)));
  }
  ASSERT_TRUE(IsThrough(peer));
  absl::MutexLock lock(&mutex_);
  for (size_t i = kStreams; i < held_.size(); ++i) {
    auto item = held_[i].reader.TryRead();
    ASSERT_TRUE(item);
    EXPECT_THAT(*item, IsOk());
  }
}

TEST_F(BadStreamTest, CreditThatOverflowsClosesTheConnection) {
  Start();
  RawPeer peer = RawPeer::Greeted(endpoint_);
  ASSERT_TRUE(peer.Send(FeedCall(1, kChat)));
  peer.Send(Message(StreamHeader(FrameType::kCredit, 1, 1, 0xffff'ffff)));
  ExpectClosed(peer, "credit of 4294967295 bytes");
}

TEST_F(BadStreamTest, FramesForUnknownCallsCostNothing) {
  Start();
  RawPeer peer = RawPeer::Greeted(endpoint_);
  ASSERT_TRUE(IsThrough(peer));
  const size_t before = ResidentBytes();
  std::string many;
  for (uint32_t id = 1000; id < 3000; ++id) {
    many += SmallStreamMessage(id) + Message(StreamHeader(FrameType::kCredit, id, 1, 1)) +
            Message(ControlHeader(FrameType::kStreamEnd, id));
  }
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(peer.Send(many));
  ASSERT_TRUE(IsThrough(peer));
  EXPECT_TRUE(GoodClientIsServed());
  EXPECT_LT(ResidentBytes(), before + (8u << 20));
}

TEST_F(BadStreamTest, FloodOfFramesForUnknownCallsClosesTheConnection) {
  Limits limits;
  limits.stray_frames_max = 1000;
  Start(limits);
  for (const std::string& frame :
       {SmallStreamMessage(7), Message(StreamHeader(FrameType::kCredit, 7, 1, 1)),
        Message(ControlHeader(FrameType::kStreamEnd, 7))}) {
    RawPeer peer = RawPeer::Greeted(endpoint_);
    std::string many;
    for (int i = 0; i < 1000; ++i) many += frame;
    ASSERT_TRUE(peer.Send(many));
    peer.Send(frame);
    ExpectClosedAsFlood(peer, "limits.stray_frames_max, 1000");
    EXPECT_TRUE(GoodClientIsServed());
  }
}

// --- Frames on streams that are open, or that were ended by one side only.

TEST_F(BadStreamTest, FloodsOfWhatServesNothingOnAnOpenStreamCloseTheConnection) {
  Limits limits;
  limits.stray_frames_max = 1000;
  HoldWatches();
  Start(limits);
  // It streams its results, not its parameters; and honest readers grant half a window at once.
  for (const std::string& frame :
       {SmallStreamMessage(1), Message(ControlHeader(FrameType::kStreamEnd, 1)),
        Message(StreamHeader(FrameType::kCredit, 1, 1, 1))}) {
    RawPeer peer = RawPeer::Greeted(endpoint_);
    ASSERT_TRUE(peer.Send(FeedCall(1, kWatch)));
    ASSERT_TRUE(peer.ReadMessageOf(FrameType::kStreamMessage));
    ASSERT_TRUE(peer.Send(Times(999, frame)));
    ASSERT_TRUE(IsThrough(peer));
    peer.Send(frame);
    ExpectClosedAsFlood(peer, "limits.stray_frames_max, 1000");
    EXPECT_TRUE(GoodClientIsServed());
  }
}

// What may cross a cancellation, or the failure of the handler's half, is what there was credit
// for.
TEST_F(BadStreamTest, MessagesWithoutCreditOfAStreamThatWasCancelledCloseTheConnection) {
  Limits limits;
  limits.stream_window_bytes = 4096;
  Start(limits);
  const uint32_t fit = (4096 + kSmallStreamMessageBytes - 1) / kSmallStreamMessageBytes;
  RawPeer peer = RawPeer::Greeted(endpoint_);
  ASSERT_TRUE(peer.Send(FeedCall(1, kUpload) + Message(ControlHeader(FrameType::kCancel, 1)) +
                        Times(fit, SmallStreamMessage(1))));
  ASSERT_TRUE(IsThrough(peer));
  peer.Send(SmallStreamMessage(1));
  ExpectClosed(peer, "without credit");
}

TEST_F(BadStreamTest, MalformedMessagesTakeCreditToo) {
  Limits limits;
  limits.stream_window_bytes = 4096;
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_);
  const std::string malformed = MalformedStreamMessage(1);
  ASSERT_EQ(malformed.size(), kSmallStreamMessageBytes);
  const uint32_t fit = (4096 + kSmallStreamMessageBytes - 1) / kSmallStreamMessageBytes;
  ASSERT_TRUE(peer.Send(FeedCall(1, kUpload) + Times(fit, malformed)));
  ASSERT_TRUE(IsThrough(peer)) << "one costs the stream";
  peer.Send(malformed);
  ExpectClosed(peer, "without credit");
}

TEST_F(BadStreamTest, CreditForAStreamThatWasCancelledIsHeldToTheWindow) {
  HoldWatches();
  Start();
  RawPeer peer = RawPeer::Greeted(endpoint_);
  ASSERT_TRUE(peer.Send(FeedCall(1, kWatch)));
  const std::optional<Received> item = peer.ReadMessageOf(FrameType::kStreamMessage);
  ASSERT_TRUE(item);
  ASSERT_TRUE(peer.Send(Message(ControlHeader(FrameType::kCancel, 1)) +
                        Message(StreamHeader(FrameType::kCredit, 1, 1, item->header.size))));
  ASSERT_TRUE(IsThrough(peer)) << "it was on its way";
  peer.Send(Message(StreamHeader(FrameType::kCredit, 1, 1, 1)));
  ExpectClosed(peer, "credit of 1 bytes");
}

// An honest client does not know yet that its stream is over, and sends what it has credit for.
TEST_F(BadStreamTest, WhatWasSentBeforeTheReturnArrivedIsNoFlood) {
  Limits limits;
  limits.stray_frames_max = 10;
  limits.stream_window_bytes = 4096;
  feed_.on_upload = [](ServerContext&, StreamReader<Item>,
                       conformance::Feed::UploadResults::Builder) -> Reply {
    return absl::AbortedError("enough");
  };
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_);
  const uint32_t fit = (4096 + kSmallStreamMessageBytes - 1) / kSmallStreamMessageBytes;
  for (uint32_t id = 0; id < 100; ++id) {
    ASSERT_TRUE(peer.Send(FeedCall(id, kUpload) + Times(fit, SmallStreamMessage(id)) +
                          Message(ControlHeader(FrameType::kStreamEnd, id)) +
                          Message(StreamHeader(FrameType::kCredit, id, 1, 1u << 19))));
    ASSERT_TRUE(peer.ReadMessageOf(FrameType::kReturn));
  }
  ASSERT_TRUE(IsThrough(peer));
  // What nobody had credit for is one.
  peer.Send(Times(100 * (4096 / 40 - fit + 5) + 10, SmallStreamMessage(0)));
  ExpectClosedAsFlood(peer, "limits.stray_frames_max, 10");
}

// A stream that was cancelled counts until its handler has ended, so cancelling makes no room.
TEST_F(BadStreamTest, StreamsThatAreOpenedAndResetInALoopStartNoMoreHandlers) {
  Limits limits;
  limits.calls_in_flight_max = 10;
  Start(limits);
  RawPeer peer = RawPeer::Greeted(endpoint_);
  std::string many;
  for (uint32_t id = 0; id < 5000; ++id) {
    many += FeedCall(id, kUpload) + Message(ControlHeader(FrameType::kCancel, id));
  }
  ASSERT_TRUE(peer.Send(many));
  for (uint32_t id = 10; id < 5000; ++id) {
    const std::optional<Received> refused = peer.ReadMessageOf(FrameType::kReturn);
    ASSERT_TRUE(refused);
    ASSERT_EQ(refused->header.call_id, id);
    ASSERT_THAT(refused->status(),
                StatusIs(absl::StatusCode::kResourceExhausted, "calls_in_flight_max is 10"));
  }
  EXPECT_TRUE(GoodClientIsServed());
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(held_.size(), 10u);
  held_.clear();
}

// What a window of the smallest messages takes is bounded by their number.
TEST_F(BadStreamTest, TinyMessagesThatAreNotReadAreBoundedByTheWindow) {
  Start();
  RawPeer peer = RawPeer::Greeted(endpoint_);
  constexpr uint32_t kStreams = 20;
  constexpr uint32_t kEach = (256u << 10) / kSmallStreamMessageBytes;
  std::string calls;
  for (uint32_t id = 0; id < kStreams; ++id) calls += FeedCall(id, kUpload);
  ASSERT_TRUE(peer.Send(calls));
  ASSERT_TRUE(IsThrough(peer));
  const size_t before = ResidentBytes();
  for (uint32_t id = 0; id < kStreams; ++id) {
    std::string many;
    for (uint32_t i = 0; i < kEach; ++i) many += SmallStreamMessage(id);
    ASSERT_TRUE(peer.Send(many));
  }
  ASSERT_TRUE(IsThrough(peer));
  EXPECT_TRUE(GoodClientIsServed());
  EXPECT_LT(ResidentBytes(), before + (64u << 20)) << "for 5 MiB of messages";
}

// Each small message arrives in a buffer with much else, which must not stay for its sake.
TEST_F(BadStreamTest, SmallMessagesThatAreNotReadPinLittle) {
  Start();
  RawPeer peer = RawPeer::Greeted(endpoint_);
  ASSERT_TRUE(peer.Send(FeedCall(1, kUpload)));
  ASSERT_TRUE(IsThrough(peer));
  const size_t before = ResidentBytes();
  // A call that is answered at once, with more bytes than a receive buffer has.
  FrameHeader ask = StreamHeader(FrameType::kCall, 2, 3);
  ask.target = transport::TargetKind::kService;
  ask.interface_id = conformance::FeedService::info().id;
  ask.target_id = ServiceKey(ask.interface_id);
  const std::string junk = Message(ask, Body(Words(70'000 / 8)));
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(peer.Send(SmallStreamMessage(1) + junk));
    ASSERT_TRUE(peer.ReadMessageOf(FrameType::kReturn));
  }
  EXPECT_LT(ResidentBytes(), before + (16u << 20)) << "1000 buffers are 64 MiB";
}

TEST_F(BadStreamTest, WhatIsWrittenForAClientThatDoesNotReadIsBounded) {
  feed_.on_watch = [this](ServerContext&, conformance::Feed::WatchParams::Reader,
                          StreamWriter<Item> writer) -> Reply {
    for (uint64_t number = 0;; ++number) {
      const absl::Status sent = co_await writer.Write(conformance::NewItem(writer, number, 10'000));
      if (!sent.ok()) co_return sent;
      written_ += 10'000;
    }
  };
  Start();
  RawPeer peer = RawPeer::Greeted(endpoint_, /*receive_buffer=*/4096);
  std::string calls;
  for (uint32_t id = 0; id < 100; ++id) calls += FeedCall(id, kWatch);
  ASSERT_TRUE(peer.Send(calls));
  // Its windows are 100 MiB; but the connection takes only so much. Others, who never stop calling,
  // do not keep the loop from it.
  const Deadline begun = Deadline::After(kSoon);
  while (written_ == 0 && !begun.passed()) ASSERT_TRUE(GoodClientIsServed());
  uint64_t seen = 0;
  while (seen != written_) {
    seen = written_;
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(GoodClientIsServed());
  }
  EXPECT_GT(seen, 1u << 20);
  EXPECT_LT(seen, 16u << 20) << "the mark, a message each, and the system's buffers";
  // Who reads after all gets all.
  for (int i = 0; i < 3000; ++i) ASSERT_TRUE(peer.ReadMessageOf(FrameType::kStreamMessage));
  // A message is counted after it was written, and may have been read before that.
  const Deadline read = Deadline::After(kSoon);
  while (written_ < 30'000'000u && !read.passed()) ASSERT_TRUE(GoodClientIsServed());
  EXPECT_GE(written_, 30'000'000u);
}

}  // namespace
}  // namespace mi7::badpeer
