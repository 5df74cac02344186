// How a loop waits: polls for a while, then sleeps.

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "transport/event_loop_impl.h"

namespace mi7::transport {
namespace {

// While spinning, every so many polls of the spin source the other descriptors are looked at.
constexpr uint32_t kPollsPerEpoll = 8;
// However busy the polled sources are: so often are descriptors looked at, more and more seldom as
// long as they have nothing. A look is a system call, by which a call in some hundred is late.
constexpr int64_t kEpollEveryMinNs = 50'000;
constexpr int64_t kEpollEveryMaxNs = 200'000;
// And tasks' and timers' clocks, after so many rounds of the polled sources that all had work;
// fewer where those take long, because handlers do.
constexpr uint32_t kRoundsPerClockMost = 64;

}  // namespace

bool EventLoop::Impl::Dispatch(int count) {
  if (count <= 0) {
    MI7_CHECK(count == 0 || errno == EINTR, "epoll_wait fails only when interrupted");
    return false;
  }
  bool worked = false;
  event_count = count;
  for (int i = 0; i < event_count; ++i) {
    void* const target = events[i].data.ptr;
    if (target == nullptr) continue;  // wake_fd, or unwatched meanwhile
    worked = true;
    if (target == this) {
      RunUv();
    } else {
      static_cast<Watcher*>(target)->OnReady(events[i].events);
    }
  }
  event_count = 0;
  return worked;
}

int EventLoop::Impl::Wait(int64_t until_ns) {
  if (until_ns == kNever) return sys::EpollWait(epoll_fd.get(), events, kEventsMax, -1);
  const int64_t at_ns = Deadline::AtNanos(until_ns).ForSystem().at_ns();
  const int64_t left_ns = std::max<int64_t>(0, at_ns - SystemNanos());
  static std::atomic<bool> no_pwait2{false};
  if (!no_pwait2.load(std::memory_order_relaxed)) {
    const timespec timeout{static_cast<time_t>(left_ns / 1'000'000'000),
                           static_cast<long>(left_ns % 1'000'000'000)};
    const int count = ::epoll_pwait2(epoll_fd.get(), events, kEventsMax, &timeout, nullptr);
    if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count;
    // Linux before 5.11, or a container's filter that does not know it.
    no_pwait2.store(true, std::memory_order_relaxed);
  }
  const int64_t left_ms = std::min<int64_t>((left_ns + 999'999) / 1'000'000, 3'600'000);
  return sys::EpollWait(epoll_fd.get(), events, kEventsMax, static_cast<int>(left_ms));
}

bool EventLoop::Impl::Spin(int64_t start_ns, int64_t budget_ns) {
  neighbour.BeginWait();
  for (uint32_t polls = 0;; ++polls) {
    if (spin_source != nullptr && spin_source->Poll()) {
      // While every spin ends here, nobody else would be served.
      PollNowAndThen(start_ns);
      return true;
    }
    const bool look = spin_source == nullptr || polls % kPollsPerEpoll == kPollsPerEpoll - 1;
    if ((look && Poll()) || HasWork()) return true;
    if (budget_ns != kNever || polls % 64 == 63) {
      const int64_t now_ns = MonotonicNanos();
      if (now_ns >= NextDeadline()) return true;
      if (now_ns - start_ns > budget_ns) return false;
    }
    // A pure spin without end still lets others run now and then: on a machine with fewer free
    // CPUs than spinning threads it would otherwise wait for the whole time slice of each.
    if (single_cpu || polls % 1024 == 1023) {
      ::sched_yield();
    } else if (options.wait != WaitPolicy::kSpin) {
      neighbour.YieldOrPause(polls + 1);
    }
  }
}

bool EventLoop::Impl::PollNowAndThen(int64_t now_ns) {
  if (now_ns - last_epoll_ns <= epoll_every_ns) return false;
  last_epoll_ns = now_ns;
  const bool worked = Poll();
  epoll_every_ns = worked ? kEpollEveryMinNs
                          : std::clamp(2 * epoll_every_ns, kEpollEveryMinNs, kEpollEveryMaxNs);
  return worked;
}

bool EventLoop::Impl::SpinKept(int64_t& quiet_since_ns, int64_t& budget_ns) {
  uint32_t quiet_rounds = 0;
  uint32_t pauses = neighbour.Pauses(single_cpu);
  int64_t clock_ns = MonotonicNanos();
  uint32_t unclocked_rounds = 0;
  for (;;) {
    const bool worked = kept.Poll();
    if (HasWork() || kept.empty()) return false;
    if (worked) {
      if (quiet_since_ns != 0) budget.End(budget_ns, 0);
      if (quiet_rounds != 0) pauses = neighbour.Pauses(single_cpu);
      quiet_since_ns = 0;
      quiet_rounds = 0;
      if (++unclocked_rounds < rounds_per_clock) continue;
    } else if (++quiet_rounds <= pauses) {
      CpuPause();
      continue;
    }
    const int64_t now_ns = MonotonicNanos();
    if (worked) {
      const int64_t round_ns = std::max<int64_t>(1, (now_ns - clock_ns) / unclocked_rounds);
      rounds_per_clock = static_cast<uint32_t>(
          std::clamp<int64_t>(kEpollEveryMinNs / round_ns, 1, kRoundsPerClockMost));
    }
    clock_ns = now_ns;
    unclocked_rounds = 0;
    if (now_ns >= NextDeadline()) return false;
    if (PollNowAndThen(now_ns)) return false;
    if (worked) continue;
    if (quiet_since_ns == 0) {
      quiet_since_ns = now_ns;
      budget_ns = options.wait == WaitPolicy::kSpin ? kNever : budget.Begin();
    }
    if (now_ns - quiet_since_ns >= budget_ns) return true;
    if (budget_ns != kNever || single_cpu || quiet_rounds % 1024 == 0) {
      neighbour.YieldOrPause(quiet_rounds);
    } else {
      CpuPause();
    }
  }
}

void EventLoop::Impl::SpinThenSleep() {
  if (!kept.empty()) {
    int64_t quiet_since_ns = 0;
    int64_t budget_ns = 0;
    if (SpinKept(quiet_since_ns, budget_ns) && kept.Rest()) Sleep(quiet_since_ns, budget_ns);
    return;
  }
  if (options.wait == WaitPolicy::kSpin) {
    Spin(MonotonicNanos(), kNever);
    return;
  }
  int64_t budget_ns = 0;
  int64_t start_ns = 0;
  if (options.wait == WaitPolicy::kAdaptive) {
    start_ns = MonotonicNanos();
    budget_ns = budget.Begin();
    if (budget_ns != 0 && Spin(start_ns, budget_ns)) {
      budget.End(budget_ns, 0);
      return;
    }
  }
  Sleep(start_ns, budget_ns);
}

void EventLoop::Impl::Sleep(int64_t start_ns, int64_t budget_ns) {
  sleeping.store(true, std::memory_order_seq_cst);  // S1
  int count = 0;
  if (!HasWork()) count = Wait(NextDeadline());  // S2
  sleeping.store(false, std::memory_order_relaxed);
  if (options.wait == WaitPolicy::kAdaptive) {
    budget.End(budget_ns, MonotonicNanos() - start_ns);
  }
  Dispatch(count);
}

}  // namespace mi7::transport
