#pragma once

// World: a simulated machine, whose clock, event loops and network follow from one seed.
//
// Everything runs on one thread. Time stands still while there is something to do, and jumps to the
// next timer when there is not; it also passes for all while somebody is busy. Which loop goes on
// next is drawn. Connections are real inproc ones
// with a script of the world's: messages are late, connections are lost, or fall silent
// (half-open).

#include <coroutine>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "transport/connection_decorator.h"
#include "transport/event_loop.h"

namespace mi7::sim {

// One at a time in a process, whose clock is the world's meanwhile.
class World final : public transport::ConnectionDecorator {
 public:
  explicit World(uint64_t seed);
  ~World() override;

  // Less than `below`.
  uint64_t Draw(uint64_t below) { return random_() % below; }
  bool Chance(int percent) { return Draw(100) < static_cast<uint64_t>(percent); }
  // Up to `max`, in microseconds.
  absl::Duration DrawTime(absl::Duration max) {
    return absl::Microseconds(Draw(static_cast<uint64_t>(absl::ToInt64Microseconds(max)) + 1));
  }

  // A loop that the world runs, and owns.
  transport::EventLoop* NewLoop();
  // Nothing is attached to it any more. Outside of all loops.
  void EndLoop(transport::EventLoop* loop) {
    std::erase_if(loops_, [loop](const auto& other) { return other.get() == loop; });
  }
  // Runs `action` at that time, outside of all loops, as another thread would.
  void After(absl::Duration delay, absl::AnyInvocable<void()> action);
  // co_await world.Sleep(delay)
  auto Sleep(absl::Duration delay) {
    struct Awaiter {
      World& world;
      absl::Duration delay;
      bool await_ready() const { return false; }
      void await_suspend(std::coroutine_handle<> coroutine) {
        world.After(delay, [coroutine] { coroutine.resume(); });
      }
      void await_resume() const {}
    };
    return Awaiter{*this, delay};
  }

  // Time passes while nothing is done, as in a callback that takes long.
  void BeBusy(absl::Duration time);
  // For how long it was so until now.
  absl::Duration busy() const { return busy_; }
  // For how long a message can be on its way at the most, as it has been until now.
  absl::Duration on_its_way_max() const {
    return (late_percent_ == 0 ? absl::ZeroDuration() : 2 * late_max_) + busy_ + kLazy;
  }

  // Does the next thing; false: there is nothing, and no timer runs.
  bool Step();
  // Steps until `done`, or until `limit` of the world's time has passed; false: `done` does not
  // hold.
  bool RunUntil(absl::Duration limit, const std::function<bool()>& done);
  // Runs what `loop` has to do now.
  static void Settle(transport::EventLoop& loop) {
    while (loop.RunOne()) {
    }
  }

  // From now on nothing more goes wrong by itself. Connections that are silent stay so.
  void Calm() { calm_ = true; }
  // Of all that was noted, and of when: equal for equal runs.
  void Note(uint64_t what);
  uint64_t trace() const { return trace_; }
  // Whether a connection has fallen silent.
  bool silenced() const { return silenced_; }
  // Whether one has, or has been lost, so that calls can be lost.
  bool troubled() const { return troubled_; }
  void NoteTrouble() { troubled_ = true; }
  // Connections that there are, each end counted.
  size_t connections() const;

  absl::StatusOr<std::shared_ptr<transport::Connection>> Decorate(
      std::shared_ptr<transport::Connection> inner, transport::EventLoop* loop) override;

 private:
  class Line;
  // What is sent where a link expects its end to look soon is found after one or two of these
  // (transport/inproc/link.cc).
  static constexpr absl::Duration kLazy = absl::Milliseconds(3);
  bool RunPlanned();

  std::mt19937_64 random_;
  // What goes wrong here, in percent: each seed has a weather of its own.
  int refuse_percent_ = 0;
  int late_percent_ = 0;
  int lose_percent_ = 0;
  int silent_percent_ = 0;
  absl::Duration late_max_;
  absl::Duration busy_;  // in all
  bool calm_ = false;
  bool silenced_ = false;
  bool troubled_ = false;
  uint64_t trace_ = 0;
  uint64_t steps_ = 0;
  std::multimap<int64_t, absl::AnyInvocable<void()>> planned_;
  std::vector<std::unique_ptr<transport::EventLoop>> loops_;
  std::vector<std::weak_ptr<transport::Connection>> connections_;
};

}  // namespace mi7::sim
