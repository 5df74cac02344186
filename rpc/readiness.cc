#include "rpc/readiness.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "rpc/message_reader.h"

namespace mi7 {

void Readiness::Forget() {
  MutexLock lock(&mutex_);
  continuation_waits_ = false;
  stored_.store(false, std::memory_order_relaxed);
}

void Readiness::RunContinuation() {
  const Turns::Inside inside;
  InvokeContinuation();
}

void Readiness::RunInTurn() {
  owner_->Ref();  // the continuation may drop the user's
  run = [](Turn& self) {
    Readiness& ready = static_cast<Readiness&>(self);
    Owner* const owner = ready.owner_;
    ready.InvokeContinuation();
    owner->Unref();
  };
  Turns::Run(*this);
}

void Readiness::InvokeContinuation() {
  try {
    run_continuation_(*this);
  } catch (...) {
    Log(LogLevel::kError,
        StatusOfException(absl::StatusCode::kInternal, absl::StrCat("callback of ", owner_->name()))
            .ToString());
  }
}

}  // namespace mi7
