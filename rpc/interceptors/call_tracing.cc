#include "rpc/interceptors/call_tracing.h"

#include <utility>

#include "absl/time/clock.h"
#include "base/deadline.h"

namespace mi7 {
namespace {

// The wall's, moved on as far as a fake clock is.
absl::Time WallTime() { return absl::Now() + absl::Nanoseconds(MonotonicNanos() - SystemNanos()); }

class CallTracing final : public Interceptor {
 public:
  explicit CallTracing(std::shared_ptr<Tracer> tracer) : tracer_(std::move(tracer)) {}

  void OnStart(InterceptedCall& call) override {
    const std::shared_ptr<const TraceContext> parent = call.trace();
    auto context = std::make_shared<const TraceContext>(
        parent != nullptr ? parent->NewChild() : TraceContext::NewRoot(tracer_->Sample(call)));
    call.set_trace(context);
    if (!context->sampled()) return;
    CallSpan& span = call.State<CallSpan>();
    span = {call.side(), call.method().name, call.peer(), *context, std::nullopt, WallTime(), {}};
    if (parent != nullptr) span.parent_span_id = parent->span_id;
    tracer_->OnSpanStart(span);
  }

  void OnEnd(InterceptedCall& call) override {
    // What began, ends: an interceptor inside this one may have changed the trace.
    if (CallSpan* const span = call.FindState<CallSpan>())
      tracer_->OnSpanEnd(*span, call.status(), call.elapsed());
  }

 private:
  const std::shared_ptr<Tracer> tracer_;
};

}  // namespace

std::shared_ptr<Interceptor> MakeCallTracing(std::shared_ptr<Tracer> tracer) {
  return std::make_shared<CallTracing>(std::move(tracer));
}

}  // namespace mi7
