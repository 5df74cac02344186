#include "transport/slot_pipe/slot_pipe.h"

#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;

class SlotPipeTest : public testing::Test {
 protected:
  std::unique_ptr<SlotPipe> Create(const PipeOptions& options = {.slots = 4, .slot_bytes = 64},
                                   absl::string_view name = "test") {
    auto pipe = SlotPipe::Create(name, options);
    EXPECT_TRUE(pipe.ok()) << pipe.status();
    return *std::move(pipe);
  }
  std::unique_ptr<SlotPipe> Connect(absl::string_view name = "test") {
    auto pipe = SlotPipe::Connect(name);
    EXPECT_TRUE(pipe.ok()) << pipe.status();
    return *std::move(pipe);
  }
  static Deadline Soon() { return Deadline::After(absl::Milliseconds(5)); }

  TestDirectory directory_;
};

TEST_F(SlotPipeTest, AMessageIsReadWhereItWasWritten) {
  auto producer = Create();
  auto consumer = Connect();
  auto slot = producer->Hold();
  ASSERT_TRUE(slot.ok()) << slot.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(slot->data()) % 64, 0u);
  std::memcpy(slot->data(), "hello", 5);
  const uint32_t index = slot->index();
  ASSERT_TRUE(slot->Send(5).ok());
  EXPECT_FALSE(*slot);

  auto message = consumer->Fetch();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "hello");
  EXPECT_EQ(message->index(), index);
  EXPECT_EQ(message->attempt(), 1u);
  EXPECT_FALSE(message->redelivered());
  EXPECT_TRUE(message->Release().ok());
  EXPECT_EQ(consumer->StateOf(index).value(), SlotState::kEmpty);
}

TEST_F(SlotPipeTest, ThePresetsHaveTheirSlotsAndBytes) {
  const struct {
    const char* name;
    PipeOptions options;
    uint32_t slots;
    uint32_t slot_bytes;
  } kPresets[] = {{"small", PipeOptions::Small(), 10, 1024},
                  {"default", PipeOptions::Default(), 100, 4096},
                  {"large", PipeOptions::Large(), 1000, 8192}};
  for (const auto& preset : kPresets) {
    SCOPED_TRACE(preset.name);
    auto pipe = Create(preset.options, preset.name);
    EXPECT_EQ(pipe->slots(), preset.slots);
    EXPECT_EQ(pipe->slot_bytes(), preset.slot_bytes);
    EXPECT_EQ(pipe->Status().options.slots, preset.slots);
    EXPECT_EQ(pipe->Status().options.slot_bytes, preset.slot_bytes);
    // So many messages of that size, and no more.
    const std::string full(preset.slot_bytes, 'x');
    for (uint32_t i = 0; i < preset.slots; ++i) ASSERT_TRUE(pipe->SendBytes(full).ok()) << i;
    EXPECT_TRUE(Is(pipe->TryHold().status(), StatusCode::kResourceExhausted,
                   absl::StrCat("all ", preset.slots, " slots")));
    EXPECT_TRUE(Is(pipe->SendBytes(full + "x"), StatusCode::kInvalidArgument,
                   absl::StrCat("has ", preset.slot_bytes)));
    for (uint32_t i = 0; i < preset.slots; ++i) {
      auto message = pipe->TryFetch();
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_EQ(message->text(), full);
      ASSERT_TRUE(message->Release().ok());
    }
  }
}

TEST_F(SlotPipeTest, MessagesComeInTheOrderOfTheirSends) {
  auto pipe = Create();
  for (int round = 0; round < 1000; ++round) {
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(pipe->SendBytes(absl::StrCat(round, ".", i)).ok());
    for (int i = 0; i < 4; ++i) {
      auto message = pipe->TryFetch();
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_EQ(message->text(), absl::StrCat(round, ".", i));
      ASSERT_TRUE(message->Release().ok());
    }
  }
}

TEST_F(SlotPipeTest, FullAndEmptyAreToldApart) {
  auto pipe = Create();
  EXPECT_TRUE(Is(pipe->TryFetch().status(), StatusCode::kUnavailable, "'test'"));
  EXPECT_TRUE(Is(pipe->Fetch(Soon()).status(), StatusCode::kDeadlineExceeded, "no message"));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pipe->SendBytes("x").ok());
  EXPECT_TRUE(Is(pipe->TryHold().status(), StatusCode::kResourceExhausted, "all 4 slots"));
  EXPECT_TRUE(Is(pipe->Hold(Soon()).status(), StatusCode::kDeadlineExceeded, "all 4 slots"));
  EXPECT_TRUE(Is(pipe->SendBytes("x", Soon()), StatusCode::kDeadlineExceeded, "all 4 slots"));
  EXPECT_TRUE(Is(pipe->TrySendBytes("x"), StatusCode::kResourceExhausted, "all 4 slots"));
  EXPECT_TRUE(Is(pipe->TrySendBytes(std::string(65, 'x')), StatusCode::kInvalidArgument, "has 64"));
  ASSERT_TRUE(pipe->TryFetch()->Release().ok());
  EXPECT_TRUE(pipe->TrySendBytes("x").ok());
}

TEST_F(SlotPipeTest, ADroppedHandleGivesItsSlotBack) {
  auto pipe = Create();
  for (int i = 0; i < 100; ++i) {
    auto slot = pipe->TryHold();
    ASSERT_TRUE(slot.ok()) << slot.status();
    EXPECT_EQ(pipe->StateOf(slot->index()).value(), SlotState::kWriting);
  }
  EXPECT_EQ(pipe->Status().empty, 4u);
}

TEST_F(SlotPipeTest, AMessageThatIsNotReleasedComesAgainAndThenIsADeadLetter) {
  auto pipe = Create({.slots = 4, .slot_bytes = 64, .attempts_max = 3});
  ASSERT_TRUE(pipe->SendBytes("poison").ok());
  for (uint32_t attempt = 1; attempt <= 3; ++attempt) {
    auto message = pipe->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->attempt(), attempt);
    EXPECT_EQ(message->redelivered(), attempt > 1);
  }
  EXPECT_TRUE(Is(pipe->TryFetch().status(), StatusCode::kUnavailable, ""));
  PipeStatus status = pipe->Status();
  EXPECT_EQ(status.dead_letters, 1u);
  EXPECT_EQ(status.dead_lettered, 1u);
  EXPECT_EQ(status.redelivered, 2u);
  EXPECT_EQ(pipe->StateOf(0).value() == SlotState::kDeadLetter, true);
  {
    auto dead = pipe->TryFetchDeadLetter();
    ASSERT_TRUE(dead.ok()) << dead.status();
    EXPECT_EQ(dead->text(), "poison");
  }
  EXPECT_EQ(pipe->Status().dead_letters, 1u) << "not released, so still there";
  EXPECT_EQ(pipe->Status().dead_lettered, 1u) << "no other one";
  auto dead = pipe->TryFetchDeadLetter();
  ASSERT_TRUE(dead->Redrive().ok());
  auto message = pipe->TryFetch();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->attempt(), 1u);
  ASSERT_TRUE(message->Release().ok());
  EXPECT_TRUE(Is(pipe->TryFetchDeadLetter().status(), StatusCode::kUnavailable, "no dead letters"));
}

TEST_F(SlotPipeTest, SlotsGoThroughTheirStatesAndStatusCountsThem) {
  auto pipe = Create();
  auto slot = pipe->Hold();
  const uint32_t index = slot->index();
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kWriting);
  ASSERT_TRUE(pipe->MarkInProgress(slot->ref()).ok());
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kInProgress);
  EXPECT_EQ(pipe->Status().in_progress, 1u);
  ASSERT_TRUE(slot->SendBytes("a").ok());
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kReady);
  auto message = pipe->Fetch();
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kReading);
  ASSERT_TRUE(pipe->MarkInProgress(message->ref()).ok());
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kInProgress);
  EXPECT_EQ(pipe->Status().in_progress, 1u);
  EXPECT_EQ(pipe->Status().reading, 0u);
  // Whoever fetches it again has not handed it on yet.
  ASSERT_TRUE(message->Return().ok());
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kReady);
  *message = *pipe->Fetch();
  EXPECT_EQ(pipe->StateOf(index).value(), SlotState::kReading);
  auto held = pipe->Hold();
  ASSERT_TRUE(pipe->SendBytes("b").ok());
  const PipeStatus status = pipe->Status();
  EXPECT_EQ(status.empty, 1u);
  EXPECT_EQ(status.writing, 1u);
  EXPECT_EQ(status.ready, 1u);
  EXPECT_EQ(status.reading, 1u);
  EXPECT_EQ(status.sent, 2u);
  EXPECT_EQ(status.received, 0u);
  ASSERT_EQ(status.participants.size(), 1u);
  EXPECT_TRUE(status.participants[0].alive);
  EXPECT_EQ(status.participants[0].slots_owned, 2u);
  EXPECT_EQ(status.participants[0].pid, static_cast<uint32_t>(::getpid()));
  EXPECT_TRUE(Is(pipe->StateOf(4).status(), StatusCode::kInvalidArgument, "no slot 4"));
}

TEST_F(SlotPipeTest, TheIndexFormPassesSlotsOn) {
  auto pipe = Create();
  auto slot = pipe->Hold();
  const SlotRef held = slot->Detach();
  EXPECT_EQ(pipe->Status().writing, 1u);
  auto again = pipe->Writing(held);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_TRUE(again->SendBytes("index").ok());
  EXPECT_TRUE(Is(pipe->Writing(held).status(), StatusCode::kFailedPrecondition, "is ready"));

  const SlotRef fetched = pipe->Fetch()->Detach();
  auto message = pipe->Reading(fetched);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "index");
  EXPECT_TRUE(Is(pipe->Writing(fetched).status(), StatusCode::kFailedPrecondition, "is reading"));
  ASSERT_TRUE(message->Release().ok());
  EXPECT_TRUE(Is(pipe->Reading(fetched).status(), StatusCode::kFailedPrecondition, "is empty"));
  EXPECT_TRUE(Is(pipe->MarkInProgress(fetched), StatusCode::kFailedPrecondition, "hand on"));
  EXPECT_TRUE(
      Is(pipe->Reading({.index = 99, .word = 1}).status(), StatusCode::kFailedPrecondition, "99"));
  // Another participant's slot is not ours.
  auto other = Connect();
  const SlotRef theirs = other->Hold()->Detach();
  EXPECT_TRUE(Is(pipe->Writing(theirs).status(), StatusCode::kFailedPrecondition, "is writing"));
}

TEST_F(SlotPipeTest, AMessageTooLargeForASlotIsRefusedAndTheSlotKept) {
  auto pipe = Create();
  auto slot = pipe->Hold();
  EXPECT_TRUE(Is(slot->Send(65), StatusCode::kInvalidArgument, "65 bytes"));
  EXPECT_TRUE(Is(slot->SendBytes(std::string(65, 'x')), StatusCode::kInvalidArgument, "has 64"));
  EXPECT_TRUE(slot->Send(64).ok());
  EXPECT_TRUE(Is(slot->Send(1), StatusCode::kFailedPrecondition, "no slot in this handle"));
}

TEST_F(SlotPipeTest, LeavingGivesBackAndReturns) {
  auto pipe = Create();
  {
    auto other = Connect();
    ASSERT_TRUE(pipe->SendBytes("m").ok());
    other->Hold()->Detach();
    other->Fetch()->Detach();
    EXPECT_EQ(pipe->Status().empty, 2u);
    EXPECT_EQ(pipe->Status().participants.size(), 2u);
  }
  EXPECT_EQ(pipe->Status().empty, 3u);
  EXPECT_EQ(pipe->Status().participants.size(), 1u);
  auto message = pipe->TryFetch();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->attempt(), 2u);
}

TEST_F(SlotPipeTest, DeadlinesAndCancelEndWaitsHoweverTheyWait) {
  const std::pair<const char*, transport::WaitPolicy> kPolicies[] = {
      {"block", transport::WaitPolicy::kBlock},
      {"spin", transport::WaitPolicy::kSpin},
      {"adaptive", transport::WaitPolicy::kAdaptive}};
  for (const auto& [name, policy] : kPolicies) {
    SCOPED_TRACE(name);
    // One is empty, so that nothing can be fetched; the other is full.
    const PipeOptions options{.slots = 2, .slot_bytes = 64};
    auto none = SlotPipe::Create(absl::StrCat("none-", name), options, {.wait = policy}).value();
    auto full = SlotPipe::Create(absl::StrCat("full-", name), options, {.wait = policy}).value();
    while (full->TrySendBytes("x").ok()) {
    }
    const auto fetch = [&](Deadline deadline) { return none->Fetch(deadline).status(); };
    const auto hold = [&](Deadline deadline) { return full->Hold(deadline).status(); };
    const auto send = [&](Deadline deadline) { return full->SendBytes("y", deadline); };
    const Deadline soon = Soon();
    EXPECT_TRUE(Is(fetch(soon), StatusCode::kDeadlineExceeded, "no message"));
    EXPECT_TRUE(soon.passed());
    EXPECT_TRUE(Is(hold(Soon()), StatusCode::kDeadlineExceeded, "all 2 slots"));
    EXPECT_TRUE(Is(send(Soon()), StatusCode::kDeadlineExceeded, "all 2 slots"));
    std::vector<std::thread> waiters;
    waiters.emplace_back(
        [&] { EXPECT_TRUE(Is(fetch(Deadline::Infinite()), StatusCode::kCancelled, "Cancel()")); });
    waiters.emplace_back(
        [&] { EXPECT_TRUE(Is(hold(Deadline::Infinite()), StatusCode::kCancelled, "Cancel()")); });
    waiters.emplace_back(
        [&] { EXPECT_TRUE(Is(send(Deadline::Infinite()), StatusCode::kCancelled, "Cancel()")); });
    none->Cancel();
    full->Cancel();
    for (std::thread& waiter : waiters) waiter.join();
  }
}

TEST_F(SlotPipeTest, WhatWasCancelledGoesOnWhereThereIsNothingToWaitFor) {
  auto pipe = Create();
  pipe->Cancel();
  EXPECT_TRUE(pipe->SendBytes("x").ok()) << "there is an empty slot: nothing to wait for";
  EXPECT_TRUE(pipe->TryFetch().ok());
}

TEST_F(SlotPipeTest, ARangeEndsWithItsReason) {
  auto pipe = Create();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pipe->SendBytes(absl::StrCat(i)).ok());
  std::string got;
  auto messages = pipe->Messages(Soon());
  for (ReadSlot& message : messages) {
    got += std::string(message.text());
    ASSERT_TRUE(message.Release().ok());
  }
  EXPECT_EQ(got, "012");
  EXPECT_TRUE(Is(messages.status(), StatusCode::kDeadlineExceeded, "no message"));
}

TEST_F(SlotPipeTest, AWaitingConsumerIsWokenByASend) {
  auto pipe = SlotPipe::Create("test", {.slots = 4, .slot_bytes = 64},
                               {.wait = transport::WaitPolicy::kBlock})
                  .value();
  std::thread consumer([&] {
    for (int i = 0; i < 1000; ++i) {
      auto message = pipe->Fetch();
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_EQ(message->text(), absl::StrCat(i));
      ASSERT_TRUE(message->Release().ok());
    }
  });
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(pipe->SendBytes(absl::StrCat(i)).ok());
  consumer.join();
}

TEST_F(SlotPipeTest, AChecksumFindsAStrayWrite) {
  auto pipe = Create({.slots = 4, .slot_bytes = 64, .checksum = true});
  auto slot = pipe->Hold();
  std::byte* const stray = slot->data();
  ASSERT_TRUE(slot->SendBytes("precious").ok());
  ASSERT_TRUE(pipe->SendBytes("next").ok());
  stray[3] ^= std::byte{1};
  EXPECT_TRUE(Is(pipe->TryFetch().status(), StatusCode::kDataLoss, "overwritten"));
  EXPECT_EQ(pipe->Status().dead_letters, 1u);
  auto next = pipe->TryFetch();
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->text(), "next");
}

TEST_F(SlotPipeTest, ManyThreadsLoseNothingAndSeeNothingTwice) {
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  auto pipe = Create({.slots = 8, .slot_bytes = 64});
  std::vector<std::atomic<int>> seen(kThreads * kEach);
  std::atomic<int> left{kThreads * kEach};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kEach; ++i) {
        auto slot = pipe->Hold();
        ASSERT_TRUE(slot.ok()) << slot.status();
        const int number = thread * kEach + i;
        std::memcpy(slot->data(), &number, sizeof(number));
        ASSERT_TRUE(slot->Send(sizeof(number)).ok());
      }
    });
    threads.emplace_back([&] {
      while (left.fetch_sub(1) > 0) {
        auto message = pipe->Fetch();
        ASSERT_TRUE(message.ok()) << message.status();
        int number;
        std::memcpy(&number, message->data(), sizeof(number));
        ASSERT_EQ(message->attempt(), 1u);
        ++seen[static_cast<size_t>(number)];
        ASSERT_TRUE(message->Release().ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& count : seen) ASSERT_EQ(count, 1);
  const PipeStatus status = pipe->Status();
  EXPECT_EQ(status.empty, 8u);
  EXPECT_EQ(status.sent, static_cast<uint64_t>(kThreads * kEach));
  EXPECT_EQ(status.received, static_cast<uint64_t>(kThreads * kEach));
}

// The number of slots that a hold looks at does not grow with the number of slots, wherever the
// empty ones are.
TEST_F(SlotPipeTest, AHoldLooksAtFewSlotsHoweverManyThereAre) {
  double averages[2][3];
  int row = 0;
  for (const uint32_t slots : {10u, 10'000u}) {
    auto pipe = Create({.slots = slots, .slot_bytes = 64}, absl::StrCat("probes", slots));
    uint32_t seed = 1;
    const auto random = [&seed] { return seed = seed * 1664525 + 1013904223; };
    int column = 0;
    // How many slots are in use all the time: none, half, all but one.
    for (const uint32_t used : {0u, slots / 2, slots - 1}) {
      std::vector<SlotRef> held;
      while (held.size() < used) held.push_back(pipe->TryHold()->Detach());
      uint64_t probes = 0;
      constexpr uint32_t kRounds = 20'000;
      for (uint32_t i = 0; i < kRounds; ++i) {
        // Frees one anywhere. The next hold finds it as the slot that this participant emptied
        // last; the test below has one that others empty.
        auto slot = pipe->TryHold();
        ASSERT_TRUE(slot.ok()) << slot.status();
        probes += pipe->last_hold_probes();
        held.push_back(slot->Detach());
        const size_t victim = random() % held.size();
        ASSERT_TRUE(pipe->Writing(held[victim])->GiveBack().ok());
        held[victim] = held.back();
        held.pop_back();
      }
      averages[row][column++] = static_cast<double>(probes) / kRounds;
      for (const SlotRef& ref : held) ASSERT_TRUE(pipe->Writing(ref)->GiveBack().ok());
    }
    ++row;
  }
  for (int column = 0; column < 3; ++column) {
    EXPECT_LE(averages[1][column], 4.0) << "column " << column;
    EXPECT_LE(averages[1][column], 2 * averages[0][column] + 1) << "column " << column;
  }
}

// The same without the help of the slot that this participant has emptied itself: a consumer
// empties slots in a random order, a producer finds them.
TEST_F(SlotPipeTest, AProducerFindsWhatOthersEmptiedWithFewLooks) {
  for (const uint32_t slots : {10u, 10'000u}) {
    auto producer = Create({.slots = slots, .slot_bytes = 64}, absl::StrCat("other", slots));
    auto consumer = Connect(absl::StrCat("other", slots));
    std::vector<SlotRef> fetched;
    uint32_t seed = 7;
    uint64_t probes = 0;
    uint64_t holds = 0;
    while (producer->SendBytes("x", Deadline::AtNanos(0)).ok()) {
    }
    for (uint32_t i = 0; i < slots; ++i) fetched.push_back(consumer->TryFetch()->Detach());
    for (int i = 0; i < 20'000; ++i) {
      seed = seed * 1664525 + 1013904223;
      const size_t victim = seed % fetched.size();
      ASSERT_TRUE(consumer->Reading(fetched[victim])->Release().ok());
      auto slot = producer->TryHold();
      ASSERT_TRUE(slot.ok()) << slot.status();
      probes += producer->last_hold_probes();
      ++holds;
      ASSERT_TRUE(slot->Send(0).ok());
      fetched[victim] = consumer->TryFetch()->Detach();
    }
    EXPECT_LE(static_cast<double>(probes) / static_cast<double>(holds), 9.0) << slots;
  }
}

// A fetch looks at one cell, however many slots there are, wherever the messages are: when all
// slots are full, when few are, when none is.
TEST_F(SlotPipeTest, AFetchLooksAtOneCellHoweverManySlotsThereAre) {
  for (const uint32_t slots : {10u, 10'000u}) {
    SCOPED_TRACE(slots);
    auto producer = Create({.slots = slots, .slot_bytes = 64}, absl::StrCat("looks", slots));
    auto consumer = Connect(absl::StrCat("looks", slots));
    uint64_t fetches = 0;
    for (const uint32_t at_once : {slots, slots / 2, 1u}) {
      // Three times around the ring at least, in which are two cells a slot or a little more.
      for (uint64_t sent = 0; sent < 12 * slots; sent += at_once) {
        for (uint32_t i = 0; i < at_once; ++i) ASSERT_TRUE(producer->SendBytes("x").ok());
        for (uint32_t i = 0; i < at_once; ++i) {
          auto message = consumer->TryFetch();
          ASSERT_TRUE(message.ok()) << message.status();
          ASSERT_TRUE(message->Release().ok());
        }
        EXPECT_FALSE(consumer->TryFetch().ok());
        fetches += at_once + 1;
      }
    }
    EXPECT_GE(fetches, 36 * slots);
    EXPECT_EQ(consumer->extra_fetch_probes(), 0u) << "of " << fetches << " fetches";
  }
}

}  // namespace
}  // namespace mi7
