// Threads and coroutines that send, receive and select on the same channels, with deadlines that
// pass at every moment of a wait: each value comes once, and everybody comes to an end.

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/detached_task.h"
#include "channels/channel.h"
#include "channels/select.h"
#include "gtest/gtest.h"
#include "transport/event_loop.h"

namespace mi7::channels {
namespace {

using transport::EventLoop;

constexpr size_t kChannels = 3;
constexpr int kEach = 4000;
constexpr int kSenders = 6;

Deadline Late() { return Deadline::After(absl::Seconds(100)); }
Deadline Brief(int i) { return Deadline::After(absl::Microseconds(i % 40)); }

class StressTest : public testing::Test {
 public:
  void See(int value) { seen_[static_cast<size_t>(value)].fetch_add(1); }

 protected:
  StressTest() : seen_(kSenders * kEach) {
    for (size_t i = 0; i < kChannels; ++i) {
      auto [sender, receiver] = Bounded<int>(i == 0 ? 1 : 3);
      senders_.push_back(std::move(sender));
      receivers_.push_back(std::move(receiver));
    }
  }

  std::vector<std::atomic<int>> seen_;
  std::vector<Sender<int>> senders_;
  std::vector<Receiver<int>> receivers_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create({}).value();
};

TEST_F(StressTest, EachValueComesOnceHoweverItIsWaitedFor) {
  auto [ended, wait] = Unbounded<int>();
  std::vector<std::thread> threads;
  // Senders: one by one with brief deadlines; by select; in coroutines, both ways.
  for (int sender = 0; sender < 2; ++sender) {
    threads.emplace_back([this, sender, out = senders_] {
      for (int i = 0; i < kEach; ++i) {
        const Sender<int>& to = out[static_cast<size_t>(i) % kChannels];
        absl::Status status;
        do {
          status = to.Send(sender * kEach + i, Brief(i));
        } while (absl::IsDeadlineExceeded(status));
        ASSERT_TRUE(status.ok()) << status;
      }
    });
    threads.emplace_back([this, sender = sender + 2, out = senders_] {
      for (int i = 0; i < kEach; ++i) {
        const int value = sender * kEach + i;
        int sent = 0;
        while (sent == 0) {
          const auto count = [&sent] { ++sent; };
          ASSERT_TRUE(Select(OnSend(out[0], int{value}, count), OnSend(out[1], int{value}, count),
                             OnSend(out[2], int{value}, count), OnDeadline(Brief(i), [] {}))
                          .ok());
        }
        ASSERT_EQ(sent, 1);
      }
    });
  }
  loop_->Post([this, end = ended] {
    [](EventLoop* loop, std::vector<Sender<int>> out, Sender<int>) -> DetachedTask {
      for (int i = 0; i < kEach; ++i) {
        absl::Status status;
        do {
          status = co_await out[static_cast<size_t>(i) % kChannels].SendOn(loop, 4 * kEach + i,
                                                                           Brief(i));
        } while (absl::IsDeadlineExceeded(status));
        EXPECT_TRUE(status.ok()) << status;
      }
    }(loop_.get(), senders_, end);
    [](EventLoop* loop, std::vector<Sender<int>> out, Sender<int>) -> DetachedTask {
      for (int i = 0; i < kEach; ++i) {
        int sent = 0;
        const auto count = [&sent] { ++sent; };
        while (sent == 0) {
          const absl::Status status =
              co_await SelectOn(loop, OnSend(out[0], 5 * kEach + i, count),
                                OnSend(out[2], 5 * kEach + i, count), OnDeadline(Brief(i), [] {}));
          EXPECT_TRUE(status.ok()) << status;
        }
        EXPECT_EQ(sent, 1);
      }
    }(loop_.get(), senders_, end);
    // Receivers in coroutines.
    [](EventLoop* loop, std::vector<Receiver<int>> in, StressTest* test,
       Sender<int>) -> DetachedTask {
      const auto see = [test](int value) { test->See(value); };
      while ((co_await SelectOn(loop, OnReceive(in[0], see), OnReceive(in[1], see),
                                OnReceive(in[2], see)))
                 .ok()) {
      }
    }(loop_.get(), receivers_, this, end);
    [](EventLoop* loop, Receiver<int> in, StressTest* test, Sender<int>) -> DetachedTask {
      for (int i = 0;; ++i) {
        auto value = co_await in.ReceiveOn(loop, Brief(i));
        if (value.ok()) test->See(*value);
        if (absl::IsCancelled(value.status())) break;
      }
    }(loop_.get(), receivers_[1], this, end);
    senders_.clear();
  });
  ended = {};
  threads.emplace_back([this] {
    const auto see = [this](int value) { See(value); };
    for (int i = 0; Select(OnReceive(receivers_[0], see), OnReceive(receivers_[1], see),
                           OnReceive(receivers_[2], see), OnDeadline(Brief(i), [] {}))
                        .ok();
         ++i) {
    }
  });
  threads.emplace_back([this] {
    for (int i = 0;; ++i) {
      auto value = receivers_[2].Receive(Brief(i));
      if (value.ok()) See(*value);
      if (absl::IsCancelled(value.status())) break;
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsCancelled(wait.Receive(Late()).status())) << "all coroutines have ended";
  for (const auto& count : seen_) ASSERT_EQ(count, 1);
}

}  // namespace
}  // namespace mi7::channels
