#include "transport/buffer_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

const size_t kSizes[] = {0,     1,      4000,   4032,    4033,     8128,      60000,
                         65472, 131008, 131009, 200'000, 1u << 20, 5'000'000, 64u << 20};

TEST(BufferPoolTest, BuffersAreLargeEnoughAlignedAndWritable) {
  for (const size_t size : kSizes) {
    BufferRef buffer = BufferPool::Allocate(size);
    EXPECT_GE(buffer->capacity(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_TRUE(buffer->unique());
    if (size == 0) continue;
    buffer->data()[0] = std::byte{1};
    buffer->data()[buffer->capacity() - 1] = std::byte{2};
  }
}

TEST(BufferPoolTest, RoundingWastesAtMostHalfOfSmallAndAnEighthOfLarge) {
  for (size_t size = 4032; size < (64u << 20); size = size * 9 / 8 + 40) {
    const size_t capacity = BufferPool::Allocate(size)->capacity();
    if (size + 64 <= BufferPool::kLargeBytes) {
      EXPECT_LE(capacity, 2 * size + 128) << size;
    } else {
      EXPECT_LE(capacity, size + size / 8 + 64) << size;
    }
  }
}

TEST(BufferPoolTest, LastFreedIsHandedOutFirst) {
  for (const size_t size : {size_t{100}, size_t{100'000}, size_t{1} << 20}) {
    BufferRef first = BufferPool::Allocate(size);
    BufferRef second = BufferPool::Allocate(size);
    const Buffer* const place = first.get();
    second.reset();
    first.reset();
    EXPECT_EQ(BufferPool::Allocate(size).get(), place) << size;
  }
}

TEST(BufferPoolTest, SharedBufferIsFreedByTheLastReference) {
  BufferRef first = BufferPool::Allocate(100);
  BufferRef second = first.Share();
  EXPECT_FALSE(first->unique());
  const Buffer* const place = first.get();
  first.reset();
  EXPECT_TRUE(second->unique());
  BufferRef other = BufferPool::Allocate(100);
  EXPECT_NE(other.get(), place);
  std::thread([second = std::move(second)]() mutable { second.reset(); }).join();
}

TEST(BufferPoolTest, ZeroedBuffersAreZeroWhenTheirUsersKeepTheRule) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const size_t size = BufferPool::kZeroedFrom + random() % 300'000;
    BufferRef buffer = BufferPool::AllocateZeroed(size);
    std::byte* const start = buffer->data() + BufferPool::kZeroedFrom;
    const size_t zeroed = buffer->capacity() - BufferPool::kZeroedFrom;
    for (size_t at = 0; at < zeroed; at += 1 + random() % 50) {
      ASSERT_EQ(start[at], std::byte{0}) << at << " of " << size;
    }
    const size_t used = random() % zeroed;
    std::memset(buffer->data(), 0xFF, BufferPool::kZeroedFrom + used);
    std::memset(start, 0, used);
  }
}

TEST(BufferPoolTest, ClearZeroesExactlyTheRangeItIsGiven) {
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{5000}, size_t{32} << 20, (size_t{33} << 20) + 4097}) {
    BufferRef buffer = BufferPool::AllocateZeroed(bytes + BufferPool::kZeroedFrom + 10'000);
    std::byte* const start = buffer->data() + BufferPool::kZeroedFrom + 100;
    std::memset(start, 1, bytes + 5000);
    BufferPool::Clear(start + 8, bytes);
    EXPECT_EQ(start[7], std::byte{1});
    EXPECT_EQ(start[bytes + 8], std::byte{1});
    for (size_t i = 8; i < bytes + 8; ++i) ASSERT_EQ(start[i], std::byte{0}) << i;
    BufferPool::Clear(start, bytes + 5000);
  }
}

TEST(BufferPoolTest, BuffersTravelBetweenThreads) {
  std::vector<std::thread> threads;
  std::vector<std::vector<BufferRef>> made(4);
  for (size_t t = 0; t < made.size(); ++t) {
    threads.emplace_back([&made, t] {
      for (uint32_t i = 0; i < 500; ++i) {
        made[t].push_back(BufferPool::Allocate((i * 977) % 70'000));
        std::memset(made[t].back()->data(), static_cast<int>(t), 64);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  // Freed by others, while more are made: no buffer may be with two.
  for (size_t t = 0; t < made.size(); ++t) {
    threads.emplace_back([&made, t] {
      std::vector<BufferRef>& others = made[(t + 1) % made.size()];
      std::set<const Buffer*> mine;
      std::vector<BufferRef> kept;
      for (uint32_t i = 0; i < 500; ++i) {
        EXPECT_EQ(others[i]->data()[63], static_cast<std::byte>((t + 1) % made.size()));
        others[i].reset();
        kept.push_back(BufferPool::Allocate((i * 977) % 70'000));
        EXPECT_TRUE(mine.insert(kept.back().get()).second);
        std::memset(kept.back()->data(), 0x55, 64);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Resident pages of a mapped range.
size_t ResidentPages(const void* start, size_t bytes) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(start) + page - 1) / page * page;
  std::vector<unsigned char> resident(bytes / page);
  EXPECT_EQ(
      ::mincore(reinterpret_cast<void*>(begin), (resident.size() - 1) * page, resident.data()), 0);
  size_t count = 0;
  for (size_t i = 0; i + 1 < resident.size(); ++i) count += resident[i] & 1;
  return count;
}

TEST(BufferPoolTest, AnnouncedMemoryIsNotCommitted) {
  BufferPool::Trim();
  BufferRef buffer = BufferPool::Allocate(64u << 20);
  EXPECT_EQ(ResidentPages(buffer->data(), 64u << 20), 0u);
  std::memset(buffer->data() + (1u << 20), 1, 1u << 20);
  EXPECT_LE(ResidentPages(buffer->data(), 64u << 20), 1024u) << "huge pages at most";
}

TEST(BufferPoolTest, PooledBytesAreBounded) {
  BufferPool::Trim();
  std::vector<BufferRef> buffers;
  for (int i = 0; i < 8; ++i) buffers.push_back(BufferPool::Allocate(48u << 20));
  std::vector<const void*> places;
  for (const BufferRef& buffer : buffers) places.push_back(buffer->data());
  buffers.clear();
  // A page that went back to the system cannot be asked about.
  size_t kept = 0;
  unsigned char resident;
  for (const void* const place : places) {
    const uintptr_t page = reinterpret_cast<uintptr_t>(place) / 4096 * 4096;
    if (::mincore(reinterpret_cast<void*>(page), 1, &resident) == 0) ++kept;
  }
  EXPECT_LE(kept * (48u << 20), BufferPool::kPooledBytesMax);
  EXPECT_GE(kept, 4u);
  BufferPool::Trim();
}

TEST(BufferPoolTest, WorksWhileItsThreadEnds) {
  // A thread-local object that is destroyed after the pool's part of the thread.
  struct Late {
    BufferRef kept;
    ~Late() {
      kept.reset();
      BufferPool::Allocate(100).reset();
    }
  };
  std::thread([] {
    static thread_local Late late;
    static_cast<void>(late.kept.get());  // constructed before the pool is used: destroyed after
    late.kept = BufferPool::Allocate(100);
  }).join();
}

}  // namespace
}  // namespace mi7::transport
