#include "rpc/task.h"

#include <coroutine>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace mi7 {
namespace {

struct OnOtherThread {
  std::thread* thread;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) {
    // Not through `this` once the thread runs: it ends with the coroutine.
    std::thread* const out = thread;
    std::thread started([coroutine] { coroutine.resume(); });
    *out = std::move(started);
  }
  void await_resume() const {}
};

Task<int> Value(int value) { co_return value; }
Task<int> Sum(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await Value(i);
  co_return sum;
}
Task<std::string> Throws() {
  throw std::runtime_error("no luck");
  co_return "";
}
Task<std::string> Catches() {
  try {
    co_return co_await Throws();
  } catch (const std::runtime_error& error) {
    co_return std::string("caught ") + error.what();
  }
}
Task<std::unique_ptr<int>> MoveOnly() { co_return std::make_unique<int>(5); }
Task<std::thread::id> Elsewhere(std::thread* thread) {
  co_await OnOtherThread{thread};
  co_return std::this_thread::get_id();
}

TEST(TaskTest, BlockOnGivesTheValue) { EXPECT_EQ(BlockOn(Value(7)), 7); }

TEST(TaskTest, TasksAwaitTasks) { EXPECT_EQ(BlockOn(Sum(100)), 4950); }

TEST(TaskTest, ExceptionsReachWhoeverAwaits) {
  EXPECT_EQ(BlockOn(Catches()), "caught no luck");
  EXPECT_THROW(BlockOn(Throws()), std::runtime_error);
}

TEST(TaskTest, MoveOnlyValues) { EXPECT_EQ(*BlockOn(MoveOnly()), 5); }

TEST(TaskTest, MayEndOnAnotherThread) {
  for (int i = 0; i < 100; ++i) {
    std::thread thread;
    const std::thread::id ran_on = BlockOn(Elsewhere(&thread));
    EXPECT_EQ(ran_on, thread.get_id());
    thread.join();
  }
}

// What a parameter guards or refers to may be gone once BlockOn has returned.
TEST(TaskTest, ParametersAreDestroyedBeforeBlockOnReturns) {
  class Parameter {
   public:
    explicit Parameter(absl::Notification* returned) : returned_(returned) {}
    Parameter(Parameter&& other) noexcept : returned_(std::exchange(other.returned_, nullptr)) {}
    // Gives BlockOn, which must not return meanwhile, time to do so.
    ~Parameter() {
      if (returned_ == nullptr) return;
      EXPECT_FALSE(returned_->WaitForNotificationWithTimeout(absl::Milliseconds(50)))
          << "BlockOn has returned, and a parameter of its coroutine lives";
    }

   private:
    absl::Notification* returned_;
  };
  const auto task = [](Parameter, std::thread* thread) -> Task<int> {
    co_await OnOtherThread{thread};
    co_return 5;
  };
  absl::Notification returned;
  std::thread thread;
  EXPECT_EQ(BlockOn(task(Parameter(&returned), &thread)), 5);
  returned.Notify();
  thread.join();
}

TEST(TaskTest, TaskThatIsNeverStartedIsFreed) {
  auto alive = std::make_shared<int>(1);
  std::weak_ptr<int> watch = alive;
  bool started = false;
  {
    const auto lazy = [](std::shared_ptr<int>, bool* starts) -> Task<int> {
      *starts = true;
      co_return 1;
    };
    Task<int> task = lazy(std::move(alive), &started);
  }
  EXPECT_FALSE(started);
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace mi7
