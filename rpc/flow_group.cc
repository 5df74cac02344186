#include "rpc/flow_group.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/object_pool.h"
#include "rpc/call_outcome.h"
#include "rpc/call_repeats.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "transport/message.h"

namespace mi7 {

void FlowGroup::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

absl::Status FlowGroup::Send(ClientCallRef call) {
  const uint64_t bytes = transport::MessageBytes(call->request());
  ClientCall* const started = call.get();
  PooledPtr<FlowCall> entry = MakePooled<FlowCall>(this, std::move(call), bytes);
  // After the call was made, which has its connection.
  const uint32_t moves = started->channel_->moves();
  bool begins;
  {
    MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    // It was ready when its user was told so, and may hold calls by now.
    if (IsWaitedFor() || (finishing_ ? calls_ != 0 : !HasRoom())) {
      return absl::FailedPreconditionError(
          "a -> stream call before the last one, or FinishStream, has completed");
    }
    if (calls_ == 0) moves_ = moves;
    begins = held_ == 0 && !goes_on_ && !may_end_ && moves_ == moves;
    entry->moves = moves_;
    Append(entry.get());
  }
  last_ = entry->call.Share();
  started->KeepOrder(entry.get());
  if (begins) [[likely]] {
    started->Start();
  } else {
    started->StartHeld();
  }
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

void FlowGroup::Append(FlowCall* call) {
  call->before = last_in_flight_;
  (last_in_flight_ == nullptr ? first_in_flight_ : last_in_flight_->after) = call;
  last_in_flight_ = call;
  bytes_ += call->bytes;
  ++calls_;
  call->number = ++last_number_;
}

void FlowGroup::Remove(FlowCall* call) {
  if (call->number == 0) return;
  LetGo(call);
  (call->before == nullptr ? first_in_flight_ : call->before->after) = call->after;
  (call->after == nullptr ? last_in_flight_ : call->after->before) = call->before;
  bytes_ -= call->bytes;
  if (--calls_ == 0) may_end_ = false;
  last_ended_ = std::max(last_ended_, call->number);
}

void FlowGroup::OnAnswered(FlowCall* call, const absl::Status& status) {
  Waiter waiter;
  bool any_held;
  {
    MutexLock lock(&mutex_);
    Remove(call);
    any_held = held_ != 0;
    // One that is held before it was the first to fail, and will be ended. But whoever gives up is
    // to be told that.
    const bool given_up = (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) &&
                          OutcomeOf(status) != CallOutcome::kAnswered;
    const bool comes_later = any_held && !given_up && first_held_->number < call->number;
    if (failure_.ok() && !comes_later) failure_ = status;
    waiter = TakeWaiter();
  }
  if (any_held) [[unlikely]]
    GoOn();
  waiter.Wake();
  ObjectPool<FlowCall>::Delete(call);
}

// --- Those that are held

FlowGroupRef FlowGroup::Hold(FlowCall* call, bool rests) {
  MutexLock lock(&mutex_);
  call->held = true;
  ++held_;
  if (first_held_ == nullptr || call->number < first_held_->number) first_held_ = call;
  if (rests) {
    call->rests = true;
    ++resting_;
  }
  Ref();
  return FlowGroupRef(this);
}

FlowGroupRef FlowGroup::Rested(FlowCall* call) {
  MutexLock lock(&mutex_);
  if (std::exchange(call->rests, false)) --resting_;
  Ref();
  return FlowGroupRef(this);
}

void FlowGroup::LetGo(FlowCall* call) {
  if (std::exchange(call->held, false)) --held_;
  if (std::exchange(call->rests, false)) --resting_;
  if (call != first_held_) return;
  do {
    first_held_ = first_held_->after;
  } while (first_held_ != nullptr && !first_held_->held);
}

void FlowGroup::GoOn() {
  for (bool mine = false;; mine = true) {
    Step step;
    Waiter waiter;
    {
      MutexLock lock(&mutex_);
      if (goes_on_ && !mine) return;  // whoever does looks again
      if (first_held_ != nullptr && first_held_->call->forked()) return;  // it is the parent's
      step = NextStep();
      goes_on_ = step != Step::kWait;
      waiter = TakeWaiter();  // nobody, as long as it goes on
    }
    switch (step) {
      case Step::kSend:
        SendHeld();
        break;
      case Step::kEnd:
        EndHeld();
        break;
      case Step::kWait:
        return waiter.Wake();
    }
  }
}

FlowGroup::Step FlowGroup::NextStep() const {
  if (held_ == 0) return Step::kWait;
  if (!failure_.ok() || first_held_->number < last_ended_) return Step::kEnd;
  return held_ == calls_ && resting_ == 0 ? Step::kSend : Step::kWait;
}

void FlowGroup::SendHeld() {
  uint64_t sent = 0;
  for (;;) {
    ClientCallRef call{nullptr};
    {
      MutexLock lock(&mutex_);
      FlowCall* const first = first_held_;
      // What is behind one that has failed again stays, and what is before one that has ended.
      if (first == nullptr || first->number <= sent || first->number < last_ended_) return;
      if (!failure_.ok()) return;
      const uint32_t moves = first->call->channel_->moves();
      if (sent == 0) moves_ = moves;
      if (moves_ != moves) return;  // it would overtake those that were sent just now
      sent = first->number;
      first->moves = moves;
      LetGo(first);
      call = first->call.Share();
    }
    if (!call->repeats()->Release()) {
      MutexLock lock(&mutex_);
      may_end_ = calls_ != 0;
      return;
    }
  }
}

void FlowGroup::EndHeld() {
  for (;;) {
    ClientCallRef call{nullptr};
    {
      MutexLock lock(&mutex_);
      FlowCall* const first = first_held_;
      if (first == nullptr) return;
      may_end_ = true;
      LetGo(first);
      call = first->call.Share();
    }
    call->repeats()->EndHeld();
  }
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
      for (FlowCall* call = last_in_flight_; call != nullptr; call = call->before) {
        calls.push_back(call->call.Share());
      }
    } else if (last_) {
      calls.push_back(last_.Share());
    }
  }
  for (const ClientCallRef& call : calls) call->Cancel();
}

absl::Status FlowGroup::Finish() {
  MutexLock lock(&mutex_);
  if (IsWaitedFor()) {
    return absl::FailedPreconditionError(
        "FinishStream before the last -> stream call, or another FinishStream, has completed");
  }
  finishing_ = true;
  return absl::OkStatus();
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
  for (FlowCall* call = first_in_flight_; call != nullptr; call = call->after) {
    call->held = call->rests = false;
    call->number = 0;
  }
  bytes_ = calls_ = held_ = resting_ = 0;
  first_in_flight_ = last_in_flight_ = first_held_ = nullptr;
  goes_on_ = may_end_ = false;
}

absl::Status FlowGroup::BeginWait() {
  CheckFork();
  if (!WaitedFor()) [[likely]]
    return absl::OkStatus();
  return absl::FailedPreconditionError(
      "a second wait for -> stream calls, or for FinishStream, before the first has ended");
}

absl::Status FlowGroup::Await() {
  if (absl::Status begun = BeginWait(); !begun.ok()) return begun;
  if (Ready()) return absl::OkStatus();
  if (last_->WouldWaitForItself() || last_->channel_->InCallback()) {
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
