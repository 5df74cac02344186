#include "transport/shm/slot_pool.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include <capnp/any.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "transport/for_overwrite.h"
#include "transport/refuse_system_call.h"
#include "transport/shm/shm_message.h"
#include "transport/shm/slot_pool_testing.h"

namespace mi7::transport::shm {
namespace {

TEST_F(SlotPoolTest, TheSmallestClassThatHoldsIt) {
  for (const auto& [bytes, size_class] :
       {std::pair{1u, 0}, {4096u, 0}, {4097u, 1}, {65536u, 1}, {65537u, 2}, {1u << 20, 2}}) {
    const Slot slot = pool_->Take(bytes, 0, false);
    ASSERT_TRUE(slot) << bytes;
    EXPECT_EQ(slot.size_class, size_class) << bytes;
    EXPECT_GE(slot.bytes, bytes);
    pool_->Return(slot, 0);
  }
}

TEST_F(SlotPoolTest, AdjacentSlotsOfTheLastClassHoldWhatOneDoesNot) {
  EXPECT_TRUE(pool_->CouldHold(6u << 20));
  EXPECT_FALSE(pool_->CouldHold((6u << 20) + 1));
  EXPECT_FALSE(pool_->Take((6u << 20) + 1, 0, true));
  const Slot run = pool_->Take((2u << 20) + 1, 0, true);
  ASSERT_TRUE(run);
  std::memset(run.data, 1, run.bytes);
  const Slot other = pool_->Take(3u << 20, 0, true);
  ASSERT_TRUE(other);
  std::memset(other.data, 2, other.bytes);
  EXPECT_EQ(run.data[0], std::byte{1});
  EXPECT_FALSE(pool_->Take(1u << 20, 0, true));
  pool_->Return(run, run.bytes);
  const Slot all_again = pool_->Take(3u << 20, 0, true);
  ASSERT_TRUE(all_again);
  EXPECT_TRUE(IsZero(all_again));
  pool_->Return(all_again, 0);
  pool_->Return(other, other.bytes);
  const Slot whole = pool_->Take(6u << 20, 0, true);
  ASSERT_TRUE(whole);
  EXPECT_TRUE(IsZero(whole));
  pool_->Return(whole, 0);
}

TEST_F(SlotPoolTest, TheLastSlotIsLeftToMessagesThatAreFinishedAndTheyAreToldOfTheNext) {
  int told = 0;
  auto* const pool = new SlotPool(Options(), *peer_, true, nullptr, [&told] { ++told; });
  std::vector<Slot> begun;
  while (const Slot slot = pool->Take(1u << 20, 0, false)) begun.push_back(slot);
  EXPECT_EQ(begun.size(), 5u);
  EXPECT_FALSE(pool->Take(2u << 20, 0, false));
  const Slot last = pool->Take(1u << 20, 0, /*finished=*/true);
  EXPECT_TRUE(last);
  pool->Return(begun.back(), 0);
  EXPECT_EQ(told, 0) << "nobody wanted one";
  EXPECT_FALSE(pool->Take(1u << 20, 0, false)) << "it is the last one";
  EXPECT_FALSE(pool->Take(2u << 20, 0, /*finished=*/true));
  pool->PutBack(last);
  EXPECT_EQ(told, 0) << "by whoever looks for several";
  for (size_t i = 0; i + 1 < begun.size(); ++i) pool->Return(begun[i], 0);
  EXPECT_EQ(told, 1) << "and looks again";
  pool->Detach();
}

TEST_F(SlotPoolTest, TheHottestSlotIsTakenFirstAndIsZeroAgain) {
  const Slot first = pool_->Take(100, 0, false);
  const Slot second = pool_->Take(100, 0, false);
  std::memset(first.data, 0xff, 500);
  pool_->Return(second, 0);
  pool_->Return(first, 500);
  const Slot again = pool_->Take(100, 0, false);
  EXPECT_EQ(again.data, first.data);
  EXPECT_TRUE(IsZero(again));
  pool_->Return(again, 0);
}

TEST_F(SlotPoolTest, SentSlotsComeBackWhenThePeerReleasesThemInAnyOrder) {
  std::vector<Slot> slots;
  for (int round = 0; round < 3; ++round) {
    while (Slot slot = pool_->Take(4096, 0, false)) {
      slots.push_back(slot);
      pool_->Sent(slot, 4096);
    }
    // Its own class and the next larger one, no further.
    EXPECT_EQ(slots.size(), 12u);
    EXPECT_EQ(pool_->GetUsage().in_flight, 12u);
    std::shuffle(slots.begin(), slots.end(), std::minstd_rand(round));
    Release(slots[0]);
    const Slot back = pool_->Take(4096, 0, false);
    ASSERT_TRUE(back);
    EXPECT_EQ(back.data, slots[0].data);
    pool_->Return(back, 0);
    for (size_t i = 1; i < slots.size(); ++i) Release(slots[i]);
    EXPECT_EQ(pool_->GetUsage().in_flight, 0u);
    slots.clear();
  }
}

TEST_F(SlotPoolTest, ALargeSlotIsClearedWhileThePeerReadsAnother) {
  constexpr uint64_t kBytes = 1u << 20;
  const auto send = [this](const Slot& slot) {
    std::memset(slot.data, 0xff, kBytes);
    pool_->Sent(slot, kBytes);
  };
  EXPECT_FALSE(pool_->ClearAhead()) << "nothing was used";
  const Slot first = pool_->Take(kBytes, 0, false);
  send(first);
  Release(first);
  const Slot second = pool_->Take(kBytes, 0, false);
  EXPECT_NE(second.data, first.data);
  EXPECT_TRUE(IsZero(second));
  send(second);
  uint64_t steps = 0;
  while (pool_->ClearAhead()) ++steps;
  EXPECT_EQ(steps, 1024u);
  EXPECT_TRUE(IsZero(first)) << "and not the one that is in flight";
  EXPECT_EQ(second.data[kBytes - 1], std::byte{0xff});
  Release(second);
  for (int turn = 0; turn < 4; ++turn) {
    const Slot next = pool_->Take(kBytes, 0, false);
    EXPECT_TRUE(next.data == first.data || next.data == second.data) << "no third one";
    EXPECT_TRUE(IsZero(next));
    send(next);
    // Whether all of it was cleared ahead, some of it, or nothing.
    for (int i = 0; i < turn * 500; ++i) pool_->ClearAhead();
    Release(next);
  }
}

TEST_F(SlotPoolTest, WhatWillBeOverwrittenIsNeitherClearedNorClearedAhead) {
  const auto take = [this](uint64_t bytes, bool zeroed) {
    return pool_->Take(bytes, 0, true, /*refused=*/nullptr, /*keeper=*/nullptr, zeroed);
  };
  // A slot, and several of the last class.
  for (const uint64_t bytes : {uint64_t{1} << 20, uint64_t{3} << 20}) {
    SCOPED_TRACE(bytes);
    std::byte* data = nullptr;
    for (int turn = 0; turn < 3; ++turn) {
      const Slot slot = take(bytes, /*zeroed=*/false);
      if (turn > 0) {
        EXPECT_EQ(slot.data, data) << "the hottest one, as nobody clears another meanwhile";
        EXPECT_EQ(slot.data[0], std::byte{0xff});
        EXPECT_EQ(slot.data[bytes - 1], std::byte{0xff});
      }
      data = slot.data;
      std::memset(slot.data, 0xff, bytes);
      pool_->Sent(slot, bytes);
      Release(slot);
      EXPECT_EQ(pool_->GetUsage().in_flight, 0u);
      EXPECT_FALSE(pool_->ClearAhead());
    }
    // All there are, for another one is taken before it.
    std::vector<Slot> all;
    bool found = false;
    while (const Slot zeroed = take(bytes, /*zeroed=*/true)) {
      EXPECT_TRUE(IsZero(zeroed));
      found |= zeroed.data == data;
      all.push_back(zeroed);
    }
    EXPECT_TRUE(found);
    for (const Slot& zeroed : all) pool_->Return(zeroed, 0);
  }
}

TEST_F(SlotPoolTest, SmallSlotsAreNotClearedAhead) {
  const Slot slot = pool_->Take(4096, 0, false);
  std::memset(slot.data, 0xff, 4096);
  pool_->Return(slot, 4096);
  EXPECT_FALSE(pool_->ClearAhead());
  const Slot again = pool_->Take(4096, 0, false);
  EXPECT_EQ(again.data, slot.data);
  EXPECT_TRUE(IsZero(again));
  pool_->Return(again, 0);
}

TEST_F(SlotPoolTest, BitsOfSlotsThatAreNotInFlightMeanNothing) {
  const Slot taken = pool_->Take(4096, 0, false);
  for (auto& bits : peer_->released) bits.store(~uint64_t{0});
  std::set<std::byte*> seen{taken.data};
  std::vector<Slot> others;
  while (Slot slot = pool_->Take(4096, 0, false)) {
    EXPECT_TRUE(seen.insert(slot.data).second) << "handed out twice";
    others.push_back(slot);
  }
  EXPECT_EQ(pool_->GetUsage().taken, 12u);
  for (const Slot& slot : others) pool_->Return(slot, 0);
  pool_->Return(taken, 0);
}

TEST_F(SlotPoolTest, TrimGivesBackWhatIsFree) {
  const Slot kept = pool_->Take(1u << 20, 0, false);
  const Slot slot = pool_->Take(1u << 20, 0, false);
  std::memset(slot.data, 1, slot.bytes);
  const int fd = pool_->chunk_descriptor(slot.size_class);
  const auto committed = [fd] {
    struct stat info;
    EXPECT_EQ(::fstat(fd, &info), 0);
    return info.st_blocks * 512;
  };
  EXPECT_EQ(committed(), 2 << 20);
  pool_->Return(slot, slot.bytes);
  pool_->Trim(0);
  EXPECT_EQ(committed(), 1 << 20);
  EXPECT_EQ(pool_->GetUsage().committed_bytes, 1u << 20);
  const Slot again = pool_->Take(1u << 20, 0, false);
  EXPECT_TRUE(IsZero(again));
  pool_->Return(again, 0);
  pool_->Return(kept, 0);
}

TEST_F(SlotPoolTest, TellsOfPagesOnceBetweenTrimsAndTrimOfThoseInUse) {
  int told = 0;
  SlotPool* const pool = new SlotPool(Options(), *peer_, true, [&told] { ++told; });
  const Slot slot = pool->Take(100, 0, false);
  EXPECT_EQ(told, 1);
  pool->Return(pool->Take(100, 0, false), 0);
  EXPECT_EQ(told, 1) << "nothing was trimmed yet";
  EXPECT_TRUE(pool->Trim(0)) << "one is under construction";
  pool->Sent(slot, 100);
  EXPECT_TRUE(pool->Trim(0)) << "it is in flight";
  EXPECT_EQ(pool->GetUsage().committed_bytes, 4096u);
  const Slot other = pool->Take(100, 0, false);
  EXPECT_EQ(told, 2);
  pool->Return(other, 0);
  Release(slot);
  EXPECT_FALSE(pool->Trim(0));
  EXPECT_EQ(pool->GetUsage().committed_bytes, 0u);
  const Slot last = pool->Take(100, 0, false);
  EXPECT_EQ(told, 3);
  EXPECT_TRUE(pool->Trim(0));
  pool->Detach();
  pool->Return(last, 0);
}

TEST_F(SlotPoolTest, DoesNotTellOfPagesThatCannotBeGivenBack) {
  int told = 0;
  SlotPool* const pool = new SlotPool(Options(), *peer_, false, [&told] { ++told; });
  const Slot slot = pool->Take(100, 0, false);
  EXPECT_EQ(told, 0);
  EXPECT_FALSE(pool->Trim(0));
  pool->Return(slot, 0);
  pool->Detach();
}

TEST_F(SlotPoolTest, SlotsForWhichTheSystemHasNoMemoryStayFree) {
  const Slot first = pool_->Take(4096, 0, false);
  bool filtered = false;
  // The system refuses memory to this thread alone.
  std::thread([&] {
    filtered = transport::testing::RefuseSystemCall(SYS_fallocate, ENOSPC);
    if (!filtered) return;
    for (int round = 0; round < 20; ++round) {
      for (const uint64_t bytes : {100, 1 << 20, 2 << 20}) {
        absl::Status refused;
        EXPECT_FALSE(pool_->Take(bytes, 0, true, &refused));
        EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused << ", " << bytes << " bytes";
      }
    }
    pool_->Return(first, 4096);
    absl::Status refused;
    const Slot again = pool_->Take(4096, 0, false, &refused);
    EXPECT_EQ(again.data, first.data) << "its memory is there: " << refused;
    EXPECT_FALSE(pool_->Take(4096, 0, false, &refused));
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    pool_->Return(again, 0);
  }).join();
  if (!filtered) {
    pool_->Return(first, 0);
    std::fprintf(stderr, "NOTICE: test not run, this machine permits no filters\n");
    GTEST_SKIP();
  }
  std::vector<Slot> all;
  while (Slot slot = pool_->Take(100, 0, true)) all.push_back(slot);
  EXPECT_EQ(all.size(), 8u + 4u + 6u);
  for (const Slot& slot : all) pool_->Return(slot, 0);
}

TEST_F(SlotPoolTest, OutlivesTheConnectionForTheSakeOfMessagesUnderConstruction) {
  const Slot slot = pool_->Take(4096, 0, false);
  pool_->Detach();
  peer_.reset();
  std::memset(slot.data, 1, slot.bytes);
  std::exchange(pool_, nullptr)->Return(slot, slot.bytes);  // destroys it: ASan would see a leak
}

TEST_F(SlotPoolTest, RandomUseNeverHandsOutASlotTwiceOrDirty) {
  std::minstd_rand random(3);
  std::vector<Slot> taken;
  std::vector<Slot> sent;
  std::vector<Slot> kept;
  for (int step = 0; step < 20'000; ++step) {
    const auto pick = [&](std::vector<Slot>& from) {
      std::swap(from[random() % from.size()], from.back());
      const Slot slot = from.back();
      from.pop_back();
      return slot;
    };
    switch (random() % 4) {
      case 0:
      case 1: {
        static constexpr uint64_t kSizes[] = {64, 4096, 60'000, 1 << 20, 2'500'000};
        const uint64_t bytes = kSizes[random() % 5];
        const Slot slot = pool_->Take(bytes, 0, random() % 2 == 0, nullptr, &random);
        if (!slot) break;
        ASSERT_GE(slot.bytes, bytes);
        for (uint64_t i = 0; i < bytes; i += 61) ASSERT_EQ(slot.data[i], std::byte{}) << step;
        for (uint64_t i = 0; i < bytes; i += 61) slot.data[i] = std::byte{1};
        taken.push_back(slot);
        break;
      }
      case 2:
        if (taken.empty()) break;
        if (random() % 2 == 0) {
          const Slot slot = pick(taken);
          pool_->Return(slot, slot.bytes);
        } else {
          const bool keep = kept.empty() && random() % 8 == 0;
          sent.push_back(pick(taken));
          pool_->Sent(sent.back(), sent.back().bytes, keep);
          if (keep) kept.push_back(sent.back());
        }
        break;
      case 3:
        if (random() % 8 == 0 && !kept.empty()) {
          pool_->LetGo(pick(kept), &random);
        } else if (!sent.empty()) {
          Release(pick(sent));
        }
        break;
    }
    if (step % 1000 == 999) pool_->Trim(random() % (2 << 20));
    const SlotPool::Usage usage = pool_->GetUsage();
    ASSERT_EQ(usage.taken, taken.size());
    ASSERT_EQ(usage.in_flight, sent.size());
    ASSERT_LE(usage.kept, kept.size());
  }
  for (const Slot& slot : kept) pool_->LetGo(slot, &random);
  for (const Slot& slot : taken) pool_->Return(slot, slot.bytes);
}

// --- Messages in the pool's slots

TEST_F(SlotPoolTest, WhatFollowsContentThatIsOverwrittenIsZero) {
  constexpr unsigned kBytes = 100'005;
  for (int turn = 0; turn < 3; ++turn) {
    OutgoingMessage message = ShmMessage::New(*pool_, 100);
    auto root = message->getRoot<capnp::AnyPointer>().initAsAnyStruct(0, 2);
    {
      const ForOverwrite scope;
      capnp::Data::Builder data = root.getPointerSection()[0].initAs<capnp::Data>(kBytes);
      std::memset(data.begin(), 0xff, kBytes);
    }
    root.getPointerSection()[1].initAs<capnp::Data>(5000);
    const auto segments = message->Segments();
    ASSERT_EQ(segments.size(), 3u) << "nothing else lies there";
    ASSERT_EQ(segments[1].size(), 1 + (kBytes + 7) / 8);
    const auto* const end = reinterpret_cast<const uint8_t*>(segments[1].end());
    EXPECT_EQ(std::string(end - 3, end), std::string(3, '\0')) << turn;
    // Content all over the slot, for the next turn.
    const auto* const start = reinterpret_cast<const uint8_t*>(segments[1].begin());
    std::memset(const_cast<uint8_t*>(start), 0xff, static_cast<size_t>(end - start));
  }
}

TEST_F(SlotPoolTest, AMessageThatGrowsTakesFurtherSlotsAndReturnsAll) {
  OutgoingMessage message = ShmMessage::New(*pool_, 100);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(100'000);
  SlotSegments* const own = SlotSegments::Of(*message, *pool_);
  ASSERT_NE(own, nullptr);
  const auto segments = message->Segments();
  ASSERT_EQ(segments.size(), 2u);
  ASSERT_EQ(own->slots().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(own->slots()[i].data, reinterpret_cast<const std::byte*>(segments[i].begin()));
  }
  EXPECT_EQ(pool_->GetUsage().taken, 2u);
  message.reset();
  EXPECT_EQ(pool_->GetUsage().taken, 0u);
}

TEST_F(SlotPoolTest, AMessageThatFindsNoSlotIsBuiltElsewhere) {
  std::vector<Slot> all;
  while (Slot slot = pool_->Take(4096, 0, true)) all.push_back(slot);
  OutgoingMessage message = ShmMessage::New(*pool_, 1000);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(100'000);
  EXPECT_EQ(SlotSegments::Of(*message, *pool_), nullptr);
  message.reset();
  for (const Slot& slot : all) pool_->Return(slot, 0);
  EXPECT_EQ(pool_->GetUsage().taken, 0u);
}

TEST_F(SlotPoolTest, AMessageIsOfItsPoolAlone) {
  SlotPool* const other = new SlotPool(Options(), *peer_, true);
  OutgoingMessage message = ShmMessage::New(*pool_, 100);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(100);
  EXPECT_NE(SlotSegments::Of(*message, *pool_), nullptr);
  EXPECT_EQ(SlotSegments::Of(*message, *other), nullptr);
  OutgoingMessage heap = NewHeapMessage(100);
  heap->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(100'000);
  EXPECT_EQ(SlotSegments::Of(*heap, *pool_), nullptr);
  other->Detach();
}

// Expected to be small, it began on the heap.
TEST_F(SlotPoolTest, AHeapMessageThatGrowsGoesOnInSlots) {
  for (int round = 0; round < 3; ++round) {
    OutgoingMessage message = NewHeapMessage(100);
    EXPECT_EQ(message->segment_source, nullptr) << "not that of the message before it";
    message->segment_source = pool_;
    message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(200'000);
    const SlotSegments* const own = SlotSegments::Of(*message, *pool_);
    ASSERT_NE(own, nullptr);
    ASSERT_EQ(own->slots().size(), 1u);
    EXPECT_GE(own->slots()[0].bytes, 200'000u);
    EXPECT_EQ(message->Segments().size(), 2u);
    EXPECT_EQ(pool_->GetUsage().taken, 1u);
    message.reset();
    EXPECT_EQ(pool_->GetUsage().taken, 0u);
  }
}

}  // namespace
}  // namespace mi7::transport::shm
