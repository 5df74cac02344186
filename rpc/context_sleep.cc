#include "rpc/context_sleep.h"

#include <atomic>
#include <functional>
#include <optional>
#include <stop_token>
#include <utility>

namespace mi7 {

// Held by the timer and the callback, too, which may run at this very moment when the sleep is
// over.
//
// Memory ordering of `stage`: whoever ends the sleep and the thread that suspends the coroutine
// meet there; the second of them lets the coroutine go on. acq_rel: it has seen what the first did.
struct ContextSleep::State {
  enum Stage { kArming, kAsleep, kEnded };

  void End() {
    if (stage.exchange(kEnded, std::memory_order_acq_rel) == kAsleep) coroutine.resume();
  }

  std::atomic<Stage> stage{kArming};
  std::coroutine_handle<> coroutine;
  Timers::Handle timer;
  std::optional<std::stop_callback<std::function<void()>>> on_cancel;
};

ContextSleep::ContextSleep(std::shared_ptr<CallScope> scope, Deadline until)
    : scope_(std::move(scope)), until_(until) {}

ContextSleep::~ContextSleep() { Disarm(); }

bool ContextSleep::await_ready() const { return scope_->cancelled() || until_.passed(); }

bool ContextSleep::await_suspend(std::coroutine_handle<> coroutine) {
  // The coroutine may go on, and end, before this returns: nothing of `this` is used after the
  // exchange.
  const auto state = std::make_shared<State>();
  state_ = state;
  state->coroutine = coroutine;
  state->timer = scope_->timers()->Schedule(until_, [state] { state->End(); });
  state->on_cancel.emplace(scope_->token(), [weak = std::weak_ptr<State>(state)] {
    if (const std::shared_ptr<State> self = weak.lock()) self->End();
  });
  State::Stage arming = State::kArming;
  return state->stage.compare_exchange_strong(arming, State::kAsleep, std::memory_order_acq_rel);
}

void ContextSleep::Disarm() {
  if (!state_) return;
  // From here on End resumes nothing.
  state_->stage.store(State::kEnded, std::memory_order_relaxed);
  scope_->timers()->Cancel(state_->timer);
  state_->on_cancel.reset();
  state_ = nullptr;
}

absl::Status ContextSleep::await_resume() {
  Disarm();
  if (scope_->deadline().passed()) {
    return absl::DeadlineExceededError("the caller's deadline has passed");
  }
  return scope_->cancelled() ? absl::CancelledError("the caller has given up") : absl::OkStatus();
}

}  // namespace mi7
