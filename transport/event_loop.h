#pragma once

// EventLoop: a thread that watches descriptors, runs timers and posted tasks, and drives
// connections in the background.
//
// It waits in an epoll of its own, in which libuv's loop is one descriptor among others. libuv
// gives what takes a thread pool (the resolver) and can host what users bring; sockets are watched
// directly, because any thread must be able to hand a socket to the loop or take it back without
// waking the loop (docs/decisions/0002-tcp-own-sockets.md).
//
// An idle loop makes no wakeups: it sleeps until a descriptor, a timer or a task needs it.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "base/fork_guard.h"
#include "transport/wait_policy.h"

struct uv_loop_s;

namespace mi7::transport {

// Something the loop polls while it spins before sleeping (WaitPolicy): a connection that was
// active a moment ago. Loop thread only.
class SpinSource {
 public:
  // Looks for work without blocking and does it; true when there was some.
  virtual bool Poll() = 0;
  // The loop stops polling, because the source is quiet or the loop is about to sleep. Sees to it
  // that a watched descriptor tells of further work. False: there is work at hand, poll on.
  virtual bool Rest() { return true; }

 protected:
  ~SpinSource() = default;
};

// What a descriptor's readiness is told to. Loop thread only.
class Watcher {
 public:
  // `events`: EPOLLIN, EPOLLOUT, ... as epoll reports them, level-triggered.
  virtual void OnReady(uint32_t events) = 0;

 protected:
  ~Watcher() = default;
};

class EventLoop {
 public:
  struct Options {
    std::string name = "mi7";  // of the thread, at most 15 characters are shown
    WaitPolicy wait = WaitPolicy::kAdaptive;
  };
  // Starts the thread. RESOURCE_EXHAUSTED when the system refuses a thread or a descriptor.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(const Options& options);
  // A loop without a thread, for simulations: whoever made it runs it by RunOne, and is the loop's
  // thread inside. It has timers and tasks, but watches and polls nothing.
  static std::unique_ptr<EventLoop> CreateManual();
  // Stops the loop, runs what was posted before, and joins the thread. Everything attached to the
  // loop must be closed before; not callable on the loop's own thread. In a forked child: nothing.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs `task` on the loop's thread, in the order of Post calls. Never runs it inside Post.
  // Thread-safe. Wakes the loop only when it sleeps.
  void Post(absl::AnyInvocable<void()> task);

  // Of a loop without a thread: runs the oldest posted task or else the callback of a timer whose
  // time has come. False: there is neither.
  bool RunOne();
  // When the earliest timer is due.
  Deadline next_timer() const;

  bool InLoopThread() const;
  // Whether the calling thread is that of any event loop.
  static bool InAnyLoopThread() { return current_ != nullptr; }
  // Whether this process was forked from the one that made the loop. The thread did not come along:
  // nothing that is posted runs, Watch fails with FAILED_PRECONDITION, and timers do nothing.
  bool forked() const { return ForkGuard::in_child() && MadeBeforeFork(); }

  // A timer of the loop. Its callback runs on the loop's thread, at most once a Schedule, never
  // early. Owned by its user, who may be any thread for Schedule and Cancel. After Cancel or
  // destruction returns on the loop's thread the callback does not run any more; on another thread
  // it may be running at that moment, so callbacks hold weak references to what they touch.
  // Schedule wakes the loop only when it sleeps and would sleep past `at`.
  class Timer {
   public:
    Timer(EventLoop* loop, absl::AnyInvocable<void()> callback);
    ~Timer();
    // (Re)arms for `at`; an infinite deadline disarms.
    void Schedule(Deadline at);
    void Cancel();

   private:
    friend class EventLoop;
    struct State;
    std::shared_ptr<State> state_;
  };

  // Watches `fd` for `events` (level-triggered; 0: registered but silent). `watcher` must live
  // until Unwatch. RESOURCE_EXHAUSTED when the system's bound on watches is reached. Thread-safe.
  absl::Status Watch(int fd, uint32_t events, Watcher* watcher);
  // Changes what is watched for; 0 silences the descriptor, errors and hang-up included (which
  // are reported at most once more). Does not wake the loop unless the descriptor is ready.
  // Thread-safe.
  void Rewatch(int fd, uint32_t events, Watcher* watcher);
  // Ends watching: no OnReady afterwards. Loop thread only.
  void Unwatch(int fd, Watcher* watcher);

  // For what libuv does. Loop thread only; valid while the loop lives.
  uv_loop_s* uv();
  // Makes `source` the one that is polled first while the loop spins; nullptr forgets it. A source
  // must be forgotten (ForgetSpinSource) before it dies. Loop thread only.
  void SetSpinSource(SpinSource* source);
  void ForgetSpinSource(SpinSource* source);
  // The same for sources whose Poll costs no system call: all of them are polled in turn, and the
  // descriptors only now and then, until they are put to Rest. Loop thread only.
  void KeepPolling(SpinSource* source);
  void StopPolling(SpinSource* source);
  WaitPolicy wait_policy() const;

 private:
  struct Impl;
  static inline constinit thread_local const void* current_ = nullptr;  // whose thread this is
  explicit EventLoop(std::unique_ptr<Impl> impl);
  bool MadeBeforeFork() const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mi7::transport
