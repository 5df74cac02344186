// Messages that find no free slot: whom they wait for, and whom not.

#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "transport/copy_counter.h"
#include "transport/shm/connection_testing.h"
#include "transport/shm/shm_options.h"
#include "transport/shm/testing.h"
#include "transport/stream/testing.h"

namespace mi7::transport::shm {
namespace {

using transport::testing::BodyOf;
using transport::testing::MakeMessage;

// A message that needs slots, behind a full ring, and all slots held by messages behind it: those
// would come free only after it.
// With the parameter, their senders keep them as calls keep their requests.
class HeldByLaterOnesTest : public ShmConnectionTest, public ::testing::WithParamInterface<bool> {
 protected:
  HeldByLaterOnesTest() : ShmConnectionTest({{4096, 5}}) {}
};

TEST_P(HeldByLaterOnesTest, SlotsAreGivenUpForTheFirstInTheQueueAndAllArriveInOrder) {
  struct Arrived {
    absl::Mutex mutex;
    std::vector<std::pair<uint32_t, std::string>> messages;
  };
  const auto arrived = std::make_shared<Arrived>();
  at_server_->set_hook([arrived](IncomingMessage message) {
    absl::MutexLock lock(&arrived->mutex);
    arrived->messages.emplace_back(message.header().call_id, BodyOf(message));
  });
  uint32_t sent = 0;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  const uint32_t large = sent;
  ASSERT_TRUE(Send(sent++, 10'000).ok()) << "of three slots";
  const uint64_t copied_before = copied_payload_bytes.load();
  std::vector<OutgoingMessage> kept;
  for (int i = 0; i < 4; ++i) {
    absl::StatusOr<OutgoingMessage> message = client_->Reserve(3'000);
    ASSERT_TRUE(message.ok());
    (*message)->header.type = FrameType::kCall;
    (*message)->header.target = TargetKind::kService;
    (*message)->header.call_id = sent++;
    auto data = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(3'000);
    std::fill(data.begin(), data.end(), static_cast<uint8_t>(i));
    if (GetParam()) {
      kept.push_back(*std::move(message));
      *message = ShareMessage(*kept.back(), 4096);
    }
    ASSERT_TRUE(client_->Send(*std::move(message)).ok());
  }
  EXPECT_EQ(CommittedSlotBytes(), 4 * 4096u) << "all are held but that for finished messages";
  EXPECT_EQ(copied_payload_bytes.load(), copied_before);
  StartServer();
  ASSERT_TRUE(at_server_->WaitMessages(static_cast<int>(sent)));
  EXPECT_TRUE(at_client_->unsent().empty());
  absl::MutexLock lock(&arrived->mutex);
  const auto all = [&] { return arrived->messages.size() == sent; };
  ASSERT_TRUE(arrived->mutex.AwaitWithTimeout(absl::Condition(&all), absl::Seconds(10)));
  for (uint32_t i = 0; i < sent; ++i) {
    const auto& [id, body] = arrived->messages[i];
    EXPECT_EQ(id, i);
    EXPECT_EQ(body, i < large    ? std::string(40, 7)
                    : i == large ? std::string(10'000, 7)
                                 : std::string(3'000, static_cast<char>(i - large - 1)));
  }
  EXPECT_LE(CommittedSlotBytes(), 5 * 4096u);
}

// A message that turns out to be small travels without its slot, which others may need meanwhile.
TEST_P(HeldByLaterOnesTest, SlotsOfMessagesThatRideInTheRingAreForOthers) {
  StartServer();
  std::vector<OutgoingMessage> kept;
  for (uint32_t i = 0; i < 4; ++i) {
    absl::StatusOr<OutgoingMessage> message = client_->Reserve(3'000);
    ASSERT_TRUE(message.ok());
    (*message)->header.type = FrameType::kCall;
    (*message)->header.target = TargetKind::kService;
    (*message)->header.call_id = i;
    auto data = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(40);
    std::fill(data.begin(), data.end(), uint8_t{7});
    if (GetParam()) {
      kept.push_back(*std::move(message));
      *message = ShareMessage(*kept.back(), 4096);
    }
    ASSERT_TRUE(client_->Send(*std::move(message)).ok());
  }
  ASSERT_TRUE(Send(4, 10'000).ok()) << "of three slots";
  ASSERT_TRUE(at_server_->WaitMessages(5));
}

// What is built in slots and private memory in turn needs room for all of it together.
TEST_P(HeldByLaterOnesTest, MessageWhoseOwnSlotsAreInItsWayArrives) {
  StartServer();
  absl::StatusOr<OutgoingMessage> message = client_->Reserve(3'000);
  ASSERT_TRUE(message.ok());
  (*message)->header.type = FrameType::kCall;
  (*message)->header.target = TargetKind::kService;
  auto list = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(3);
  list.init(0, 3'000);
  list.init(1, 3'000);
  {
    std::vector<OutgoingMessage> others;
    for (int i = 0; i < 2; ++i) {
      others.push_back(*client_->Reserve(3'000));
      others.back()->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(3'000);
    }
    list.init(2, 10'000);
  }
  OutgoingMessage kept;
  if (GetParam()) {
    kept = *std::move(message);
    *message = ShareMessage(*kept, 16'384);
  }
  ASSERT_TRUE(client_->Send(*std::move(message)).ok());
  ASSERT_TRUE(at_server_->WaitMessages(1));
}

INSTANTIATE_TEST_SUITE_P(All, HeldByLaterOnesTest, ::testing::Bool(),
                         [](const auto& of) { return std::string(of.param ? "kept" : "sent"); });

// Messages under construction hold slots for as long as their makers like.
class UnderConstructionTest : public ShmConnectionTest {
 protected:
  UnderConstructionTest() : ShmConnectionTest({{4096, 4}}) {}
  void SetUp() override {
    ShmConnectionTest::SetUp();
    StartServer();
  }
  OutgoingMessage Begin() {
    OutgoingMessage message = *client_->Reserve(3'000);
    message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(3'000);
    return message;
  }
  // A call that needs several slots is sent while they are held, and a small one after it; they
  // wait, and nobody is about to look after them.
  void SendTwoThatWait() {
    const uint64_t copied_before = copied_payload_bytes.load();
    ASSERT_TRUE(Send(1, 10'000).ok());
    ASSERT_TRUE(Send(2, 40).ok());
    LetTurn(*client_loop_);
    ASSERT_EQ(copied_payload_bytes.load(), copied_before) << "it waits";
  }
};

TEST_F(UnderConstructionTest, WhatWaitedForTheirSlotsIsSentWhenTheyAreDropped) {
  std::vector<OutgoingMessage> others;
  for (int i = 0; i < 3; ++i) others.push_back(Begin());
  SendTwoThatWait();
  others.clear();
  EXPECT_TRUE(at_server_->WaitMessages(2));
}

TEST_F(UnderConstructionTest, WhatWaitedBehindACallThatIsWithdrawnIsSent) {
  std::vector<OutgoingMessage> others;
  for (int i = 0; i < 3; ++i) others.push_back(Begin());
  SendTwoThatWait();
  ASSERT_TRUE(client_->Withdraw(1));
  EXPECT_TRUE(at_server_->WaitMessages(1));
}

TEST_F(UnderConstructionTest, LeaveASlotForThoseThatAreFinished) {
  std::vector<OutgoingMessage> others;
  for (int i = 0; i < 5; ++i) others.push_back(Begin());
  for (uint32_t i = 1; i <= 8; ++i) ASSERT_TRUE(Send(i, 3'000).ok());
  EXPECT_TRUE(at_server_->WaitMessages(8));
}

// Each attempt to write the first of them takes as long, however many wait behind it: with a look
// at all of them it would be a hundred times as long in sum.
TEST_F(UnderConstructionTest, WhatWaitsIsNotSearchedAtEachAttempt) {
  const auto cpu_time = [] {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return absl::DurationFromTimespec(time);
  };
  std::vector<OutgoingMessage> others;
  for (int i = 0; i < 3; ++i) others.push_back(Begin());
  SendTwoThatWait();
  constexpr uint32_t kMessages = 15'000;  // that a queue may hold
  const absl::Duration before = cpu_time();
  for (uint32_t i = 3; i <= kMessages; ++i) ASSERT_TRUE(Send(i, 40).ok());
  LetTurn(*client_loop_);
  EXPECT_LT(cpu_time() - before, absl::Seconds(4));
  others.clear();
  EXPECT_TRUE(at_server_->WaitMessages(kMessages));
}

// Who keeps messages does not stall the others, whatever they are made of.
class KeptMessagesTest : public ShmConnectionTest,
                         public ::testing::WithParamInterface<std::vector<ShmOptions::SlotClass>> {
 protected:
  KeptMessagesTest() : ShmConnectionTest(GetParam()) {}
};

TEST_P(KeptMessagesTest, LeaveRoomForOthersOfTheSameSize) {
  StartServer();
  at_server_->set_keep(true);
  for (uint32_t i = 1; i <= 8; ++i) {
    ASSERT_TRUE(client_->Send(MakeMessage(FrameType::kCall, i, 10'000, uint8_t(i))).ok());
    ASSERT_TRUE(at_server_->WaitMessages(static_cast<int>(i))) << "behind those that are kept";
  }
  std::vector<IncomingMessage> kept = at_server_->TakeKept();
  ASSERT_EQ(kept.size(), 8u);
  // Released in another order than they came.
  for (uint32_t i : {3, 7, 0, 1, 6, 5, 2, 4}) {
    EXPECT_EQ(BodyOf(kept[i]), std::string(10'000, static_cast<char>(i + 1)));
    kept[i].reset();
  }
}

// What is larger than a slot of the last class needs several that are adjacent, so it matters too
// which ones are kept.
class KeptHereAndThereTest : public ShmConnectionTest {
 protected:
  KeptHereAndThereTest() : ShmConnectionTest({{4096, 10}}) {}
  OutgoingMessage Begin(uint32_t call_id) {
    OutgoingMessage message = *client_->Reserve(3'000);
    message->header.type = FrameType::kCall;
    message->header.target = TargetKind::kService;
    message->header.call_id = call_id;
    return message;
  }
  // As large as a message may be for which there is always room.
  absl::Status SendLarge(uint32_t call_id) { return Send(call_id, 20'000); }
};

TEST_F(KeptHereAndThereTest, MessagesLeaveRoomForLargerOnes) {
  struct Kept {
    absl::Mutex mutex;
    std::vector<IncomingMessage> messages;
  };
  const auto kept = std::make_shared<Kept>();
  at_server_->set_hook([kept](IncomingMessage message) {
    const uint32_t call_id = message.header().call_id;
    absl::MutexLock lock(&kept->mutex);
    if (call_id == 3 || call_id == 6) kept->messages.push_back(std::move(message));
  });
  // Each in the slot of its number.
  for (uint32_t i = 0; i < 10; ++i) ASSERT_TRUE(Send(i, 3'000).ok());
  StartServer();
  ASSERT_TRUE(at_server_->WaitMessages(10));
  ASSERT_TRUE(SendLarge(10).ok());
  ASSERT_TRUE(Send(11, 40).ok());
  EXPECT_TRUE(at_server_->WaitMessages(12));
  absl::MutexLock lock(&kept->mutex);
  for (const IncomingMessage& message : kept->messages) {
    EXPECT_EQ(BodyOf(message), std::string(3'000, 7));
  }
  kept->messages.clear();
}

TEST_F(KeptHereAndThereTest, MessageOfSeveralPiecesLeavesRoomForLargerOnes) {
  StartServer();
  at_server_->set_keep(true);
  std::vector<OutgoingMessage> others;
  const auto take_one = [&] {
    others.push_back(*client_->Reserve(3'000));
    others.back()->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(3'000);
  };
  take_one();
  take_one();
  OutgoingMessage message = Begin(1);
  auto list = message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(2);
  list.init(0, 3'000);
  take_one();
  list.init(1, 6'000);
  others.clear();
  ASSERT_TRUE(client_->Send(std::move(message)).ok());
  ASSERT_TRUE(at_server_->WaitMessages(1));
  ASSERT_TRUE(SendLarge(2).ok());
  EXPECT_TRUE(at_server_->WaitMessages(2));
}

TEST_F(KeptHereAndThereTest, WhatIsReleasedCountsNoMore) {
  StartServer();
  at_server_->set_keep(true);
  const uint64_t copied_before = copied_payload_bytes.load();
  std::vector<OutgoingMessage> others;
  for (uint32_t i = 1; i <= 8; ++i) {
    OutgoingMessage message = Begin(i);
    message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(3'000);
    ASSERT_TRUE(client_->Send(std::move(message)).ok());
    ASSERT_TRUE(at_server_->WaitMessages(static_cast<int>(i)));
    EXPECT_EQ(at_server_->TakeKept().size(), 1u) << "and released";
    // The next one has another slot.
    others.push_back(*client_->Reserve(3'000));
    others.back()->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(3'000);
  }
  EXPECT_EQ(copied_payload_bytes.load(), copied_before);
}

using Classes = std::vector<ShmOptions::SlotClass>;
INSTANTIATE_TEST_SUITE_P(All, KeptMessagesTest,
                         ::testing::Values(Classes{{4096, 8}}, Classes{{4096, 7}},
                                           Classes{{16384, 1}}, Classes{{4096, 4}, {16384, 1}},
                                           Classes{{16384, 1}, {65536, 2}}),
                         [](const auto& of) {
                           std::string name = "Of";
                           for (const ShmOptions::SlotClass& each : of.param) {
                             name +=
                                 std::to_string(each.count) + "x" + std::to_string(each.slot_bytes);
                           }
                           return name;
                         });

}  // namespace
}  // namespace mi7::transport::shm
