#pragma once

// Spans of distributed traces, for tracing systems that know W3C Trace Context (OpenTelemetry and
// others): each call is a span on its client and a child of that one on its server.
//
//   class Exporter final : public mi7::Tracer { ... };
//   options.interceptors = {mi7::MakeCallTracing(std::make_shared<Exporter>())};
//
// A handler passes the trace on with the calls that it makes (CallOptions::trace =
// ServerContext::trace()), whose spans become children of the handler's.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "rpc/interceptor.h"
#include "rpc/trace_context.h"

namespace mi7 {

// One call on one side.
struct CallSpan {
  InterceptedCall::Side side;
  std::string method;  // "Calculator.add"
  std::string peer;    // InterceptedCall::peer
  // The span's own: its trace and its id.
  TraceContext context;
  // The span that it is a child of; nothing for the first one of a trace.
  std::optional<std::array<uint8_t, 8>> parent_span_id;
  absl::Time start;  // by the clock on the wall, since other machines' spans are shown beside it
  // The tracer's own, from OnSpanStart to OnSpanEnd.
  std::shared_ptr<void> data;
};

// Implemented by users. Thread-safe; must not block.
class Tracer {
 public:
  virtual ~Tracer() = default;
  // Whether a trace that begins with this call is sampled. Others keep what their first one said.
  virtual bool Sample(const InterceptedCall& call) = 0;
  // Of calls whose trace is sampled.
  virtual void OnSpanStart(CallSpan& span) = 0;
  virtual void OnSpanEnd(CallSpan& span, const absl::Status& status, absl::Duration duration) = 0;
};

// For a channel or a server. A call without a trace begins one; unsampled traces are passed on all
// the same.
std::shared_ptr<Interceptor> MakeCallTracing(std::shared_ptr<Tracer> tracer);

}  // namespace mi7
