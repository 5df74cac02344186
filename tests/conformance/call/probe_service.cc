#include "tests/conformance/call/probe_service.h"

#include <cstdint>
#include <utility>

#include "base/check.h"

namespace mi7::conformance {

void Countdown::DecrementCount() {
  absl::MutexLock lock(&mutex_);
  --left_;
}

void Countdown::Wait() {
  absl::MutexLock lock(&mutex_);
  const auto over = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return left_ <= 0; };
  MI7_CHECK(mutex_.AwaitWithTimeout(absl::Condition(&over), 4 * kSoon), "the calls end");
}

Reply Echo(ServerContext&, Probe::EchoParams::Reader params, Probe::EchoResults::Builder results) {
  results.setText(params.getText());
  results.setData(params.getData());
  return absl::OkStatus();
}

Reply Again(ServerContext& context, Probe::AgainParams::Reader,
            Probe::AgainResults::Builder results) {
  results.setAttempt(static_cast<uint32_t>(context.attempt()));
  return absl::OkStatus();
}

Reply ProbeImpl::Remaining(ServerContext& context, Probe::RemainingParams::Reader,
                           Probe::RemainingResults::Builder results) {
  const Deadline deadline = context.deadline();
  results.setMs(deadline.infinite() ? -1 : absl::ToInt64Milliseconds(deadline.remaining()));
  return absl::OkStatus();
}

Reply ProbeImpl::Hold(ServerContext& context, Probe::HoldParams::Reader params,
                      Probe::HoldResults::Builder results) {
  absl::MutexLock lock(&mutex_);
  held_.push_back({params.getNumber(), &context, results, context.Defer()});
  return Reply::Later();
}

Reply ProbeImpl::Health(ServerContext&, Probe::HealthParams::Reader,
                        Probe::HealthResults::Builder results) {
  absl::MutexLock lock(&mutex_);
  results.setHeld(static_cast<uint32_t>(held_.size()));
  return absl::OkStatus();
}

ProbeImpl::Held ProbeImpl::TakeHeld() {
  if (!AwaitHeld(1)) return {~0u, nullptr, nullptr, DeferredCall()};
  absl::MutexLock lock(&mutex_);
  Held held = std::move(held_.front());
  held_.erase(held_.begin());
  return held;
}

bool ProbeImpl::AwaitHeld(size_t count) {
  absl::MutexLock lock(&mutex_);
  const auto enough = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), kSoon);
}

}  // namespace mi7::conformance
