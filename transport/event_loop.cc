#include "transport/event_loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
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
#include "transport/event_loop_impl.h"

namespace mi7::transport {
namespace {

absl::Status NoResource(absl::string_view what, int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat("event loop: ", what, ": ", ::strerror(error),
                   "; raise the limits of open files or threads (ulimit -n, -u)"));
}

}  // namespace

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

void EventLoop::Impl::Run() {
  EventLoop::current_ = this;
  ::pthread_setname_np(::pthread_self(), options.name.substr(0, 15).c_str());
  single_cpu = OnSingleCpu();
  while (!stopped) {
    RunPosted();
    const bool ran_timers = RunTimers();
    // Tasks and timers that come again and again, as of connections that always have something to
    // read, keep the loop from waiting, but not others from being heard.
    if (ran_timers || HasWork()) PollNowAndThen(MonotonicNanos());
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
  MI7_CHECK(impl_->manual() && current_ == nullptr,
            "a loop without a thread is run, outside of all loops");
  current_ = impl_.get();
  const bool ran = impl_->RunOnePosted() || impl_->RunOneTimer(MonotonicNanos());
  current_ = nullptr;
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

bool EventLoop::MadeBeforeFork() const { return impl_->forked(); }

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
