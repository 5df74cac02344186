#pragma once

// EventLoop: a thread that runs libuv and drives connections in the background.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/deadline.h"
#include "transport/wait_policy.h"

struct uv_loop_s;

namespace mi7::transport {

// Something the loop polls while it spins before sleeping (WaitPolicy): a connection that was
// active a moment ago. Loop thread only.
class SpinSource {
 public:
  // Looks for work without blocking and does it; true when there was some.
  virtual bool Poll() = 0;

 protected:
  ~SpinSource() = default;
};

class EventLoop {
 public:
  struct Options {
    std::string name = "mi7";  // of the thread, at most 15 characters are shown
    WaitPolicy wait = WaitPolicy::kAdaptive;
  };
  // Starts the thread. RESOURCE_EXHAUSTED when the system refuses a thread or a descriptor.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(const Options& options);
  // Stops the loop, runs what was posted before, and joins the thread. Everything attached to the
  // loop must be closed before; not callable on the loop's own thread.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs `task` on the loop's thread, in the order of Post calls. Never runs it inside Post.
  // Thread-safe. Wakes the loop only when it sleeps.
  void Post(absl::AnyInvocable<void()> task);

  bool InLoopThread() const;

  // A timer of the loop. Its callback runs on the loop's thread, at most once a Schedule.
  // Owned by its user, who may be any thread for Schedule and Cancel. After Cancel or destruction
  // returns on the loop's thread the callback does not run any more; on another thread it may be
  // running at that moment, so callbacks hold weak references to what they touch.
  class Timer {
   public:
    Timer(EventLoop* loop, absl::AnyInvocable<void()> callback);
    ~Timer();
    // (Re)arms for `at`; an infinite deadline disarms.
    void Schedule(Deadline at);
    void Cancel();

   private:
    struct State;
    std::shared_ptr<State> state_;
  };

  // For transports, loop thread only.
  uv_loop_s* uv();
  // Makes `source` the one that is polled first while the loop spins; nullptr forgets it. A source
  // must be forgotten (ForgetSpinSource) before it dies.
  void SetSpinSource(SpinSource* source);
  void ForgetSpinSource(SpinSource* source);
  WaitPolicy wait_policy() const;

 private:
  struct Impl;
  explicit EventLoop(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mi7::transport
