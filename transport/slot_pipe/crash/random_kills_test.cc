// Processes that send and receive, killed at random: nothing is lost, nothing comes twice without a
// mark, no slot leaks. Whoever lives to its end has left no descriptor and no mapping by then.
//
// 30,000 kills; with MI7_LONG in the environment 400,000, or MI7_KILLS.

#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <iostream>
#include <random>

#include "base/deadline.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/crash/kill_test.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7 {
namespace {

using RandomKillsTest = KillTest;

TEST_F(RandomKillsTest, NothingIsLostNorDoubledNorLeaked) {
  const char* text = ::getenv("MI7_KILLS");
  const bool long_run = ::getenv("MI7_LONG") != nullptr;
  const uint32_t kills_wanted = text != nullptr ? static_cast<uint32_t>(::atoi(text))
                                : long_run      ? 400'000
                                                : 30'000;
  const char* seed_text = ::getenv("MI7_SEED");
  const uint32_t seed =
      seed_text == nullptr ? std::random_device()() : static_cast<uint32_t>(::atoi(seed_text));
  std::cout << "seed " << seed << " (MI7_SEED)\n";
  std::mt19937 random(seed);

  {
    auto pipe = SlotPipe::Create(
        "kill",
        {.slots = 16, .slot_bytes = 64, .participants = 16, .attempts_max = 3, .checksum = true});
    ASSERT_TRUE(pipe.ok()) << pipe.status();
  }
  const auto produce = [this](SlotPipe& pipe) { Produce(pipe); };
  const auto consume = [this](SlotPipe& pipe) { Consume(pipe, false); };
  for (int i = 0; i < 3; ++i) {
    Start(produce);
    Start(consume);
  }
  const int64_t start_ns = MonotonicNanos();
  uint32_t kills = 0;
  while (kills < kills_wanted) {
    // Anybody, at any moment of its life: a new one is joining and recovering. Up to three at
    // once, so that who recovers one may die with it.
    Pause(static_cast<uint32_t>(random() % 400));
    std::shuffle(children_.begin(), children_.end(), random);
    const size_t left = children_.size() - 1 - random() % 3;
    for (size_t i = left; i < children_.size(); ++i) ::kill(children_[i], SIGKILL);
    while (children_.size() > left) {
      Bury(children_.back());
      children_.pop_back();
      ++kills;
    }
    ASSERT_FALSE(HasFailure()) << "after " << kills << " kills";
    while (children_.size() < 6) {
      if (random() % 2 == 0) {
        Start(produce);
      } else {
        Start(consume);
      }
    }
  }
  const double seconds = static_cast<double>(MonotonicNanos() - start_ns) / 1e9;
  Stop();

  auto pipe = SlotPipe::Connect("kill");
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  Consume(**pipe, true);
  const PipeStatus status = (*pipe)->Status();
  EXPECT_EQ(status.empty, 16u) << "leaked slots";
  EXPECT_EQ(status.participants.size(), 1u);
  uint32_t sent = 0;
  uint32_t came = 0;
  uint32_t redelivered = 0;
  uint32_t dead_letters = 0;
  const uint32_t count = std::min(history_->next.load(), kMessages);
  for (uint32_t message = 0; message < count; ++message) {
    const History::Entry& entry = history_->entries[message];
    if (entry.sent == 2) {
      ++sent;
      ASSERT_GE(entry.releasing, 1) << "lost: " << message;
    }
    if (entry.fetched > 0 || entry.dead_letter > 0 || entry.releasing > 0) ++came;
    ASSERT_TRUE(entry.sent != 0 || entry.fetched == 0) << "a ghost: " << message;
    ASSERT_LE(entry.released, 1) << "released twice: " << message;
    ASSERT_LE(entry.unmarked, 1) << "twice without a mark: " << message;
    if (entry.fetched > 1) ++redelivered;
    if (entry.dead_letter > 0) ++dead_letters;
  }
  // Counted by the slots themselves. The pipe is empty, so each message that anybody has seen was
  // released, once; whoever was killed in the middle of that need not have noted it.
  EXPECT_EQ(status.received, came) << "lost, or released twice, though a Release of it had begun";
  EXPECT_GT(dead_letters, 0u) << "no message was ever a dead letter";
  std::cout << "RELIABILITY: " << kills << " random kills in " << seconds << " s, " << sent
            << " messages sent, " << redelivered << " redelivered, " << dead_letters
            << " dead letters, recovered " << status.recovered_participants << " participants and "
            << status.recovered_slots << " slots: lost 0, duplicates without mark 0, leaked 0\n";
  ASSERT_LT(history_->next.load(), kMessages) << "the history was large enough";
  EXPECT_GT(status.recovered_slots, 0u) << "no kill met a slot in use";
}

}  // namespace
}  // namespace mi7
