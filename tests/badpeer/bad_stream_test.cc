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
#include "rpc/interface_info.h"
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

enum Method : uint16_t { kWatch = 0, kUpload = 1, kChat = 2 };

std::string FeedCall(uint32_t call_id, Method method) {
  FrameHeader header;
  header.type = FrameType::kCall;
  header.target = transport::TargetKind::kService;
  header.code = method;
  header.call_id = call_id;
  header.interface_id = conformance::FeedService::info().id;
  header.target_id = ServiceKey(header.interface_id);
  return Message(header, Body({0}));  // the parameters are an empty struct
}
FrameHeader StreamHeader(FrameType type, uint32_t call_id, uint16_t direction, uint32_t bytes = 0) {
  FrameHeader header = ControlHeader(type, call_id);
  header.code = direction;
  header.timeout = bytes;
  return header;
}
// An item that is an empty struct.
std::string SmallMessage(uint32_t call_id) {
  return Message(StreamHeader(FrameType::kStreamMessage, call_id, 0), Body({0}));
}
constexpr uint32_t kSmallMessageBytes = 32 + 8 + 8;

class BadStreamTest : public testing::Test {
 protected:
  void Start(const Limits& limits = {}) {
    // Whatever is uploaded is not read until the test ends.
    feed_.on_upload = [this](ServerContext& context, StreamReader<Item> reader,
                             conformance::Feed::UploadResults::Builder) {
      absl::MutexLock lock(&mutex_);
      held_.push_back({std::move(reader), context.Defer()});
      return Reply::Later();
    };
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
  void ExpectClosed(RawPeer& peer, const std::string& text) {
    const std::optional<Received> close = peer.ReadMessageOf(FrameType::kClose);
    ASSERT_TRUE(close) << "ended without a word";
    EXPECT_THAT(close->status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
    EXPECT_TRUE(peer.Ends());
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
  std::atomic<uint64_t> written_{0};  // bytes; also while the server ends
  FeedImpl feed_;
  absl::Mutex mutex_;
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
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
  const uint32_t fit = (4096 + kSmallMessageBytes - 1) / kSmallMessageBytes;
  for (uint32_t i = 0; i < fit; ++i) all += SmallMessage(1);
  ASSERT_TRUE(peer.Send(all));
  ASSERT_TRUE(IsThrough(peer));
  peer.Send(SmallMessage(1));
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
    for (uint32_t call = 0; call < kStreams; ++call) all += SmallMessage(call);
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
          kept_bytes += kSmallMessageBytes;
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
    ASSERT_TRUE(peer.Send(FeedCall(1000 + i, kUpload) + SmallMessage(1000 + i)));
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
    many += SmallMessage(id) + Message(StreamHeader(FrameType::kCredit, id, 1, 1)) +
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
       {SmallMessage(7), Message(StreamHeader(FrameType::kCredit, 7, 1, 1)),
        Message(ControlHeader(FrameType::kStreamEnd, 7))}) {
    RawPeer peer = RawPeer::Greeted(endpoint_);
    std::string many;
    for (int i = 0; i < 1000; ++i) many += frame;
    ASSERT_TRUE(peer.Send(many));
    peer.Send(frame);
    const std::optional<Received> close = peer.ReadMessageOf(FrameType::kClose);
    ASSERT_TRUE(close) << "ended without a word";
    EXPECT_THAT(close->status(), StatusIs(absl::StatusCode::kResourceExhausted,
                                          HasSubstr("limits.stray_frames_max, 1000")));
    EXPECT_TRUE(peer.Ends());
    EXPECT_TRUE(GoodClientIsServed());
  }
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
  constexpr uint32_t kEach = (256u << 10) / kSmallMessageBytes;
  std::string calls;
  for (uint32_t id = 0; id < kStreams; ++id) calls += FeedCall(id, kUpload);
  ASSERT_TRUE(peer.Send(calls));
  ASSERT_TRUE(IsThrough(peer));
  const size_t before = ResidentBytes();
  for (uint32_t id = 0; id < kStreams; ++id) {
    std::string many;
    for (uint32_t i = 0; i < kEach; ++i) many += SmallMessage(id);
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
    ASSERT_TRUE(peer.Send(SmallMessage(1) + junk));
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
