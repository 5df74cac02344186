#include "base/object_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

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

}  // namespace
}  // namespace mi7
