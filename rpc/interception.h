#pragma once

// Interception: a call's way through its interceptors, the same for both sides. The sides' own
// parts: rpc/client_interception.h, rpc/server_interception.h.

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "rpc/interceptor.h"

namespace mi7 {

// Thread-safety: as its call's; RunStart and RunEnd never overlap.
class Interception : public InterceptedCall {
 public:
  // `interceptors` must outlive it.
  explicit Interception(const Interceptors& interceptors)
      : interceptors_(interceptors), start_ns_(MonotonicNanos()) {}
  virtual ~Interception() = default;
  Interception(const Interception&) = delete;
  Interception& operator=(const Interception&) = delete;

  // OnStart of each, in order. False: one of them ended the call, as status() says.
  bool RunStart();
  // OnEnd of those whose OnStart ran, the last first. `status` is how the call ended, and becomes
  // how it ends for its owner.
  void RunEnd(absl::Status& status);

  const Interceptors& interceptors() const { return interceptors_; }

  // --- InterceptedCall ---
  absl::Duration elapsed() const override {
    return absl::Nanoseconds(MonotonicNanos() - start_ns_);
  }
  const absl::Status& status() const override { return status_; }
  void Fail(absl::Status status) override;

 protected:
  // Results of our own replace whatever there is.
  virtual capnp::AnyPointer::Builder BeginResults() = 0;
  // Whether RunStart runs.
  bool starting() const { return starting_; }
  // What a malformed message is the fault of.
  virtual absl::StatusCode CodeOfMalformed() const = 0;

 private:
  template <typename Hook>
  void Run(size_t index, Hook hook);
  capnp::AnyPointer::Builder NewResultsRoot() final;
  std::unique_ptr<StateHolder>& StateSlot() final;
  StateHolder* FoundState() final { return states_.empty() ? nullptr : states_[current_].get(); }

  const Interceptors& interceptors_;
  const int64_t start_ns_;
  size_t started_ = 0;  // how many OnStart ran
  size_t current_ = 0;  // whose hook runs
  bool starting_ = false;
  bool ended_ = false;  // by an interceptor, in OnStart
  absl::Status status_;
  std::vector<std::unique_ptr<StateHolder>> states_;  // by interceptor; empty as long as none is
};

}  // namespace mi7
