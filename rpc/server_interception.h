#pragma once

// A call to a server as its interceptors see it.

#include <memory>
#include <optional>
#include <string>

#include "rpc/interception.h"
#include "rpc/message_reader.h"
#include "transport/message.h"

namespace mi7 {

class ServerCall;
struct ServerCallExtras;

// What the interceptors of a server see and change of one call: the request before the handler has
// it, and the answer before it is sent. Used by one thread at a time.
class ServerInterception final : public Interception {
 public:
  // Both own it, and outlive it. `method`: nullptr when the server does not have it.
  ServerInterception(const Interceptors& interceptors, ServerCall& call, ServerCallExtras& extras,
                     const MethodInfo* method)
      : Interception(interceptors),
        call_(call),
        extras_(extras),
        method_(method != nullptr ? *method : kUnknownMethod) {}

  // After RunStart: puts the parameters that an interceptor changed in the place of those that
  // came. RESOURCE_EXHAUSTED when they are too large.
  absl::Status TakeParams();

  // --- InterceptedCall ---
  Side side() const override { return Side::kServer; }
  const MethodInfo& method() const override { return method_; }
  std::string peer() const override;
  const Metadata& metadata() const override;
  Metadata& EditMetadata() override;
  std::shared_ptr<const TraceContext> trace() const override;
  void set_trace(std::shared_ptr<const TraceContext> trace) override;
  Deadline deadline() const override;
  void set_deadline(Deadline deadline) override;
  ResponseMetadata& response_metadata() override;

 private:
  capnp::AnyPointer::Reader ParamsRoot() override;
  capnp::AnyPointer::Builder EditParamsRoot() override;
  capnp::AnyPointer::Reader ResultsRoot() override { return EditResultsRoot().asReader(); }
  capnp::AnyPointer::Builder EditResultsRoot() override;
  capnp::AnyPointer::Builder BeginResults() override { return EditResultsRoot(); }
  absl::StatusCode CodeOfMalformed() const override { return absl::StatusCode::kInvalidArgument; }

  ServerCall& call_;
  ServerCallExtras& extras_;
  const MethodInfo& method_;
  std::optional<BodyReader> received_;  // over the request
  transport::OutgoingMessage made_;     // parameters that an interceptor changed
};

}  // namespace mi7
