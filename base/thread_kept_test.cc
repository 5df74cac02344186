#include "base/thread_kept.h"

#include <functional>
#include <thread>

#include <gtest/gtest.h>

namespace mi7 {
namespace {

struct Counted {
  Counted() { ++made; }
  ~Counted() {
    ++gone;
    if (when_gone) when_gone();
  }
  int value = 0;
  static inline int made = 0;
  static inline int gone = 0;
  static inline std::function<void()> when_gone;
};

class ThreadKeptTest : public testing::Test {
 protected:
  void SetUp() override {
    Counted::made = Counted::gone = 0;
    Counted::when_gone = nullptr;
  }
};

TEST_F(ThreadKeptTest, EachThreadHasItsOwnUntilItEnds) {
  struct Here;
  const auto in_a_thread = [] {
    std::thread([] {
      Counted* const mine = ThreadKept<Counted, Here>::Get();
      ASSERT_NE(mine, nullptr);
      EXPECT_EQ(mine->value, 0);
      mine->value = 7;
      EXPECT_EQ((ThreadKept<Counted, Here>::Get()), mine);
      EXPECT_EQ(Counted::gone, Counted::made - 1);
    }).join();
  };
  in_a_thread();
  EXPECT_EQ(Counted::made, 1);
  EXPECT_EQ(Counted::gone, 1);
  in_a_thread();
  EXPECT_EQ(Counted::made, 2);
  EXPECT_EQ(Counted::gone, 2);
}

TEST_F(ThreadKeptTest, EachTagHasItsOwn) {
  struct One;
  struct Other;
  EXPECT_NE((ThreadKept<int, One>::Get()), (ThreadKept<int, Other>::Get()));
}

TEST_F(ThreadKeptTest, IsGoneWhenItsThreadEnds) {
  struct Here;
  static int asked = 0;
  const auto expect_gone = [] {
    ++asked;
    EXPECT_EQ((ThreadKept<Counted, Here>::Get()), nullptr);
  };
  // A thread-local object that is destroyed after it.
  struct Late {
    std::function<void()> when_gone;
    ~Late() { when_gone(); }
  };
  std::thread([&] {
    static thread_local Late late;
    late.when_gone = expect_gone;
    Counted::when_gone = expect_gone;
    EXPECT_NE((ThreadKept<Counted, Here>::Get()), nullptr);
  }).join();
  EXPECT_EQ(asked, 2) << "in its own destructor, too";
  EXPECT_EQ(Counted::made, 1);
}

}  // namespace
}  // namespace mi7
