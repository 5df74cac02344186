#include "transport/event_loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <uv.h>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/mutex.h"
#include "transport/kept_sources.h"
#include "transport/spin_budget.h"
#include "transport/system_calls.h"
#include "transport/timer_heap.h"
#include "transport/unique_fd.h"

namespace mi7::transport {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int kEventsMax = 64;
// While spinning, every so many polls of the spin source the other descriptors are looked at.
constexpr uint32_t kPollsPerEpoll = 8;
// However busy the polled sources are: so often are descriptors, tasks' and timers' clocks looked
// at.
constexpr int64_t kEpollEveryNs = 50'000;
constexpr uint32_t kRoundsPerClock = 64;
// Fruitless rounds before the clock is read and the CPU offered to others: a microsecond or two.
constexpr uint32_t kPauses = 48;

absl::Status NoResource(absl::string_view what, int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat("event loop: ", what, ": ", ::strerror(error),
                   "; raise the limits of open files or threads (ulimit -n, -u)"));
}

}  // namespace

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

absl::Status EventLoop::Impl::Open() {
  epoll_fd = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_fd) return NoResource("epoll_create1", errno);
  wake_fd = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd) return NoResource("eventfd", errno);
  if (const int error = uv_loop_init(&uv); error != 0) return NoResource("libuv", -error);
  uv_open = true;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  if (::epoll_ctl(epoll_fd.get(), EPOLL_CTL_ADD, wake_fd.get(), &event) != 0) {
    return NoResource("epoll_ctl", errno);
  }
  event.events = EPOLLIN;
  event.data.ptr = this;  // not a Watcher: stands for libuv
  if (::epoll_ctl(epoll_fd.get(), EPOLL_CTL_ADD, uv_backend_fd(&uv), &event) != 0) {
    return NoResource("epoll_ctl", errno);
  }
  return absl::OkStatus();
}

void EventLoop::Impl::Post(absl::AnyInvocable<void()> task) {
  if (forked()) [[unlikely]]
    return;
  {
    MutexLock lock(&mutex);
    posted.push_back(std::move(task));
    posted_any.store(true, std::memory_order_seq_cst);  // T1
  }
  Wake();
}

void EventLoop::Impl::Schedule(std::shared_ptr<Timer::State> timer, Deadline at) {
  if (forked()) [[unlikely]]
    return;
  bool earlier = false;
  {
    MutexLock lock(&mutex);
    timers.Remove(*timer);
    if (!at.infinite()) {
      timers.Insert(std::move(timer), at.at_ns());
      earlier = timers.next_ns() < next_timer_ns.load(std::memory_order_relaxed);
    }
    // A loop that sleeps until a timer that is gone wakes once for nothing, which is cheaper than
    // waking it now.
    next_timer_ns.store(timers.next_ns(), std::memory_order_seq_cst);  // T1
  }
  if (earlier) Wake();
}

void EventLoop::Impl::Cancel(Timer::State& timer) {
  if (forked()) [[unlikely]]
    return;
  MutexLock lock(&mutex);
  timers.Remove(timer);
  next_timer_ns.store(timers.next_ns(), std::memory_order_seq_cst);
}

bool EventLoop::Impl::RunPosted() {
  if (!posted_any.load(std::memory_order_acquire)) return false;
  {
    MutexLock lock(&mutex);
    running.swap(posted);
    posted_any.store(false, std::memory_order_seq_cst);
  }
  for (auto& task : running) {
    task();
    task = nullptr;  // what it held is freed in order, on this thread
  }
  running.clear();
  return true;
}

bool EventLoop::Impl::RunTimers() {
  if (next_timer_ns.load(std::memory_order_relaxed) == kNever) return false;
  const int64_t now_ns = MonotonicNanos();
  bool ran = false;
  while (RunOneTimer(now_ns)) ran = true;
  return ran;
}

bool EventLoop::Impl::RunOneTimer(int64_t now_ns) {
  std::shared_ptr<TimerHeap::Entry> due;
  {
    MutexLock lock(&mutex);
    due = timers.PopDue(now_ns);
    next_timer_ns.store(timers.next_ns(), std::memory_order_seq_cst);
  }
  if (due == nullptr) return false;
  static_cast<Timer::State&>(*due).callback();
  return true;
}

bool EventLoop::Impl::RunOnePosted() {
  absl::AnyInvocable<void()> task;
  {
    MutexLock lock(&mutex);
    if (posted.empty()) return false;
    task = std::move(posted.front());
    posted.erase(posted.begin());
    posted_any.store(!posted.empty(), std::memory_order_seq_cst);
  }
  task();
  return true;
}

void EventLoop::Impl::RunUv() {
  uv_dirty = false;
  uv_run(&uv, UV_RUN_NOWAIT);
  // Without anything to wait for libuv says 0, which means that its loop would end.
  const int timeout_ms = uv_loop_alive(&uv) != 0 ? uv_backend_timeout(&uv) : -1;
  uv_next_ns = timeout_ms < 0 ? kNever : MonotonicNanos() + int64_t{timeout_ms} * 1'000'000;
}

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
    if (count >= 0 || errno != ENOSYS) return count;
    no_pwait2.store(true, std::memory_order_relaxed);  // Linux before 5.11
  }
  const int64_t left_ms = std::min<int64_t>((left_ns + 999'999) / 1'000'000, 3'600'000);
  return sys::EpollWait(epoll_fd.get(), events, kEventsMax, static_cast<int>(left_ms));
}

bool EventLoop::Impl::Spin(int64_t start_ns, int64_t budget_ns) {
  const bool yield = single_cpu || options.wait != WaitPolicy::kSpin;
  for (uint32_t polls = 0;; ++polls) {
    if (spin_source != nullptr && spin_source->Poll()) {
      if (start_ns - last_epoll_ns <= kEpollEveryNs) return true;
      last_epoll_ns = start_ns;
      Poll();  // while every spin ends here, nobody else would be served
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
    if (yield || polls % 1024 == 1023) ::sched_yield();
  }
}

bool EventLoop::Impl::SpinKept(int64_t& quiet_since_ns, int64_t& budget_ns) {
  uint32_t quiet_rounds = 0;
  uint32_t pauses = !single_cpu || neighbour.PauseFirst() ? kPauses : 0;
  for (uint32_t rounds = 1;; ++rounds) {
    const bool worked = kept.Poll();
    if (HasWork() || kept.empty()) return false;
    if (worked) {
      if (quiet_since_ns != 0) budget.End(budget_ns, 0);
      if (single_cpu && quiet_rounds != 0) {
        if (quiet_since_ns == 0) {
          neighbour.EndedWhilePausing();
        } else if (quiet_rounds <= pauses + 2) {
          neighbour.EndedAfterYield();
        }
        pauses = neighbour.PauseFirst() ? kPauses : 0;
      }
      quiet_since_ns = 0;
      quiet_rounds = 0;
      if (rounds % kRoundsPerClock != 0) continue;
    } else if (++quiet_rounds <= pauses) {
      CpuPause();
      continue;
    }
    const int64_t now_ns = MonotonicNanos();
    if (now_ns >= NextDeadline()) return false;
    if (now_ns - last_epoll_ns > kEpollEveryNs) {
      last_epoll_ns = now_ns;
      if (Poll()) return false;
    }
    if (worked) continue;
    if (quiet_since_ns == 0) {
      quiet_since_ns = now_ns;
      budget_ns = options.wait == WaitPolicy::kSpin ? kNever : budget.Begin();
    }
    if (now_ns - quiet_since_ns >= budget_ns) return true;
    if (budget_ns != kNever || single_cpu || rounds % 1024 == 0) {
      ::sched_yield();
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

void EventLoop::Impl::Run() {
  EventLoop::current_ = this;
  ::pthread_setname_np(::pthread_self(), options.name.substr(0, 15).c_str());
  single_cpu = OnSingleCpu();
  while (!stopped) {
    RunPosted();
    RunTimers();
    if (uv_dirty || (uv_next_ns != kNever && MonotonicNanos() >= uv_next_ns)) RunUv();
    SpinThenSleep();
  }
  while (RunPosted()) {
  }
  // What libuv still does (a name being resolved) ends before the loop does.
  uv_run(&uv, UV_RUN_DEFAULT);
  MI7_CHECK(uv_loop_close(&uv) == 0, "everything attached to an event loop is closed before it");
  EventLoop::current_ = nullptr;
}

void EventLoop::Impl::Stop() {
  if (manual()) {
    while (RunOnePosted()) {
    }
    return;
  }
  Post([this] { stopped = true; });
  thread.join();
}

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create(const Options& options) {
  auto impl = std::make_unique<Impl>(options);
  const auto fail = [&impl](absl::Status status) {
    if (impl->uv_open) uv_loop_close(&impl->uv);
    return status;
  };
  if (absl::Status opened = impl->Open(); !opened.ok()) return fail(std::move(opened));
  // The process's signals are for the user's threads.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  // But what a thread does wrong itself is for the program's crash handler, on whatever thread.
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) {
    ::sigdelset(&all, own);
  }
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::Status started;
  try {
    impl->thread = std::thread([raw = impl.get()] { raw->Run(); });
  } catch (const std::system_error& error) {
    started = NoResource("thread", error.code().value());
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!started.ok()) return fail(std::move(started));
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(impl)));
}

std::unique_ptr<EventLoop> EventLoop::CreateManual() {
  return std::unique_ptr<EventLoop>(new EventLoop(std::make_unique<Impl>(Options{})));
}

bool EventLoop::RunOne() {
  MI7_CHECK(impl_->manual() && current_loop == nullptr,
            "a loop without a thread is run, outside of all loops");
  current_loop = impl_.get();
  const bool ran = impl_->RunOnePosted() || impl_->RunOneTimer(MonotonicNanos());
  current_loop = nullptr;
  return ran;
}

Deadline EventLoop::next_timer() const {
  const int64_t at_ns = impl_->next_timer_ns.load(std::memory_order_seq_cst);
  return at_ns == kNever ? Deadline::Infinite() : Deadline::AtNanos(at_ns);
}

EventLoop::EventLoop(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

EventLoop::~EventLoop() {
  if (forked()) {
    // The thread to be joined is not there, and its lock may be held for ever.
    static_cast<void>(impl_.release());
    return;
  }
  MI7_CHECK(!InLoopThread(), "an event loop is not destroyed on its own thread");
  impl_->Stop();
}

void EventLoop::Post(absl::AnyInvocable<void()> task) { impl_->Post(std::move(task)); }

bool EventLoop::forked() const { return impl_->forked(); }

bool EventLoop::InLoopThread() const { return EventLoop::current_ == impl_.get(); }

absl::Status EventLoop::Watch(int fd, uint32_t events, Watcher* watcher) {
  if (forked()) [[unlikely]]
    return ForkGuard::Refusal("event loop");
  epoll_event event{};
  event.events = events == 0 ? uint32_t{EPOLLONESHOT} : events;
  event.data.ptr = watcher;
  if (::epoll_ctl(impl_->epoll_fd.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return NoResource("epoll_ctl", errno);
  }
  return absl::OkStatus();
}

void EventLoop::Rewatch(int fd, uint32_t events, Watcher* watcher) {
  if (forked()) [[unlikely]]
    return;
  epoll_event event{};
  // epoll reports errors and hang-up unasked, again and again; a one-shot is silent after one.
  event.events = events == 0 ? uint32_t{EPOLLONESHOT} : events;
  event.data.ptr = watcher;
  MI7_CHECK(::epoll_ctl(impl_->epoll_fd.get(), EPOLL_CTL_MOD, fd, &event) == 0,
            "a watched descriptor can be watched otherwise");
}

void EventLoop::Unwatch(int fd, Watcher* watcher) {
  if (forked()) [[unlikely]]
    return;
  MI7_CHECK(InLoopThread(), "Unwatch is called on the loop's thread");
  ::epoll_ctl(impl_->epoll_fd.get(), EPOLL_CTL_DEL, fd, nullptr);
  for (int i = 0; i < impl_->event_count; ++i) {
    if (impl_->events[i].data.ptr == watcher) impl_->events[i].data.ptr = nullptr;
  }
}

uv_loop_s* EventLoop::uv() {
  MI7_CHECK(InLoopThread(), "libuv is used on the loop's thread only");
  impl_->uv_dirty = true;
  return &impl_->uv;
}

void EventLoop::SetSpinSource(SpinSource* source) { impl_->spin_source = source; }

void EventLoop::ForgetSpinSource(SpinSource* source) {
  if (impl_->spin_source == source) impl_->spin_source = nullptr;
}

void EventLoop::KeepPolling(SpinSource* source) { impl_->kept.Keep(source); }

void EventLoop::StopPolling(SpinSource* source) { impl_->kept.Stop(source); }

WaitPolicy EventLoop::wait_policy() const { return impl_->options.wait; }

EventLoop::Timer::Timer(EventLoop* loop, absl::AnyInvocable<void()> callback)
    : state_(std::make_shared<State>(loop->impl_.get(), std::move(callback))) {}

EventLoop::Timer::~Timer() { Cancel(); }

void EventLoop::Timer::Schedule(Deadline at) { state_->loop->Schedule(state_, at); }

void EventLoop::Timer::Cancel() { state_->loop->Cancel(*state_); }

}  // namespace mi7::transport
