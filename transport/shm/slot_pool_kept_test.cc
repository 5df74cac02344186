// Slots whose content is kept: what SlotPool::Sent with `keep`, GiveUp, WhileKept and LetGo do.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gtest/gtest.h>

#include "transport/copy_counter.h"
#include "transport/shm/shm_message.h"
#include "transport/shm/slot_pool.h"
#include "transport/shm/slot_pool_testing.h"

namespace mi7::transport::shm {
namespace {

using Where = std::span<const std::byte* const>;

class KeptSlotsTest : public SlotPoolTest {
 protected:
  // Sent, with `content` in its first `bytes`, which are kept for `keeper`, and released.
  Slot Kept(uint64_t bytes, std::byte content, const void* keeper) {
    const Slot slot = pool_->Take(bytes, 0, /*finished=*/true, nullptr, keeper);
    EXPECT_TRUE(slot);
    if (!slot) return slot;
    std::memset(slot.data, static_cast<int>(content), bytes);
    pool_->Sent(slot, bytes, /*keep=*/true);
    Release(slot);
    return slot;
  }
  // Whether that is what it has still.
  bool Has(const Slot& slot, uint64_t bytes, std::byte content, const void* keeper) {
    bool same = true;
    return pool_->WhileKept({&slot, 1}, keeper, [&](Where where) {
      same = std::all_of(where[0], where[0] + bytes, [&](std::byte b) { return b == content; });
    }) && same;
  }
  bool IsLost(const Slot& slot, const void* keeper) {
    return !pool_->WhileKept({&slot, 1}, keeper, [](Where) { ADD_FAILURE() << "read"; });
  }
  // All slots of a class that are free, under construction.
  std::vector<Slot> TakeAll(uint64_t bytes) {
    std::vector<Slot> taken;
    while (pool_->GetUsage().kept + pool_->GetUsage().taken < kSlots) {
      taken.push_back(pool_->Take(bytes, 0, /*finished=*/true));
      if (!taken.back()) {
        ADD_FAILURE() << "there are free ones";
        taken.pop_back();
        break;
      }
    }
    return taken;
  }
  static constexpr uint32_t kSlots = 18;
};

TEST_F(KeptSlotsTest, WhatIsKeptIsNotUsedAgainUntilItIsLetGo) {
  const int keeper = 0;
  const Slot slot = Kept(8, std::byte{7}, &keeper);
  EXPECT_EQ(pool_->GetUsage().in_flight, 0u);
  EXPECT_EQ(pool_->GetUsage().kept, 1u);
  const Slot next = pool_->Take(4096, 0, false);
  EXPECT_NE(next.data, slot.data);
  EXPECT_TRUE(pool_->Trim(0)) << "pages that another Trim may give back";
  EXPECT_TRUE(pool_->WhileKept({&slot, 1}, &keeper, [&](Where where) {
    EXPECT_EQ(where[0], slot.data) << "it is where it was";
    EXPECT_EQ(slot.data[0], std::byte{7});
    EXPECT_EQ(pool_->GetUsage().kept, 1u) << "others go on meanwhile";
  }));
  pool_->LetGo(slot, &keeper);
  EXPECT_EQ(pool_->GetUsage().kept, 0u);
  EXPECT_TRUE(IsLost(slot, &keeper));
  const Slot again = pool_->Take(4096, 0, false);
  EXPECT_EQ(again.data, slot.data);
  EXPECT_TRUE(IsZero(again));
  pool_->Return(again, 0);
  pool_->Return(next, 0);
}

TEST_F(KeptSlotsTest, WhatIsLetGoBeforeThePeerReleasesItIsThePeersUntilThen) {
  const int keeper = 0;
  const Slot slot = pool_->Take(4096, 0, false, nullptr, &keeper);
  pool_->Sent(slot, 1, /*keep=*/true);
  pool_->LetGo(slot, &keeper);
  EXPECT_EQ(pool_->GetUsage().in_flight, 1u);
  Release(slot);
  const SlotPool::Usage usage = pool_->GetUsage();
  EXPECT_EQ(usage.in_flight, 0u);
  EXPECT_EQ(usage.kept, 0u);
}

TEST_F(KeptSlotsTest, ContentIsMovedOutWhenMessagesFindNothingElse) {
  std::vector<Slot> slots;
  const auto keeper_of = [&slots](size_t i) { return slots.data() + i; };
  const auto content_of = [](size_t i) { return static_cast<std::byte>(i + 1); };
  slots.reserve(13);
  // Its own class and the next larger one.
  while (slots.size() < 12) {
    const size_t i = slots.size();
    slots.push_back(pool_->Take(4096, 0, false, nullptr, keeper_of(i)));
    ASSERT_TRUE(slots.back());
    std::memset(slots.back().data, static_cast<int>(content_of(i)), 4000);
    if (i % 2 == 0) {
      pool_->Sent(slots.back(), 4000, /*keep=*/true);
    } else {
      pool_->GiveUp(slots.back(), 4000);  // copied
    }
  }
  EXPECT_EQ(pool_->GetUsage().kept, 6u);
  EXPECT_EQ(pool_->GetUsage().in_flight, 6u);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 0u);
  const uint64_t copied = copied_payload_bytes.load();
  std::vector<Slot> others;
  for (size_t moved = 1; moved <= 6; ++moved) {
    others.push_back(pool_->Take(4096, 0, false));
    ASSERT_TRUE(others.back());
    EXPECT_TRUE(IsZero(others.back()));
    std::memset(others.back().data, 0xff, others.back().bytes);
    EXPECT_EQ(pool_->GetUsage().moved_out_bytes, moved * 4000) << "no more than is needed";
    EXPECT_EQ(pool_->GetUsage().kept, 6 - moved);
  }
  EXPECT_EQ(copied_payload_bytes.load(), copied + 6 * 4000);
  EXPECT_FALSE(pool_->Take(4096, 0, false)) << "the peer has the others";
  for (size_t i = 0; i < slots.size(); ++i) {
    EXPECT_TRUE(Has(slots[i], 4000, content_of(i), keeper_of(i))) << i;
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    pool_->LetGo(slots[i], keeper_of(i));
    EXPECT_TRUE(i % 2 == 0 || IsLost(slots[i], keeper_of(i)));
  }
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 0u) << "given back";
  EXPECT_EQ(pool_->GetUsage().taken, 6u) << "they were not theirs to let go";
  for (size_t i = 0; i < slots.size(); i += 2) Release(slots[i]);
  for (const Slot& slot : others) pool_->Return(slot, slot.bytes);
  const SlotPool::Usage usage = pool_->GetUsage();
  EXPECT_EQ(usage.taken + usage.in_flight + usage.kept, 0u);
  EXPECT_FALSE(pool_->Trim(0));
  EXPECT_TRUE(IsLost(slots[1], keeper_of(1))) << "the class has been forgotten";
}

TEST_F(KeptSlotsTest, OfSeveralTheSmallestContentIsMoved) {
  const int large = 0;
  const int small = 0;
  const Slot first = Kept(4000, std::byte{1}, &large);
  const Slot second = Kept(16, std::byte{2}, &small);
  const std::vector<Slot> others = TakeAll(100);
  const Slot next = pool_->Take(4096, 0, false);
  EXPECT_EQ(next.data, second.data);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 16u);
  EXPECT_TRUE(Has(first, 4000, std::byte{1}, &large));
  EXPECT_TRUE(Has(second, 16, std::byte{2}, &small));
  pool_->LetGo(first, &large);
  pool_->LetGo(second, &small);
  pool_->Return(next, 0);
  for (const Slot& other : others) pool_->Return(other, 0);
}

// A slot may have been used for more before.
TEST_F(KeptSlotsTest, OnlyWhatTheMessageHasIsMoved) {
  // Large ones are used two in turn.
  const Slot before[] = {pool_->Take(1u << 20, 0, false), pool_->Take(1u << 20, 0, false)};
  for (const Slot& slot : before) pool_->Return(slot, 1u << 20);
  const int keeper = 0;
  const Slot slot = Kept(100'000, std::byte{3}, &keeper);
  EXPECT_TRUE(slot.data == before[0].data || slot.data == before[1].data);
  const std::vector<Slot> others = TakeAll(100);
  const Slot next = pool_->Take(100'000, 0, /*finished=*/true);
  EXPECT_EQ(next.data, slot.data);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 100'000u);
  EXPECT_TRUE(Has(slot, 100'000, std::byte{3}, &keeper));
  pool_->LetGo(slot, &keeper);
  pool_->Return(next, 0);
  for (const Slot& other : others) pool_->Return(other, 0);
}

TEST_F(KeptSlotsTest, RoomForAMessageOfSeveralSlotsIsMadeToo) {
  std::vector<Slot> slots;
  slots.reserve(8);
  // One of two slots, and one of three, with one of a single slot between them.
  for (const uint64_t bytes : {2'000'000u, 1'000'000u, 3'000'000u}) {
    slots.push_back({});
    slots.back() = Kept(bytes, static_cast<std::byte>(slots.size()), &slots.back());
  }
  EXPECT_EQ(pool_->GetUsage().kept, 3u);
  const Slot next = pool_->Take(2'500'000, 0, true);
  ASSERT_TRUE(next);
  EXPECT_TRUE(IsZero(next));
  std::memset(next.data, 0xff, next.bytes);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 3'000'000u)
      << "of two ways the cheaper, or as cheap";
  const Slot last = pool_->Take(3'000'000, 0, true);
  ASSERT_TRUE(last);
  std::memset(last.data, 0xff, last.bytes);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 6'000'000u);
  EXPECT_FALSE(pool_->Take(1'000'000, 0, true));
  EXPECT_TRUE(Has(slots[0], 2'000'000, std::byte{1}, &slots[0]));
  EXPECT_TRUE(Has(slots[1], 1'000'000, std::byte{2}, &slots[1]));
  EXPECT_TRUE(Has(slots[2], 3'000'000, std::byte{3}, &slots[2]));
  for (Slot& slot : slots) pool_->LetGo(slot, &slot);
  pool_->Return(next, next.bytes);
  pool_->Return(last, last.bytes);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 0u);
}

TEST_F(KeptSlotsTest, NothingIsMovedForAMessageThatWouldNotFit) {
  const int keeper = 0;
  const Slot slot = Kept(4096, std::byte{1}, &keeper);
  const std::vector<Slot> others = TakeAll(100);
  EXPECT_FALSE(pool_->Take(10'000, 0, true));
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 0u);
  EXPECT_EQ(pool_->GetUsage().kept, 1u);
  pool_->LetGo(slot, &keeper);
  for (const Slot& other : others) pool_->Return(other, 0);
}

TEST_F(KeptSlotsTest, BeyondTheBoundContentIsLost) {
  ShmOptions options = Options();
  options.kept_copies_bytes_max = 10'000;
  pool_->Detach();
  pool_ = new SlotPool(options, *peer_, true);
  std::vector<Slot> slots(3);
  for (Slot& slot : slots) slot = Kept(4000, std::byte{5}, &slot);
  std::vector<Slot> others = TakeAll(100);
  for (int i = 0; i < 3; ++i) {
    others.push_back(pool_->Take(4096, 0, false));
    ASSERT_TRUE(others.back());
  }
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 8000u);
  EXPECT_EQ(pool_->GetUsage().kept, 0u);
  EXPECT_TRUE(Has(slots[0], 4000, std::byte{5}, &slots[0]));
  EXPECT_TRUE(Has(slots[1], 4000, std::byte{5}, &slots[1]));
  EXPECT_TRUE(IsLost(slots[2], &slots[2]));
  for (Slot& slot : slots) pool_->LetGo(slot, &slot);
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 0u) << "there is room again";
  for (const Slot& other : others) pool_->Return(other, 0);
}

TEST_F(KeptSlotsTest, OutlivesTheConnectionForTheSakeOfKeepers) {
  for (const bool moved : {false, true}) {
    SCOPED_TRACE(moved);
    pool_ = pool_ != nullptr ? pool_ : new SlotPool(Options(), *peer_, true);
    const int keeper = 0;
    const Slot slot = Kept(8, std::byte{7}, &keeper);
    std::vector<Slot> others;
    if (moved) {
      others = TakeAll(100);
      others.push_back(pool_->Take(4096, 0, false));
      std::memset(others.back().data, 0xff, 4096);
    }
    pool_->Detach();
    EXPECT_TRUE(Has(slot, 8, std::byte{7}, &keeper));
    for (const Slot& other : others) pool_->Return(other, other.bytes);
    // Destroys it: ASan would see a leak.
    std::exchange(pool_, nullptr)->LetGo(slot, &keeper);
    peer_ = std::make_unique<Control>();
  }
}

TEST_F(KeptSlotsTest, WhoNeedsASlotWaitsWhileItIsReadAndNobodyElseDoes) {
  const int keeper = 0;
  const Slot slot = Kept(4096, std::byte{7}, &keeper);
  const std::vector<Slot> others = TakeAll(100);
  pool_->Return(others.back(), 0);  // of the last class
  Slot next;
  std::atomic<bool> begun{false};
  std::thread taker;
  EXPECT_TRUE(pool_->WhileKept({&slot, 1}, &keeper, [&](Where where) {
    taker = std::thread([&] {
      begun = true;
      next = pool_->Take(4096, 0, false);
      std::memset(next.data, 0xff, next.bytes);
    });
    for (int i = 0; i < 1000; i += begun) {
      const Slot large = pool_->Take(100'000, 0, /*finished=*/true);
      EXPECT_TRUE(large);
      pool_->Return(large, 0);
      std::this_thread::yield();
    }
    EXPECT_TRUE(
        std::all_of(where[0], where[0] + 4096, [](std::byte b) { return b == std::byte{7}; }));
  }));
  taker.join();
  EXPECT_EQ(next.data, slot.data);
  EXPECT_TRUE(Has(slot, 4096, std::byte{7}, &keeper));
  pool_->LetGo(slot, &keeper);
  pool_->Return(next, next.bytes);
  for (size_t i = 0; i + 1 < others.size(); ++i) pool_->Return(others[i], 0);
}

// Each thread's messages want more slots than there are.
TEST_F(KeptSlotsTest, ContentOfManyThreadsSurvivesThatTheyNeedEachOthersSlots) {
  const auto work = [this](uint32_t seed) {
    std::minstd_rand random(seed);
    struct Message {
      Slot slot;
      uint64_t bytes;
      std::byte content;
    };
    std::vector<std::unique_ptr<Message>> messages;
    for (int step = 0; step < 3000; ++step) {
      if (messages.size() < 6) {
        static constexpr uint64_t kSizes[] = {8, 4096, 50'000, 300'000};
        auto message = std::make_unique<Message>();
        message->bytes = kSizes[random() % (step % 16 == 0 ? 4 : 2)];
        message->content = static_cast<std::byte>(1 + random() % 255);
        const Slot slot = pool_->Take(message->bytes, 0, true, nullptr, message.get());
        if (slot) {
          ASSERT_TRUE(std::all_of(slot.data, slot.data + message->bytes,
                                  [](std::byte b) { return b == std::byte{}; }));
          std::memset(slot.data, static_cast<int>(message->content), message->bytes);
          if (random() % 4 == 0) {
            pool_->GiveUp(slot, message->bytes);
          } else {
            pool_->Sent(slot, message->bytes, /*keep=*/true);
            Release(slot);
          }
          message->slot = slot;
          messages.push_back(std::move(message));
          continue;
        }
      }
      if (messages.empty()) continue;
      std::swap(messages[random() % messages.size()], messages.back());
      const Message& message = *messages.back();
      ASSERT_TRUE(Has(message.slot, message.bytes, message.content, &message));
      if (random() % 4 == 0) continue;
      pool_->LetGo(message.slot, &message);
      messages.pop_back();
    }
    for (const auto& message : messages) pool_->LetGo(message->slot, message.get());
  };
  std::vector<std::thread> threads;
  for (uint32_t i = 1; i <= 4; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  const SlotPool::Usage usage = pool_->GetUsage();
  EXPECT_EQ(usage.taken + usage.in_flight + usage.kept, 0u);
  EXPECT_EQ(usage.moved_out_bytes, 0u);
}

// --- Messages

TEST_F(KeptSlotsTest, AMessageWithTwoHandlesIsReadAfterItWasSentAndReleased) {
  OutgoingMessage message = ShmMessage::New(*pool_, 5000);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(5000).front() = 7;
  OutgoingMessage second = ShareMessage(*message, 64 << 10);
  ASSERT_TRUE(second);
  SlotSegments* const own = SlotSegments::Of(*second, *pool_);
  const Slot slot = own->slots()[0];
  own->MarkSent(second->Segments(), /*keep=*/true);
  second.reset();
  EXPECT_FALSE(IsSole(*message));
  Release(slot);
  EXPECT_TRUE(ReadShared(*message, [&](auto segments) {
    capnp::SegmentArrayMessageReader reader(segments);
    EXPECT_EQ(reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>()[0], 7);
  }));
  EXPECT_EQ(pool_->GetUsage().kept, 1u);
  message.reset();
  EXPECT_EQ(pool_->GetUsage().kept, 0u);
  const Slot again = pool_->Take(5000, 0, false);
  EXPECT_EQ(again.data, slot.data);
  EXPECT_TRUE(IsZero(again));
  pool_->Return(again, 0);
}

// It began on the heap; its further segments are in slots, some of which others need.
TEST_F(KeptSlotsTest, AMessageIsReadWhereverItsPartsAreNow) {
  OutgoingMessage message = NewHeapMessage(0);
  message->segment_source = pool_;
  auto list = message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(3);
  const size_t sizes[] = {2'000, 4'000, 60'000};
  for (uint32_t i = 0; i < 3; ++i) {
    auto data = list.init(i, static_cast<uint32_t>(sizes[i]));
    std::fill(data.begin(), data.end(), static_cast<uint8_t>(i + 1));
  }
  OutgoingMessage second = ShareMessage(*message, 1 << 20);
  ASSERT_TRUE(second);
  SlotSegments* const own = SlotSegments::Of(*second, *pool_);
  ASSERT_NE(own, nullptr);
  const std::vector<Slot> slots(own->slots().begin(), own->slots().end());
  ASSERT_GE(slots.size(), 2u);
  own->MarkSent(second->Segments(), /*keep=*/true);
  second.reset();
  for (const Slot& slot : slots) Release(slot);
  const std::vector<Slot> others = TakeAll(100);
  std::vector<Slot> next;
  for (size_t i = 0; i <= slots.size(); ++i) {
    int parts = 0;
    EXPECT_TRUE(ReadShared(*message, [&](auto segments) {
      capnp::SegmentArrayMessageReader reader(segments);
      const auto read = reader.getRoot<capnp::AnyPointer>().getAs<capnp::List<capnp::Data>>();
      for (uint32_t part = 0; part < read.size(); ++part) {
        ASSERT_EQ(read[part].size(), sizes[part]);
        for (const uint8_t byte : read[part]) ASSERT_EQ(byte, part + 1);
        ++parts;
      }
    })) << i;
    EXPECT_EQ(parts, 3);
    if (i == slots.size()) break;
    next.push_back(pool_->Take(100, 0, true));
    ASSERT_TRUE(next.back());
    std::memset(next.back().data, 0xff, next.back().bytes);
  }
  EXPECT_GT(pool_->GetUsage().moved_out_bytes, 60'000u);
  message.reset();
  EXPECT_EQ(pool_->GetUsage().moved_out_bytes, 0u);
  for (const Slot& slot : next) pool_->Return(slot, slot.bytes);
  for (const Slot& other : others) pool_->Return(other, 0);
}

}  // namespace
}  // namespace mi7::transport::shm
