#include "transport/event_loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <latch>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <uv.h>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "transport/local/testing.h"
#include "transport/refuse_system_call.h"
#include "transport/spin_budget.h"
#include "transport/timer_heap.h"
#include "transport/unique_fd.h"

namespace mi7::transport {
namespace {

std::unique_ptr<EventLoop> NewLoop(WaitPolicy wait = WaitPolicy::kAdaptive) {
  auto loop = EventLoop::Create({.name = "event_loop_test", .wait = wait});
  EXPECT_TRUE(loop.ok()) << loop.status();
  return *std::move(loop);
}

class EventLoopTest : public ::testing::TestWithParam<WaitPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, EventLoopTest,
                         ::testing::Values(WaitPolicy::kBlock, WaitPolicy::kAdaptive,
                                           WaitPolicy::kSpin));

TEST_P(EventLoopTest, TasksRunInOrderOnTheLoop) {
  auto loop = NewLoop(GetParam());
  constexpr int kThreads = 3;
  constexpr int kTasks = 2000;
  std::vector<int> last(kThreads, -1);  // touched on the loop only
  std::atomic<bool> in_order{true};
  std::latch done(kThreads * kTasks);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kTasks; ++i) {
        loop->Post([&, t, i] {
          if (!loop->InLoopThread() || last[t] != i - 1) in_order = false;
          last[t] = i;
          done.count_down();
        });
      }
    });
  }
  for (auto& thread : threads) thread.join();
  done.wait();
  EXPECT_TRUE(in_order);
  EXPECT_FALSE(loop->InLoopThread());
}

TEST_P(EventLoopTest, TimersFireInOrderAndNotEarly) {
  auto loop = NewLoop(GetParam());
  std::vector<int> fired;
  std::latch done(3);
  const int64_t start_ns = MonotonicNanos();
  std::atomic<bool> early{false};
  const auto timer = [&](int ms) {
    return EventLoop::Timer(loop.get(), [&, ms] {
      if (MonotonicNanos() < start_ns + int64_t{ms} * 1'000'000) early = true;
      fired.push_back(ms);
      done.count_down();
    });
  };
  EventLoop::Timer late = timer(9);
  EventLoop::Timer soon = timer(2);
  EventLoop::Timer middle = timer(5);
  EventLoop::Timer never = timer(1);
  // On the loop: none fires before all are scheduled, however slow this is.
  loop->Post([&] {
    late.Schedule(Deadline::AtNanos(start_ns + 9'000'000));
    soon.Schedule(Deadline::AtNanos(start_ns + 2'000'000));
    middle.Schedule(Deadline::AtNanos(start_ns + 5'000'000));
    never.Schedule(Deadline::AtNanos(start_ns + 3'600'000'000'000));
    never.Cancel();
  });
  done.wait();
  EXPECT_EQ(fired, (std::vector<int>{2, 5, 9}));
  EXPECT_FALSE(early);
}

TEST_P(EventLoopTest, TimerCanRescheduleAndDestroyItselfInItsCallback) {
  auto loop = NewLoop(GetParam());
  std::latch done(1);
  int runs = 0;
  std::optional<EventLoop::Timer> timer;
  loop->Post([&] {
    timer.emplace(loop.get(), [&] {
      if (++runs < 3) {
        timer->Schedule(Deadline::After(absl::Microseconds(100)));
      } else {
        timer.reset();
        done.count_down();
      }
    });
    timer->Schedule(Deadline::After(absl::ZeroDuration()));
  });
  done.wait();
  EXPECT_EQ(runs, 3);
}

class CountingWatcher final : public Watcher {
 public:
  CountingWatcher(EventLoop* loop, int fd) : loop_(loop), fd_(fd) {}
  void OnReady(uint32_t events) override {
    EXPECT_NE(events & EPOLLIN, 0u);
    uint64_t value;
    ASSERT_EQ(::read(fd_, &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
    if (++seen == 3) {
      loop_->Unwatch(fd_, this);
      done.count_down();
    } else {
      const uint64_t one = 1;
      ASSERT_EQ(::write(fd_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
    }
  }
  int seen = 0;
  std::latch done{1};

 private:
  EventLoop* const loop_;
  const int fd_;
};

TEST_P(EventLoopTest, WatcherSeesReadinessUntilUnwatched) {
  auto loop = NewLoop(GetParam());
  const int fd = ::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
  CountingWatcher watcher(loop.get(), fd);
  ASSERT_TRUE(loop->Watch(fd, 0, &watcher).ok());
  loop->Rewatch(fd, EPOLLIN, &watcher);
  watcher.done.wait();
  EXPECT_EQ(watcher.seen, 3);
  loop.reset();
  ::close(fd);
}

// What else a loop does, without end, until Tire.
class Tireless final : public SpinSource {
 public:
  explicit Tireless(EventLoop* loop)
      : loop_(loop), timer_(loop, [this] { timer_.Schedule(Deadline::After({})); }) {}

  // It has work whenever it is asked, as a connection whose peer never stops sending.
  void BeSource() {
    always_ready_ = true;
    OnLoop([this] { loop_->SetSpinSource(this); });
  }
  // A task that is there again as soon as it has run, as of a connection that has not read all.
  void BeTask() {
    OnLoop([this] { RunAndPost(); });
  }
  // A timer that is due again at once, beside a source that has nothing to do.
  void BeTimer() {
    OnLoop([this] {
      loop_->SetSpinSource(this);
      timer_.Schedule(Deadline::After({}));
    });
  }
  void Tire() {
    tired_ = true;
    OnLoop([this] {
      timer_.Cancel();
      loop_->ForgetSpinSource(this);
    });
  }

  bool Poll() override { return always_ready_ && !tired_; }

 private:
  void OnLoop(absl::AnyInvocable<void()> task) {
    std::latch done(1);
    loop_->Post([&] {
      task();
      done.count_down();
    });
    done.wait();
  }
  void RunAndPost() {
    if (!tired_) loop_->Post([this] { RunAndPost(); });
  }

  EventLoop* const loop_;
  bool always_ready_ = false;  // the loop's, once it is its source
  std::atomic<bool> tired_{false};
  EventLoop::Timer timer_;
};

// Whether a descriptor is served meanwhile; if not, it is in the end.
bool IsServed(EventLoop* loop, Tireless& other) {
  const UniqueFd fd(::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
  CountingWatcher watcher(loop, fd.get());
  // On the loop: ThreadSanitizer does not see that epoll_pwait2 comes after epoll_ctl.
  loop->Post([&] { EXPECT_TRUE(loop->Watch(fd.get(), EPOLLIN, &watcher).ok()); });
  const Deadline deadline = Deadline::After(absl::Seconds(20));
  while (!watcher.done.try_wait() && !deadline.passed()) std::this_thread::yield();
  const bool served = watcher.done.try_wait();
  other.Tire();
  watcher.done.wait();
  return served;
}

TEST_P(EventLoopTest, ASourceThatAlwaysHasWorkKeepsNobodyWaiting) {
  auto loop = NewLoop(GetParam());
  Tireless tireless(loop.get());
  tireless.BeSource();
  EXPECT_TRUE(IsServed(loop.get(), tireless));
}

TEST_P(EventLoopTest, ATaskThatAlwaysComesAgainKeepsNobodyWaiting) {
  auto loop = NewLoop(GetParam());
  Tireless tireless(loop.get());
  tireless.BeTask();
  EXPECT_TRUE(IsServed(loop.get(), tireless));
}

TEST_P(EventLoopTest, ATimerThatIsAlwaysDueKeepsNobodyWaiting) {
  auto loop = NewLoop(GetParam());
  Tireless tireless(loop.get());
  tireless.BeTimer();
  EXPECT_TRUE(IsServed(loop.get(), tireless));
}

TEST(EventLoopUvTest, LibuvRunsInside) {
  auto loop = NewLoop();
  std::latch done(2);
  uv_timer_t timer;
  uv_getaddrinfo_t request;
  struct Context {
    std::latch* done;
  } context{&done};
  loop->Post([&] {
    timer.data = &context;
    uv_timer_init(loop->uv(), &timer);
    uv_timer_start(
        &timer,
        [](uv_timer_t* handle) {
          uv_close(reinterpret_cast<uv_handle_t*>(handle), [](uv_handle_t* closed) {
            static_cast<Context*>(closed->data)->done->count_down();
          });
        },
        5, 0);
    request.data = &context;
    uv_getaddrinfo(
        loop->uv(), &request,
        [](uv_getaddrinfo_t* handle, int, addrinfo* result) {
          uv_freeaddrinfo(result);
          static_cast<Context*>(handle->data)->done->count_down();
        },
        "localhost", nullptr, nullptr);
  });
  done.wait();
}

int64_t ThreadCpuNanos(clockid_t clock) {
  timespec time;
  EXPECT_EQ(::clock_gettime(clock, &time), 0);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// CPU time of the loop's thread in 300 ms without anything to do.
int64_t NanosOfAnIdleLoop(WaitPolicy wait) {
  auto loop = NewLoop(wait);
  std::latch started(1);
  clockid_t clock;
  loop->Post([&] {
    EXPECT_EQ(::pthread_getcpuclockid(::pthread_self(), &clock), 0);
    started.count_down();
  });
  started.wait();
  // In the loop's own life, waited for on its own timer: what it spins after being busy is over by
  // then.
  std::latch settled(1);
  EventLoop::Timer timer(loop.get(), [&] { settled.count_down(); });
  timer.Schedule(Deadline::After(absl::Milliseconds(50)));
  settled.wait();
  const int64_t before_ns = ThreadCpuNanos(clock);
  std::latch later(1);
  EventLoop::Timer second(loop.get(), [&] { later.count_down(); });
  second.Schedule(Deadline::After(absl::Milliseconds(300)));
  later.wait();
  return ThreadCpuNanos(clock) - before_ns;
}

TEST(EventLoopIdleTest, AnIdleLoopUsesNoCpu) {
  for (WaitPolicy wait : {WaitPolicy::kBlock, WaitPolicy::kAdaptive}) {
    EXPECT_LT(NanosOfAnIdleLoop(wait), 3'000'000);
  }
}

TEST(EventLoopIdleTest, NorDoesItWhereTheSystemWaitsInMillisecondsOnly) {
#ifdef __SANITIZE_THREAD__
  std::fprintf(stderr,
               "NOTICE: test not run, ThreadSanitizer knows no fork of a process with threads\n");
  GTEST_SKIP();
#endif
  constexpr int kNoFilter = 77;
  for (const int error : {ENOSYS, EPERM}) {
    const int status = testing::WaitFor(testing::Fork([error] {
      if (!testing::RefuseSystemCall(SYS_epoll_pwait2, static_cast<uint32_t>(error))) {
        return kNoFilter;
      }
      return NanosOfAnIdleLoop(WaitPolicy::kBlock) < 30'000'000 ? 0 : 1;
    }));
    if (status == kNoFilter) {
      std::fprintf(stderr, "NOTICE: test not run, this machine permits no filters\n");
      GTEST_SKIP();
    }
    EXPECT_EQ(status, 0) << "with error " << error;
  }
}

TEST(TimerHeapTest, AnyOrderOfInsertsAndRemovalsComesOutSorted) {
  std::mt19937 random(11);
  TimerHeap heap;
  std::vector<std::shared_ptr<TimerHeap::Entry>> entries;
  for (int i = 0; i < 500; ++i) {
    entries.push_back(std::make_shared<TimerHeap::Entry>());
    heap.Insert(entries.back(), static_cast<int64_t>(random() % 100));
  }
  size_t left = entries.size();
  for (int i = 0; i < 200; ++i) {
    auto& entry = *entries[random() % entries.size()];
    if (entry.place != SIZE_MAX) --left;
    heap.Remove(entry);
  }
  int64_t last = -1;
  while (auto due = heap.PopDue(1000)) {
    EXPECT_GE(due->at_ns, last);
    last = due->at_ns;
    --left;
  }
  EXPECT_EQ(left, 0u);
  EXPECT_EQ(heap.next_ns(), INT64_MAX);
}

TEST(ManualLoopTest, RunsTasksAndTimersOneByOne) {
  const std::unique_ptr<EventLoop> loop = EventLoop::CreateManual();
  std::vector<int> ran;
  EXPECT_FALSE(loop->RunOne());
  EXPECT_TRUE(loop->next_timer().infinite());
  EventLoop::Timer due(loop.get(), [&] { ran.push_back(3); });
  due.Schedule(Deadline::AtNanos(5));
  EXPECT_EQ(loop->next_timer(), Deadline::AtNanos(5));
  EventLoop::Timer later(loop.get(), [&] { ran.push_back(4); });
  later.Schedule(Deadline::After(absl::Hours(1)));
  loop->Post([&] {
    EXPECT_TRUE(loop->InLoopThread());
    ran.push_back(1);
    loop->Post([&] { ran.push_back(2); });
  });
  EXPECT_TRUE(ran.empty()) << "nothing runs by itself";
  EXPECT_TRUE(loop->RunOne());
  EXPECT_FALSE(loop->InLoopThread());
  EXPECT_EQ(ran, std::vector<int>({1}));
  EXPECT_TRUE(loop->RunOne());
  EXPECT_TRUE(loop->RunOne());
  EXPECT_EQ(ran, std::vector<int>({1, 2, 3})) << "tasks before timers";
  EXPECT_FALSE(loop->RunOne()) << "the other timer is not due";
}

TEST(ManualLoopTest, RunsWhatWasPostedBeforeItEnds) {
  bool ran = false;
  EventLoop::CreateManual()->Post([&] { ran = true; });
  EXPECT_TRUE(ran);
}

TEST(SpinBudgetTest, PollsWhileMessagesComeSoonAndStopsWhenTheyDoNot) {
  SpinBudget budget;
  EXPECT_EQ(budget.Begin(), SpinBudget::kSpinNs) << "the first wait is worth a try";
  budget.End(SpinBudget::kSpinNs, 8'000);
  EXPECT_EQ(budget.Begin(), SpinBudget::kSpinNs);
  budget.End(SpinBudget::kSpinNs, 1'000'000'000);
  EXPECT_EQ(budget.Begin(), 0);
  budget.End(0, 90'000);  // both sides slept: polling would have helped
  EXPECT_EQ(budget.Begin(), SpinBudget::kSpinNs);
}

TEST(SpinBudgetTest, PollsFromTheFirstOfABurstOn) {
  SpinBudget budget;
  const auto wait = [&budget](int64_t waited_ns) {
    const int64_t budget_ns = budget.Begin();
    budget.End(budget_ns, waited_ns);
    return budget_ns;
  };
  constexpr int64_t kRestNs = 2'000'000;
  wait(kRestNs);
  EXPECT_EQ(wait(8'000), 0) << "the first burst comes unforeseen";
  for (int burst = 0; burst < 3; ++burst) {
    for (int i = 0; i < 15; ++i) EXPECT_EQ(wait(8'000), SpinBudget::kSpinNs);
    wait(kRestNs);
  }
  EXPECT_EQ(wait(kRestNs), SpinBudget::kSpinNs);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(wait(kRestNs), 0) << "one by one they are slept for";
}

TEST(SpinBudgetTest, PollsThatFindNothingBecomeRare) {
  SpinBudget budget;
  int64_t polled_ns = 0;
  for (int i = 0; i < 1000; ++i) {
    const int64_t budget_ns = budget.Begin();
    polled_ns += budget_ns;
    budget.End(budget_ns, 200'000);  // always a little too late
  }
  EXPECT_LT(polled_ns, 40 * SpinBudget::kSpinNs);
}

}  // namespace
}  // namespace mi7::transport
