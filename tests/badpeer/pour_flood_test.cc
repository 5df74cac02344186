// A client of `-> stream` calls that respects no window: what the server keeps for it is bounded by
// default, it is told when to come again, and others are served meanwhile.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
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
using conformance::kSoon;

constexpr uint16_t kPour = 4;
constexpr size_t kCallWords = (1u << 20) / 8;
constexpr uint64_t kCallBytes = 32 + 8 + 8 * kCallWords;  // header, table of segments, segment

FrameHeader PourHeader(uint32_t call_id) {
  FrameHeader header;
  header.type = FrameType::kCall;
  header.target = transport::TargetKind::kService;
  header.code = kPour;
  header.call_id = call_id;
  header.interface_id = conformance::FeedService::info().id;
  header.target_id = ServiceKey(header.interface_id);
  return header;
}
// The parameters are an empty struct, and much that it does not point to.
std::string PourCall(uint32_t call_id) {
  return Message(PourHeader(call_id), Body(Words(kCallWords)));
}
// Of which so many fit.
Limits HoldingCalls(uint64_t count) {
  Limits limits;
  limits.message_bytes_max = 1u << 21;
  limits.request_bytes_max = count * kCallBytes;
  return limits;
}

// The server answers no pour until the test does.
class PourFloodTest : public testing::Test {
 protected:
  PourFloodTest() {
    feed_.on_pour = [this](ServerContext& context, conformance::Item::Reader) {
      absl::MutexLock lock(&mutex_);
      held_.push_back(context.Defer());
      return Reply::Later();
    };
  }
  void Start(const Limits& limits) {
    ServerOptions options;
    options.limits = limits;
    options.event_loops = 1;  // the good client shares it with the bad one
    server_ =
        *ServerBuilder().SetOptions(options).AddService(&feed_).Listen("tcp:127.0.0.1:0").Start();
    channel_ = *Channel::Create(server_->endpoints()[0]);
    ASSERT_TRUE(GoodClientIsServed());
  }
  void TearDown() override {
    EXPECT_TRUE(GoodClientIsServed());
    absl::MutexLock lock(&mutex_);
    held_.clear();
  }
  testing::AssertionResult GoodClientIsServed() {
    auto request = FeedStub(channel_).Ask({.deadline = Deadline::After(kSoon)});
    request->setNumber(5);
    const auto result = request.Send().Wait();
    if (!result.ok()) return testing::AssertionFailure() << result.status();
    return testing::AssertionSuccess();
  }
  // Sends the pours from `first` on, and reads how each of those after `taken` of them is refused.
  void ExpectRefusals(RawPeer& peer, uint32_t first, uint32_t count, uint32_t taken) {
    for (uint32_t id = first; id < first + count; ++id) {
      ASSERT_TRUE(peer.Send(PourCall(id)));
      if (id < first + taken) continue;
      const std::optional<Received> refused = peer.ReadMessageOf(FrameType::kReturn);
      ASSERT_TRUE(refused);
      ASSERT_EQ(refused->header.call_id, id);
      ASSERT_TRUE(refused->refused());
      ASSERT_THAT(refused->status(), StatusIs(absl::StatusCode::kResourceExhausted,
                                              testing::StartsWith("request_bytes_max is ")));
    }
  }
  size_t Held() {
    absl::MutexLock lock(&mutex_);
    return held_.size();
  }

  FeedImpl feed_;
  absl::Mutex mutex_;
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

TEST_F(PourFloodTest, CallsWithoutAWindowAreBoundedByTheirBytes) {
  const Limits limits = HoldingCalls(8);
  Start(limits);
  RawPeer peer = RawPeer::Greeted(server_->endpoints()[0]);
  const size_t before = ResidentBytes();
  ASSERT_NO_FATAL_FAILURE(ExpectRefusals(peer, /*first=*/0, /*count=*/200, /*taken=*/8));
  EXPECT_EQ(Held(), 8u);
  EXPECT_LT(ResidentBytes(), before + (40u << 20)) << "of 200 MiB";
  EXPECT_TRUE(GoodClientIsServed());
  // What is answered makes room, for as much.
  for (int i = 0; i < 3; ++i) {
    absl::MutexLock lock(&mutex_);
    held_.back().Finish(absl::OkStatus());
    held_.pop_back();
  }
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(peer.ReadMessageOf(FrameType::kReturn));
  ASSERT_NO_FATAL_FAILURE(ExpectRefusals(peer, /*first=*/1000, /*count=*/5, /*taken=*/3));
  EXPECT_EQ(Held(), 8u);
}

// Small calls among much else that is answered at once, each in a large buffer of its own.
TEST_F(PourFloodTest, SmallCallsKeepNoLargeBuffers) {
  Start({});
  RawPeer peer = RawPeer::Greeted(server_->endpoints()[0]);
  constexpr uint32_t kCalls = 1000;
  // A method that there is not.
  FrameHeader unknown = PourHeader(1u << 20);
  unknown.code = 999;
  const std::string filler = Message(unknown, Body(Words((70u << 10) / 8)));
  const size_t before = ResidentBytes();
  for (uint32_t id = 0; id < kCalls; ++id) {
    ASSERT_TRUE(peer.Send(Message(PourHeader(id), Body(Words(4))) + filler));
    ASSERT_TRUE(peer.ReadMessageOf(FrameType::kReturn));
  }
  EXPECT_EQ(Held(), kCalls);
  EXPECT_LT(ResidentBytes(), before + (24u << 20)) << "of " << kCalls << " buffers of 64 KiB";
}

// What one connection has in flight takes nothing from another one.
TEST_F(PourFloodTest, EachConnectionHasItsOwn) {
  const Limits limits = HoldingCalls(2);
  Start(limits);
  RawPeer first = RawPeer::Greeted(server_->endpoints()[0]);
  RawPeer second = RawPeer::Greeted(server_->endpoints()[0]);
  ASSERT_NO_FATAL_FAILURE(ExpectRefusals(first, /*first=*/0, /*count=*/4, /*taken=*/2));
  ASSERT_NO_FATAL_FAILURE(ExpectRefusals(second, /*first=*/0, /*count=*/4, /*taken=*/2));
  EXPECT_EQ(Held(), 4u);
}

TEST_F(PourFloodTest, ByDefaultItIs256MiB) {
  Start({});
  RawPeer peer = RawPeer::Greeted(server_->endpoints()[0]);
  constexpr uint32_t kFit = (256u << 20) / kCallBytes;
  ASSERT_NO_FATAL_FAILURE(ExpectRefusals(peer, /*first=*/0, /*count=*/kFit + 40, /*taken=*/kFit));
  EXPECT_EQ(Held(), kFit);
}

}  // namespace
}  // namespace mi7::badpeer
