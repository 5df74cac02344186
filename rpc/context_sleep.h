#pragma once

// ContextSleep: a wait of a coroutine handler that ends early when its caller gives up.
//
//   absl::Status slept = co_await context.Sleep(absl::Seconds(1));
//   if (!slept.ok()) co_return slept;

#include <coroutine>
#include <memory>

#include "absl/status/status.h"
#include "base/deadline.h"
#include "rpc/call_scope.h"

namespace mi7 {

// Awaited once, at once. Goes on on the server's event loop, or on the thread that ends the call.
class [[nodiscard]] ContextSleep {
 public:
  ContextSleep(std::shared_ptr<CallScope> scope, Deadline until);
  ContextSleep(const ContextSleep&) = delete;
  ContextSleep& operator=(const ContextSleep&) = delete;
  // A coroutine that is destroyed while it waits is not resumed.
  ~ContextSleep();

  bool await_ready() const;
  bool await_suspend(std::coroutine_handle<> coroutine);
  // OK, or why it ended early: DEADLINE_EXCEEDED, CANCELLED.
  absl::Status await_resume();

 private:
  struct State;
  void Disarm();

  const std::shared_ptr<CallScope> scope_;
  const Deadline until_;
  std::shared_ptr<State> state_;  // while it waits
};

}  // namespace mi7
