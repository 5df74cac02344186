#include "rpc/call_scope.h"

#include <utility>

#include "rpc/client_call.h"

namespace mi7 {

std::shared_ptr<CallScope> CallScope::Create(std::shared_ptr<Timers> timers, Deadline deadline) {
  std::shared_ptr<CallScope> scope(new CallScope(std::move(timers), deadline));
  if (scope->timers_ && !deadline.infinite()) {
    MutexLock lock(&scope->mutex_);
    scope->timer_ = scope->timers_->Schedule(deadline, [weak = std::weak_ptr<CallScope>(scope)] {
      if (std::shared_ptr<CallScope> self = weak.lock()) self->Cancel();
    });
  }
  return scope;
}

bool CallScope::Add(ClientCall* call) {
  MutexLock lock(&mutex_);
  if (ended_) return false;
  call->Ref();
  calls_.insert(call);
  return true;
}

void CallScope::Remove(ClientCall* call) {
  {
    MutexLock lock(&mutex_);
    if (calls_.erase(call) == 0) return;
  }
  call->Unref();
}

void CallScope::Cancel() {
  stop_.request_stop();
  End();
}

void CallScope::End() {
  absl::flat_hash_set<ClientCall*> calls;
  Timers::Handle timer;
  {
    MutexLock lock(&mutex_);
    ended_ = true;
    calls.swap(calls_);
    timer = std::exchange(timer_, {});
  }
  if (timers_) timers_->Cancel(timer);
  for (ClientCall* call : calls) {
    call->Cancel();
    call->Unref();
  }
}

}  // namespace mi7
