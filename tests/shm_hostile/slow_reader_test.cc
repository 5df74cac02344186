// A peer that reads what is written into the ring, but gives no slot back: what waits for one is
// bounded.

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "tests/shm_hostile/hostile_peer.h"
#include "transport/event_loop.h"
#include "transport/message.h"
#include "transport/shm/layout.h"

namespace mi7::shm_hostile {
namespace {

using ::testing::HasSubstr;
namespace shm = transport::shm;

constexpr uint32_t kBytes = 3000;  // each takes a slot
constexpr uint32_t kAllSlots = HostilePeer::kSlots[0] + HostilePeer::kSlots[1];

class SlowReaderTest : public ::testing::Test {
 protected:
  static PeerOptions Options() {
    PeerOptions options;
    options.limits.queued_bytes_max = 256u << 10;
    options.limits.unread_answer_bytes_max = 512u << 10;
    return options;
  }
  absl::Status SendAnswer(uint32_t call_id) {
    transport::OutgoingMessage message = transport::NewHeapMessage(kBytes + 16);
    message->header.type = transport::FrameType::kReturn;
    message->header.call_id = call_id;
    message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(kBytes);
    return peer_.connection()->Send(std::move(message));
  }
  // Reads the records that are there; how many. Their slots stay in use.
  uint32_t TakeRecords() {
    for (uint32_t count = 0;; ++count) {
      const shm::Cell& first = peer_.theirs().ring[position_ % shm::kRingCells];
      if (first.sequence.load(std::memory_order_acquire) != shm::SequenceAt(position_)) {
        return count;
      }
      position_ += first.shape >> 8 & 0xff;
      peer_.half().consumed.store(static_cast<uint32_t>(position_), std::memory_order_release);
    }
  }

  FakeClock clock_;
  std::unique_ptr<transport::EventLoop> loop_ = *transport::EventLoop::Create({});
  HostilePeer peer_{loop_.get(), Options()};
  uint64_t position_ = 0;
};

TEST_F(SlowReaderTest, WhoGivesNoSlotBackIsOwedABoundedQueueAndKept) {
  uint32_t sent = 0;
  uint32_t read = 0;
  absl::Status refused;
  for (; refused.ok(); read += TakeRecords()) {
    ASSERT_LT(sent, 10'000u);
    refused = SendAnswer(sent);
    if (refused.ok()) ++sent;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("unread_answer_bytes_max"));
  EXPECT_EQ(read, kAllSlots);
  EXPECT_LE((sent - read) * kBytes, 512u << 10);
  // It may be an honest one, whose user keeps what it was sent for long.
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(Limits{}.write_stall_timeout);
    Fence(loop_.get());
  }
  EXPECT_FALSE(peer_.witness().closed());
  // It goes on as the slots come back.
  const int64_t until_ns = SystemNanos() + 20'000'000'000;
  while (read < sent && SystemNanos() < until_ns) {
    peer_.half().released[0].fetch_xor((uint64_t{1} << kAllSlots) - 1);
    peer_.Ring();
    // All of them are in use again, or nothing is left.
    const uint32_t goal = std::min(read + kAllSlots, sent);
    while (read < goal && SystemNanos() < until_ns) {
      read += TakeRecords();
      ::sched_yield();
    }
  }
  EXPECT_EQ(read, sent);
}

}  // namespace
}  // namespace mi7::shm_hostile
