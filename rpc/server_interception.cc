#include "rpc/server_interception.h"

#include <utility>

#include "base/check.h"
#include "rpc/call_extras.h"
#include "rpc/server_call.h"

namespace mi7 {

absl::Status ServerInterception::TakeParams() {
  received_.reset();
  if (!made_) return absl::OkStatus();
  transport::OutgoingMessage made = std::move(made_);
  if (absl::Status sealed = transport::SealMessage(*made, *call_.limits_); !sealed.ok()) {
    return sealed;
  }
  call_.request_ = transport::MakeIncoming(std::move(made));
  return absl::OkStatus();
}

std::string ServerInterception::peer() const { return call_.context_.peer(); }

const Metadata& ServerInterception::metadata() const { return extras_.received.metadata; }

Metadata& ServerInterception::EditMetadata() { return extras_.received.metadata; }

std::shared_ptr<const TraceContext> ServerInterception::trace() const {
  return extras_.received.trace;
}

void ServerInterception::set_trace(std::shared_ptr<const TraceContext> trace) {
  extras_.received.trace = std::move(trace);
}

Deadline ServerInterception::deadline() const { return call_.deadline_; }

void ServerInterception::set_deadline(Deadline deadline) {
  // Later other threads may read it.
  MI7_CHECK(starting(), "a deadline is changed in OnStart");
  call_.deadline_ = deadline;
}

ResponseMetadata& ServerInterception::response_metadata() { return extras_.response; }

capnp::AnyPointer::Reader ServerInterception::ParamsRoot() {
  if (made_) return made_->getRoot<capnp::AnyPointer>().asReader();
  if (!received_) received_.emplace(call_.request_, *call_.limits_);
  return received_->getRoot<capnp::AnyPointer>();
}

capnp::AnyPointer::Builder ServerInterception::EditParamsRoot() {
  MI7_CHECK(starting(), "parameters are changed in OnStart: later the handler has them");
  if (!made_) {
    transport::OutgoingMessage copy = transport::NewHeapMessage(0);
    copy->getRoot<capnp::AnyPointer>().set(ParamsRoot());
    copy->header = call_.request_.header();
    made_ = std::move(copy);
  }
  return made_->getRoot<capnp::AnyPointer>();
}

capnp::AnyPointer::Builder ServerInterception::EditResultsRoot() {
  return call_.response_->getRoot<capnp::AnyPointer>();
}

}  // namespace mi7
