#pragma once

// A call of a channel's as its interceptors see it.

#include <memory>
#include <optional>
#include <string>

#include "rpc/interception.h"
#include "rpc/message_reader.h"
#include "transport/message.h"

namespace mi7 {

class ClientCall;
struct ClientCallExtras;

// What the interceptors of a channel see and change of one call: its options, the request before it
// is sent, and the response before the caller has it. Used by one thread at a time.
class ClientInterception final : public Interception {
 public:
  // Both own it, and outlive it.
  ClientInterception(const Interceptors& interceptors, ClientCall& call, ClientCallExtras& extras)
      : Interception(interceptors), call_(call), extras_(extras) {}

  // After RunStart or RunEnd: whether `response` was replaced by results that an interceptor made.
  // RESOURCE_EXHAUSTED in `status` when those are too large.
  void TakeResults(absl::Status& status, std::optional<transport::IncomingMessage>& response);

  // --- InterceptedCall ---
  Side side() const override { return Side::kClient; }
  const MethodInfo& method() const override;
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
  capnp::AnyPointer::Reader ResultsRoot() override;
  capnp::AnyPointer::Builder EditResultsRoot() override;
  capnp::AnyPointer::Builder BeginResults() override;
  absl::StatusCode CodeOfMalformed() const override { return absl::StatusCode::kInternal; }

  ClientCall& call_;
  ClientCallExtras& extras_;
  std::shared_ptr<Metadata> own_metadata_;  // what extras_.options has once it was changed
  std::optional<BodyReader> received_;      // over the response
  transport::OutgoingMessage made_;         // results of an interceptor's
};

}  // namespace mi7
