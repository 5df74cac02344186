#include "rpc/flow_group.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/object_pool.h"
#include "rpc/client_call.h"
#include "transport/message.h"

namespace mi7 {

void FlowGroup::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

absl::Status FlowGroup::Send(ClientCallRef call) {
  const uint64_t bytes = transport::MessageBytes(call->request());
  ClientCall* const started = call.get();
  PooledPtr<InFlight> entry = MakePooled<InFlight>(std::move(call), bytes);
  {
    MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!IsReady()) {
      return absl::FailedPreconditionError(
          "a -> stream call before the last one, or FinishStream, has completed");
    }
    Append(entry.get());
  }
  last_ = entry->call.Share();
  started->KeepOrder();
  started->Start();
  {
    MutexLock lock(&mutex_);
    if (started->interceptors() != nullptr) {
      // They may have changed the parameters.
      entry->bytes = started->intercepted_bytes();
      bytes_ += entry->bytes - bytes;
    }
    // Others use the connection, too.
    if (const uint32_t most = started->calls_in_flight_max(); most != 0) {
      calls_max_ = std::max<uint64_t>(1, most / 2);
    }
  }
  Ref();
  started->OnDone([group = FlowGroupRef(this), call = entry.release()](ClientCall& done) {
    group->OnAnswered(call, done.status());
  });
  return absl::OkStatus();
}

void FlowGroup::Append(InFlight* call) {
  call->before = last_in_flight_;
  (last_in_flight_ == nullptr ? first_in_flight_ : last_in_flight_->after) = call;
  last_in_flight_ = call;
  bytes_ += call->bytes;
  ++calls_;
}

void FlowGroup::Remove(InFlight* call) {
  (call->before == nullptr ? first_in_flight_ : call->before->after) = call->after;
  (call->after == nullptr ? last_in_flight_ : call->after->before) = call->before;
  bytes_ -= call->bytes;
  --calls_;
}

void FlowGroup::OnAnswered(InFlight* call, const absl::Status& status) {
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    Remove(call);
    if (failure_.ok()) failure_ = status;
    waiter = TakeWaiter();
  }
  waiter.Wake();
  ObjectPool<InFlight>::Delete(call);
}

void FlowGroup::Abandon() {
  Forget();
  Cancel();
}

void FlowGroup::Stop() {
  if (result().ok()) Cancel();
}

void FlowGroup::Cancel() {
  if (last_ && last_->forked()) return;  // it is the parent's
  std::vector<ClientCallRef> calls;
  {
    MutexLock lock(&mutex_);
    if (finishing_) {
      // The last one first: one that is taken back before it was sent has none behind it that is.
      for (InFlight* call = last_in_flight_; call != nullptr; call = call->before) {
        calls.push_back(call->call.Share());
      }
    } else if (last_) {
      calls.push_back(last_.Share());
    }
  }
  for (const ClientCallRef& call : calls) call->Cancel();
}

void FlowGroup::Finish() {
  MutexLock lock(&mutex_);
  finishing_ = true;
}

absl::Status FlowGroup::result() {
  ClientCallRef dropped{nullptr};  // without the mutex
  MutexLock lock(&mutex_);
  if (!finishing_) return failure_;
  finishing_ = false;
  dropped = std::move(last_);  // with the memory of its answer
  return std::exchange(failure_, absl::OkStatus());
}

void FlowGroup::CheckFork() {
  if (!last_ || !last_->forked()) [[likely]]
    return;
  MutexLock lock(&mutex_);
  failure_ = last_->ForkedError();
  bytes_ = calls_ = 0;
}

absl::Status FlowGroup::Await() {
  CheckFork();
  if (Ready()) return absl::OkStatus();
  if (last_->WouldWaitForItself()) {
    return absl::FailedPreconditionError(
        "Wait() inside a callback of the channel's event loop, or of the same connection, would "
        "wait for itself; use Then() or co_await");
  }
  transport::Completion completion;
  if (!List(completion)) return absl::OkStatus();
  const Turns::Waiting waiting;
  // The calls have continuations, for whose sake the event loop drives.
  while (completion.Sleep(Deadline::Infinite()) != transport::Completion::Woken::kDone) {
  }
  return absl::OkStatus();
}

}  // namespace mi7
