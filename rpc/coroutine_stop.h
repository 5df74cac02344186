#pragma once

// What ServerContext::StopWhenCancelled gives: for co_await, in the coroutine of a handler.

namespace mi7 {

class ServerContext;

// A value type. `context` is that of the call which the coroutine answers.
struct CoroutineStop {
  const ServerContext* context;
};

}  // namespace mi7
