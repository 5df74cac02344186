#include "rpc/interception.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/message_reader.h"

namespace mi7 {

template <typename Hook>
void Interception::Run(size_t index, Hook hook) {
  current_ = index;
  try {
    hook(*interceptors_[index]);
  } catch (...) {
    Fail(StatusOfException(CodeOfMalformed(), absl::StrCat("interceptor of ", method().name)));
  }
}

bool Interception::RunStart() {
  starting_ = true;
  while (started_ < interceptors_.size() && !ended_) {
    Run(started_++, [this](Interceptor& interceptor) { interceptor.OnStart(*this); });
  }
  starting_ = false;
  return !ended_;
}

void Interception::RunEnd(absl::Status& status) {
  status_ = std::move(status);
  while (started_ > 0) {
    Run(--started_, [this](Interceptor& interceptor) { interceptor.OnEnd(*this); });
  }
  status = std::move(status_);
}

void Interception::Fail(absl::Status status) {
  MI7_CHECK(!status.ok(), "InterceptedCall::Fail is given a failure");
  status_ = std::move(status);
  ended_ = true;
}

capnp::AnyPointer::Builder Interception::NewResultsRoot() {
  status_ = absl::OkStatus();
  ended_ = true;
  return BeginResults();
}

std::unique_ptr<InterceptedCall::StateHolder>& Interception::StateSlot() {
  if (states_.empty()) states_.resize(interceptors_.size());
  return states_[current_];
}

}  // namespace mi7
