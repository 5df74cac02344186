// Several participants of one pipe on one mapping, with everything that the protocol does, and
// sweeps of those who have died meanwhile. Whoever uses a pipe in earnest has a mapping of its own,
// where ThreadSanitizer does not see that two addresses are the same memory; here it does, and
// the plain writes of the payloads show whether each memory order is strong enough (protocol.h).

#include <sched.h>
#include <stdlib.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "transport/slot_pipe/layout.h"
#include "transport/slot_pipe/participants.h"
#include "transport/slot_pipe/pipe_file.h"
#include "transport/slot_pipe/protocol.h"
#include "transport/slot_pipe/slot_pipe_impl.h"
#include "transport/slot_pipe/testing.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr uint32_t kSlots = 12;
constexpr uint32_t kMessages = 1'000'000;
// Of one who lives to the end. Those who die do a few each, again and again.
constexpr int kSteps = 20'000;
// More while fewer have died beside it, which a busy machine may have kept from it.
constexpr int kStepsMax = 1'000'000;
constexpr uint64_t kSweeps = 20;
constexpr int kStepsOfAShortLife = 30;

class SharedMappingTest : public testing::Test {
 protected:
  // What a message is: its number, and the same in another form, so that a torn one is seen.
  struct Message {
    uint64_t number;
    uint64_t inverted;
  };

  void Send(Protocol& protocol, std::mt19937& random) {
    Claim claim;
    if (protocol.Hold(claim) != Outcome::kDone) return;
    const uint32_t number = next_.fetch_add(1);
    ASSERT_LT(number, kMessages);
    const Message message{number, ~uint64_t{number}};
    std::memcpy(region().payload(claim.slot), &message, sizeof(message));
    if (random() % 4 != 0 && protocol.Send(claim) == Outcome::kDone) {
      ++sent_[number];
    } else {
      ASSERT_EQ(protocol.GiveBack(claim), Outcome::kDone);
    }
  }

  std::optional<uint64_t> Read(const Claim& claim) {
    Message message;
    std::memcpy(&message, region().payload(claim.slot), sizeof(message));
    EXPECT_EQ(message.number, ~message.inverted) << "torn";
    if (message.number >= kMessages) return std::nullopt;
    return message.number;
  }

  void Receive(Protocol& protocol, std::mt19937& random) {
    Claim claim;
    if (protocol.Fetch(claim) != Outcome::kDone) return;
    const std::optional<uint64_t> number = Read(claim);
    ASSERT_TRUE(number.has_value());
    switch (random() % 8) {
      case 0:
        if (protocol.Return(claim, claim.word.attempts()) != Outcome::kRingFull) break;
        [[fallthrough]];
      case 1:
        ASSERT_EQ(protocol.Bury(claim), Outcome::kDone);
        break;
      default:
        ASSERT_EQ(protocol.Release(claim), Outcome::kDone);
        ++released_[*number];
        break;
    }
  }

  void Redrive(Protocol& protocol) {
    Claim claim;
    if (protocol.FetchDeadLetter(0, claim) != Outcome::kDone) return;
    Read(claim);
    if (protocol.Redrive(claim) == Outcome::kRingFull) {
      ASSERT_EQ(protocol.Bury(claim), Outcome::kDone);
    }
  }

  void Live(uint16_t me, uint32_t seed, int steps, uint64_t sweeps) {
    Protocol protocol(region(), me);
    std::mt19937 random(seed);
    const auto goes_on = [&](int step) {
      return step < steps || (step < kStepsMax && sweeps_.load() < sweeps);
    };
    for (int step = 0; goes_on(step) && !HasFatalFailure(); ++step) {
      switch (random() % 8) {
        case 0:
          Redrive(protocol);
          break;
        case 1:
        case 2:
        case 3:
          Send(protocol, random);
          break;
        default:
          Receive(protocol, random);
          break;
      }
      if (random() % 16 == 0) ::sched_yield();
    }
  }

  // Ends with a slot that is written in and one that is read.
  void Die(uint16_t me, uint32_t seed) {
    Live(me, seed, kStepsOfAShortLife, 0);
    Protocol protocol(region(), me);
    Claim claim;
    if (protocol.Hold(claim) == Outcome::kDone) {
      const Message unsent{kMessages, ~uint64_t{kMessages}};
      std::memcpy(region().payload(claim.slot), &unsent, sizeof(unsent));
    }
    if (protocol.Fetch(claim) == Outcome::kDone) Read(claim);
  }

  // One after the other lives and dies at this place, and is swept.
  void DieAgainAndAgain(uint16_t place, uint32_t seed) {
    while (living_.load() != 0 && !HasFatalFailure()) {
      std::thread victim([&] { Die(place, ++seed); });
      victim.join();  // for the lock that the system frees (W5)
      // Complete, unless duplicates fill the ring until somebody fetches.
      while (!Protocol(region(), place).Sweep(place).complete) ::sched_yield();
      ++sweeps_;
    }
  }

  const Region& region() const { return file_->region(); }

  TestDirectory directory_;
  const std::unique_ptr<PipeFile> file_ =
      PipeFile::Create("p",
                       MakeLayout({.slots = kSlots, .slot_bytes = 64, .participants = 4}).value(),
                       std::nullopt)
          .value();
  std::atomic<uint32_t> next_{0};
  using Counts = std::vector<std::atomic<uint8_t>>;
  Counts sent_ = Counts(kMessages);
  Counts released_ = Counts(kMessages);
  std::atomic<int> living_{2};
  std::atomic<uint64_t> sweeps_{0};
};

TEST_F(SharedMappingTest, NothingIsLostNorDoubledNorTornWhileTheDeadAreSwept) {
  const char* seed_text = ::getenv("MI7_SEED");
  const uint32_t seed =
      seed_text == nullptr ? std::random_device()() : static_cast<uint32_t>(::atoi(seed_text));
  std::cout << "seed " << seed << " (MI7_SEED)\n";
  const Participants participants(file_->fd(), region());
  const auto status = [&] { return StatusOf(region(), participants, "p", 0, kNoOwner, false); };
  std::vector<std::thread> threads;
  for (uint16_t me = 0; me < 2; ++me) {
    threads.emplace_back([this, me, seed] {
      Live(me, seed + me, kSteps, kSweeps);
      --living_;
    });
  }
  for (uint16_t place = 2; place < 4; ++place) {
    threads.emplace_back([this, place, seed] { DieAgainAndAgain(place, seed + 1000u * place); });
  }
  threads.emplace_back([&] {
    while (living_.load() != 0) {
      const PipeStatus now = status();
      EXPECT_EQ(
          now.empty + now.writing + now.ready + now.reading + now.in_progress + now.dead_letters,
          kSlots);
      ::sched_yield();
    }
  });
  for (std::thread& thread : threads) thread.join();
  ASSERT_FALSE(HasFailure());

  Protocol protocol(region(), 0);
  for (uint32_t slot = 0; slot < kSlots; ++slot) Redrive(protocol);
  for (Claim claim; protocol.Fetch(claim) == Outcome::kDone;) {
    const std::optional<uint64_t> number = Read(claim);
    ASSERT_TRUE(number.has_value());
    ASSERT_EQ(protocol.Release(claim), Outcome::kDone);
    ++released_[*number];
  }
  EXPECT_EQ(status().empty, kSlots) << "leaked";
  uint32_t messages = 0;
  for (uint32_t number = 0; number < next_.load(); ++number) {
    ASSERT_EQ(sent_[number], released_[number]) << number;
    messages += sent_[number];
  }
  EXPECT_GE(sweeps_, kSweeps);
  std::cout << messages << " messages, " << sweeps_ << " sweeps\n";
}

}  // namespace
}  // namespace mi7::slot_pipe_internal
