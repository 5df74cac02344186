#pragma once

// EventLoop::Impl: the state of a loop, for event_loop.cc and event_loop_wait.cc, its parts.

#include <sys/epoll.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <uv.h>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "transport/event_loop.h"
#include "transport/kept_sources.h"
#include "transport/spin_budget.h"
#include "transport/system_calls.h"
#include "transport/timer_heap.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

inline constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
inline constexpr int kEventsMax = 64;

struct EventLoop::Timer::State : TimerHeap::Entry {
  State(EventLoop::Impl* the_loop, absl::AnyInvocable<void()> the_callback)
      : loop(the_loop), callback(std::move(the_callback)) {}
  EventLoop::Impl* const loop;
  absl::AnyInvocable<void()> callback;
};

struct EventLoop::Impl {
  explicit Impl(const Options& the_options) : options(the_options) {}
  bool forked() const { return epoll_fd.forked(); }
  bool manual() const { return !thread.joinable(); }

  absl::Status Open();
  void Run();
  void Stop();

  // Any thread.
  void Post(absl::AnyInvocable<void()> task);
  void Schedule(std::shared_ptr<Timer::State> timer, Deadline at);
  void Cancel(Timer::State& timer);

  // Why no wakeup is lost. All marked events are sequentially consistent.
  //   loop:  S1 sleeping = true    S2 reads posted and next_timer_ns, sleeps no longer than that
  //   other: T1 changes posted or next_timer_ns    T2 reads sleeping; if true, writes wake_fd
  // Either S2 sees T1, or T2 sees S1 and the write ends epoll_wait, which is entered after S1.
  void Wake() {
    if (sleeping.load(std::memory_order_seq_cst) &&  // T2
        sleeping.exchange(false, std::memory_order_seq_cst)) {
      const uint64_t one = 1;
      // Cannot fail but for a full counter, which means that a wakeup is already on its way.
      static_cast<void>(!::write(wake_fd.get(), &one, sizeof(one)));
    }
  }

  // Loop thread.
  bool RunPosted();
  bool RunOnePosted();
  bool RunTimers();
  bool RunOneTimer(int64_t now_ns);
  void RunUv();
  int64_t NextDeadline() const {
    const int64_t timer_ns = next_timer_ns.load(std::memory_order_seq_cst);
    return timer_ns < uv_next_ns ? timer_ns : uv_next_ns;
  }
  bool HasWork() const { return posted_any.load(std::memory_order_seq_cst) || uv_dirty || stopped; }
  int Wait(int64_t until_ns);
  bool Poll() { return Dispatch(sys::EpollWait(epoll_fd.get(), events, kEventsMax, 0)); }
  bool Dispatch(int count);
  void SpinThenSleep();
  // Polls for `budget_ns` from `start_ns` on; true when there was work.
  bool Spin(int64_t start_ns, int64_t budget_ns);
  // Polls the kept sources until they are quiet and at rest (true) or there is other work.
  bool SpinKept(int64_t& quiet_since_ns, int64_t& budget_ns);
  // Polls the descriptors if that is due; whether they had anything.
  bool PollNowAndThen(int64_t now_ns);
  void Sleep(int64_t start_ns, int64_t budget_ns);

  const Options options;
  std::thread thread;
  UniqueFd epoll_fd;
  UniqueFd wake_fd;  // edge-triggered, so that it is never read
  uv_loop_t uv;
  bool uv_open = false;
  bool uv_dirty = true;  // handles may have changed since uv_run
  int64_t uv_next_ns = kNever;
  bool stopped = false;

  epoll_event events[kEventsMax];
  int event_count = 0;
  SpinSource* spin_source = nullptr;
  KeptSources kept;
  int64_t last_epoll_ns = 0;
  int64_t epoll_every_ns = 0;
  uint32_t rounds_per_clock = 1;  // of SpinKept
  SpinBudget budget;
  bool single_cpu = false;
  NeighbourGuess neighbour;

  std::atomic<bool> sleeping{false};
  std::atomic<bool> posted_any{false};
  std::atomic<int64_t> next_timer_ns{kNever};
  Mutex mutex;
  std::vector<absl::AnyInvocable<void()>> posted ABSL_GUARDED_BY(mutex);
  TimerHeap timers ABSL_GUARDED_BY(mutex);
  std::vector<absl::AnyInvocable<void()>> running;  // kept warm
};

}  // namespace mi7::transport
