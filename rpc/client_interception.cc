#include "rpc/client_interception.h"

#include <utility>

#include "base/check.h"
#include "rpc/call_extras.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"

namespace mi7 {

void ClientInterception::TakeResults(absl::Status& status,
                                     std::optional<transport::IncomingMessage>& response) {
  received_.reset();
  if (!made_) return;
  transport::OutgoingMessage made = std::move(made_);
  if (!status.ok()) return;
  status = transport::SealMessage(*made, *call_.limits_);
  if (status.ok()) response.emplace(transport::MakeIncoming(std::move(made)));
}

const MethodInfo& ClientInterception::method() const { return call_.method(); }

std::string ClientInterception::peer() const { return call_.channel_->endpoint(); }

const Metadata& ClientInterception::metadata() const {
  static const Metadata kNone;
  return extras_.options.metadata ? *extras_.options.metadata : kNone;
}

Metadata& ClientInterception::EditMetadata() {
  if (own_metadata_ == nullptr) {
    own_metadata_ = std::make_shared<Metadata>(metadata());
    extras_.options.metadata = own_metadata_;
  }
  return *own_metadata_;
}

std::shared_ptr<const TraceContext> ClientInterception::trace() const {
  return extras_.options.trace;
}

void ClientInterception::set_trace(std::shared_ptr<const TraceContext> trace) {
  extras_.options.trace = std::move(trace);
}

Deadline ClientInterception::deadline() const { return call_.deadline_; }

void ClientInterception::set_deadline(Deadline deadline) {
  // Later the channel's queue of deadlines is in the order of this one.
  MI7_CHECK(starting(), "a deadline is changed in OnStart");
  call_.deadline_ = deadline;
}

ResponseMetadata& ClientInterception::response_metadata() { return extras_.response; }

capnp::AnyPointer::Reader ClientInterception::ParamsRoot() { return EditParamsRoot().asReader(); }

capnp::AnyPointer::Builder ClientInterception::EditParamsRoot() {
  MI7_CHECK(starting(), "parameters are read and changed in OnStart: later they are sent");
  return call_.request().getRoot<capnp::AnyPointer>();
}

capnp::AnyPointer::Reader ClientInterception::ResultsRoot() {
  if (made_) return made_->getRoot<capnp::AnyPointer>().asReader();
  if (!received_) received_.emplace(call_.ResponseOrEmpty(), *call_.limits_);
  return received_->getRoot<capnp::AnyPointer>();
}

capnp::AnyPointer::Builder ClientInterception::EditResultsRoot() {
  if (!made_) {
    transport::OutgoingMessage copy = transport::NewHeapMessage(0);
    copy->getRoot<capnp::AnyPointer>().set(ResultsRoot());
    copy->header.type = transport::FrameType::kReturn;
    made_ = std::move(copy);
  }
  return made_->getRoot<capnp::AnyPointer>();
}

capnp::AnyPointer::Builder ClientInterception::BeginResults() {
  made_ = transport::NewHeapMessage(0);
  made_->header.type = transport::FrameType::kReturn;
  return made_->getRoot<capnp::AnyPointer>();
}

}  // namespace mi7
