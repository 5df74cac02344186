#include "transport/driving_thread.h"

#include "transport/callback_scope.h"
#include "transport/event_loop.h"

namespace mi7::transport {

bool OnDrivingThread() {
  return EventLoop::InAnyLoopThread() || CallbackScope::innermost() != nullptr;
}

int64_t ArrivedNanos() {
  CallbackScope* const scope = CallbackScope::innermost();
  return scope != nullptr ? scope->ArrivedNanos() : MonotonicNanos();
}

}  // namespace mi7::transport
