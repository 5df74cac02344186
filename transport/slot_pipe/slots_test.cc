// Handles of slots and their index form: a slot is in one pair of hands, however often its word
// comes again.

#include "transport/slot_pipe/slots.h"

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;

// More than a word can count: holds that were given back, and fetches that were returned.
constexpr int kMany = 200;

class SlotsTest : public testing::Test {
 protected:
  bool IsRefusedToWrite(SlotRef ref) {
    return Is(pipe_->Writing(ref).status(), StatusCode::kFailedPrecondition, "write in");
  }
  bool IsRefusedToRead(SlotRef ref) {
    return Is(pipe_->Reading(ref).status(), StatusCode::kFailedPrecondition, "read");
  }

  TestDirectory directory_;
  // One slot, so that it is always the same.
  std::unique_ptr<SlotPipe> pipe_ =
      SlotPipe::Create("test", {.slots = 1, .slot_bytes = 64, .attempts_max = 0}).value();
};

TEST_F(SlotsTest, ASlotRefIsMadeAHandleOfOnceAndSoAreItsCopies) {
  const SlotRef held = pipe_->TryHold()->Detach();
  {
    auto slot = pipe_->Writing(held);
    ASSERT_TRUE(slot.ok()) << slot.status();
    EXPECT_TRUE(IsRefusedToWrite(held)) << "two handles of one slot";
    EXPECT_TRUE(IsRefusedToWrite(slot->ref())) << "it is in the handle";
    EXPECT_TRUE(pipe_->MarkInProgress(slot->ref()).ok());
    EXPECT_TRUE(Is(pipe_->MarkInProgress(held), StatusCode::kFailedPrecondition, "hand on"));
    const SlotRef again = slot->Detach();
    EXPECT_TRUE(IsRefusedToWrite(held)) << "that of the first time";
    EXPECT_TRUE(pipe_->MarkInProgress(again).ok());
    slot = pipe_->Writing(again);
    ASSERT_TRUE(slot.ok()) << slot.status();
    ASSERT_TRUE(slot->SendBytes("x").ok());
  }
  const SlotRef fetched = pipe_->TryFetch()->Detach();
  auto message = pipe_->Reading(fetched);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_TRUE(IsRefusedToRead(fetched));
  const SlotRef again = message->Detach();
  EXPECT_TRUE(IsRefusedToRead(fetched));
  EXPECT_EQ(message->Detach(), SlotRef{}) << "there is none in it";
  EXPECT_TRUE(pipe_->Reading(again)->Release().ok());
}

TEST_F(SlotsTest, AStaleSlotRefIsRefusedHoweverOftenItsSlotWasHeldSince) {
  const SlotRef stale = pipe_->TryHold()->Detach();
  ASSERT_TRUE(pipe_->Writing(stale)->GiveBack().ok());
  for (int i = 0; i < kMany; ++i) {
    auto slot = pipe_->TryHold();
    ASSERT_TRUE(slot.ok()) << slot.status();
    ASSERT_TRUE(IsRefusedToWrite(stale)) << "after " << i;
    const SlotRef now = slot->Detach();
    ASSERT_TRUE(IsRefusedToWrite(stale)) << "after " << i;
    ASSERT_TRUE(pipe_->Writing(now)->GiveBack().ok());
  }
}

TEST_F(SlotsTest, AStaleSlotRefIsRefusedHoweverOftenItsMessageWasFetchedSince) {
  ASSERT_TRUE(pipe_->SendBytes("again").ok());
  for (const bool unseen : {false, true}) {
    SCOPED_TRACE(unseen ? "unseen" : "seen");
    SlotRef stale;
    for (int i = 0; i < kMany; ++i) {
      auto message = pipe_->TryFetch();
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_TRUE(i == 0 || IsRefusedToRead(stale)) << "after " << i;
      stale = message->Detach();
      message = pipe_->Reading(stale);
      ASSERT_TRUE((unseen ? message->ReturnUnseen() : message->Return()).ok());
    }
  }
}

TEST_F(SlotsTest, WhatWasInProgressIsNotWhenItIsHeldOrFetchedAgain) {
  for (int i = 0; i < kMany; ++i) {
    auto slot = pipe_->TryHold();
    ASSERT_EQ(pipe_->StateOf(0).value(), SlotState::kWriting) << "after " << i;
    ASSERT_TRUE(i != 0 || pipe_->MarkInProgress(slot->ref()).ok());
  }
  ASSERT_TRUE(pipe_->SendBytes("again").ok());
  for (int i = 0; i < kMany; ++i) {
    auto message = pipe_->TryFetch();
    ASSERT_EQ(pipe_->StateOf(0).value(), SlotState::kReading) << "after " << i;
    // When its attempts are counted no further.
    ASSERT_TRUE(i != kMany / 2 || pipe_->MarkInProgress(message->ref()).ok());
  }
}

}  // namespace
}  // namespace mi7
