#include "rpc/flow_group.h"

#include <algorithm>
#include <utility>

#include "rpc/client_call.h"
#include "transport/message.h"

namespace mi7 {

void FlowGroup::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

absl::Status FlowGroup::Send(ClientCallRef call) {
  uint64_t bytes = transport::MessageBytes(call->request());
  {
    MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (!IsReady()) {
      return absl::FailedPreconditionError(
          "a -> stream call before the last one, or FinishStream, has completed");
    }
    bytes_ += bytes;
    ++calls_;
  }
  last_ = call.Share();
  call->KeepOrder();
  call->Start();
  ClientCall* const started = call.get();
  {
    MutexLock lock(&mutex_);
    if (started->interceptors() != nullptr) {
      // They may have changed the parameters.
      bytes_ += started->intercepted_bytes() - bytes;
      bytes = started->intercepted_bytes();
    }
    // Others use the connection, too.
    if (const uint32_t most = started->calls_in_flight_max(); most != 0) {
      calls_max_ = std::max<uint64_t>(1, most / 2);
    }
  }
  Ref();
  started->OnDone([group = FlowGroupRef(this), bytes, call = std::move(call)](ClientCall& done) {
    group->OnAnswered(bytes, done.status());
  });
  return absl::OkStatus();
}

void FlowGroup::OnAnswered(uint64_t bytes, const absl::Status& status) {
  Waiter waiter;
  {
    MutexLock lock(&mutex_);
    bytes_ -= bytes;
    --calls_;
    if (failure_.ok()) failure_ = status;
    waiter = TakeWaiter();
  }
  waiter.Wake();
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
