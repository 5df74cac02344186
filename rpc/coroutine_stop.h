#pragma once

// What ServerContext::StopWhenCancelled gives: for co_await, in the coroutine of a handler.

#include <memory>

namespace mi7 {

class CallScope;

// A value type. `scope`: of the call which the coroutine answers; it may outlive the call.
struct CoroutineStop {
  std::shared_ptr<CallScope> scope;
};

}  // namespace mi7
