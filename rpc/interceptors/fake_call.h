#pragma once

// A call for tests of interceptors, without a channel or a server.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <capnp/message.h>

#include "rpc/interceptor.h"

namespace mi7 {

// A call that nobody makes: the test says when it starts and how it ends, and looks at what the
// interceptor did to it. Its parameters and results are whatever is written into their roots.
class FakeCall final : public InterceptedCall {
 public:
  explicit FakeCall(const MethodInfo& method, Side side = Side::kServer)
      : method_(method), side_(side) {}

  // What happens to a call, for one interceptor.
  void Start(Interceptor& interceptor) { interceptor.OnStart(*this); }
  void End(Interceptor& interceptor, absl::Status status, absl::Duration elapsed) {
    status_ = std::move(status);
    elapsed_ = elapsed;
    interceptor.OnEnd(*this);
  }
  // Whether an interceptor has ended it.
  bool ended() const { return ended_; }

  Side side() const override { return side_; }
  const MethodInfo& method() const override { return method_; }
  std::string peer() const override { return "fake:peer"; }
  absl::Duration elapsed() const override { return elapsed_; }
  const Metadata& metadata() const override { return metadata_; }
  Metadata& EditMetadata() override { return metadata_; }
  std::shared_ptr<const TraceContext> trace() const override { return trace_; }
  void set_trace(std::shared_ptr<const TraceContext> trace) override { trace_ = std::move(trace); }
  Deadline deadline() const override { return deadline_; }
  void set_deadline(Deadline deadline) override { deadline_ = deadline; }
  const absl::Status& status() const override { return status_; }
  ResponseMetadata& response_metadata() override { return response_metadata_; }
  void Fail(absl::Status status) override {
    ended_ = true;
    status_ = std::move(status);
  }

 private:
  capnp::AnyPointer::Reader ParamsRoot() override { return EditParamsRoot().asReader(); }
  capnp::AnyPointer::Builder EditParamsRoot() override {
    return params_.getRoot<capnp::AnyPointer>();
  }
  capnp::AnyPointer::Reader ResultsRoot() override { return EditResultsRoot().asReader(); }
  capnp::AnyPointer::Builder EditResultsRoot() override {
    return results_.getRoot<capnp::AnyPointer>();
  }
  capnp::AnyPointer::Builder NewResultsRoot() override {
    ended_ = true;
    status_ = absl::OkStatus();
    return EditResultsRoot();
  }
  std::unique_ptr<StateHolder>& StateSlot() override { return state_; }
  StateHolder* FoundState() override { return state_.get(); }

  const MethodInfo& method_;
  const Side side_;
  absl::Duration elapsed_ = absl::ZeroDuration();
  Metadata metadata_;
  std::shared_ptr<const TraceContext> trace_;
  Deadline deadline_;
  absl::Status status_;
  ResponseMetadata response_metadata_;
  bool ended_ = false;
  capnp::MallocMessageBuilder params_;
  capnp::MallocMessageBuilder results_;
  std::unique_ptr<StateHolder> state_;
};

}  // namespace mi7
