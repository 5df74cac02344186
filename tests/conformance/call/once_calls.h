#pragma once

// Calls of Probe.once, which the server recognizes when they are made again, and handlers for them.

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "rpc/metadata.h"
#include "rpc/request_id.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {

using OnceResult = absl::StatusOr<Response<Probe::OnceResults>>;

// Keeps its call until the test answers it.
class HeldRun {
 public:
  OnceHandler handler() {
    return [this](ServerContext& context, auto, Probe::OnceResults::Builder results) {
      ++runs;
      of_first = &context;
      results_.emplace(results);
      later_.emplace(context.Defer());
      begun.Notify();
      return Reply::Later();
    };
  }
  void Answer(uint32_t run) {
    results_->setRun(run);
    later_->Finish(absl::OkStatus());
  }

  std::atomic<int> runs{0};
  ServerContext* of_first = nullptr;  // until it is answered
  absl::Notification begun;

 private:
  std::optional<Probe::OnceResults::Builder> results_;
  std::optional<DeferredCall> later_;
};

// Numbers its runs, and answers with what it got.
class Runs {
 public:
  OnceHandler handler() {
    return [this](ServerContext& context, Probe::OnceParams::Reader params,
                  Probe::OnceResults::Builder results) -> Reply {
      const uint32_t run = ++count;
      results.setRun(run);
      results.setText(params.getText());
      results.setData(params.getData());
      context.trailing_metadata().Add("run", absl::StrCat(run));
      return absl::OkStatus();
    };
  }
  std::atomic<uint32_t> count{0};
};

inline PendingCall<Probe::OnceResults> SendOnce(const ProbeStub& stub, const std::string& text,
                                                const CallOptions& options = {}, size_t bytes = 0) {
  auto request = stub.Once(options);
  request->setText(text);
  if (bytes != 0) request->initData(static_cast<unsigned>(bytes));
  return request.Send();
}

inline CallOptions WithId(const RequestId& id) {
  CallOptions options;
  options.request_id = id;
  options.received = std::make_shared<ResponseMetadata>();
  return options;
}

}  // namespace mi7::conformance
