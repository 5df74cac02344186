#include "base/object_pool.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace mi7 {
namespace {

struct Tracked {
  explicit Tracked(int* alive_count, std::string text_of = "")
      : alive(alive_count), text(std::move(text_of)) {
    ++*alive;
  }
  ~Tracked() { --*alive; }
  int* alive;
  std::string text;
};

TEST(ObjectPoolTest, ConstructsAndDestroysEachObjectOnce) {
  int alive = 0;
  Tracked* const object = ObjectPool<Tracked>::New(&alive, "hello");
  EXPECT_EQ(alive, 1);
  EXPECT_EQ(object->text, "hello");
  ObjectPool<Tracked>::Delete(object);
  EXPECT_EQ(alive, 0);
}

TEST(ObjectPoolTest, LastFreedMemoryIsUsedFirst) {
  struct Plain {
    uint64_t value = 7;
  };
  Plain* const first = ObjectPool<Plain>::New();
  first->value = 1;
  const void* const place = first;
  ObjectPool<Plain>::Delete(first);
  Plain* const second = ObjectPool<Plain>::New();
  EXPECT_EQ(second, place);
  EXPECT_EQ(second->value, 7u) << "constructed anew";
  ObjectPool<Plain>::Delete(second);
}

TEST(ObjectPoolTest, MoreThanTheBoundIsGivenBack) {
  int alive = 0;
  std::vector<Tracked*> objects;
  for (size_t i = 0; i < 3 * ObjectPool<Tracked>::kCachedMax; ++i) {
    objects.push_back(ObjectPool<Tracked>::New(&alive));
  }
  for (Tracked* object : objects) ObjectPool<Tracked>::Delete(object);
  EXPECT_EQ(alive, 0);  // a leak of the rest is the sanitizer's finding
}

TEST(ObjectPoolTest, ObjectsMayBeDeletedOnAnotherThread) {
  int alive = 0;
  Tracked* const object = ObjectPool<Tracked>::New(&alive, "from here");
  std::thread([object] { ObjectPool<Tracked>::Delete(object); }).join();
  EXPECT_EQ(alive, 0);
}

TEST(ObjectPoolTest, MemoryFreedOnAnotherThreadComesBack) {
  struct Crossing {
    uint64_t values[5];
  };
  using Pool = ObjectPool<Crossing>;
  constexpr size_t kObjects = 10 * Pool::kCachedMax;
  std::vector<Crossing*> objects;
  std::set<void*> places;
  for (int round = 0; round < 5; ++round) {
    for (size_t i = 0; i < kObjects; ++i) objects.push_back(Pool::New());
    places.insert(objects.begin(), objects.end());
    std::thread([&objects] {
      for (Crossing* object : objects) Pool::Delete(object);
    }).join();
    objects.clear();
  }
  EXPECT_EQ(places.size(), kObjects) << "the first round's memory serves all others";
}

TEST(ObjectPoolTest, ThreadsThatMakeAndDeleteForEachOther) {
  int alive[4] = {};
  std::vector<std::thread> threads;
  std::array<std::atomic<Tracked*>, 4> slots{};
  for (size_t t = 0; t < slots.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20'000; ++i) {
        int own = 0;
        Tracked* const mine = ObjectPool<Tracked>::New(&own, "x");
        mine->alive = &alive[t];
        ++alive[t];
        if (Tracked* const other = slots[(t + 1) % slots.size()].exchange(nullptr)) {
          other->alive = &alive[t];
          ObjectPool<Tracked>::Delete(other);
        }
        if (Tracked* const last = slots[t].exchange(mine)) {
          last->alive = &alive[t];
          ObjectPool<Tracked>::Delete(last);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& slot : slots) {
    if (Tracked* const left = slot.exchange(nullptr)) {
      left->alive = &alive[0];
      ObjectPool<Tracked>::Delete(left);
    }
  }
  EXPECT_EQ(alive[0] + alive[1] + alive[2] + alive[3], 0) << "made as many as deleted";
}

}  // namespace
}  // namespace mi7
