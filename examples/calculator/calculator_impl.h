#pragma once

// The calculator itself: a service whose handlers answer in each of the three ways.

#include <atomic>
#include <cstdint>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "examples/calculator/calculator.mi7.h"

namespace calculator {

// Must outlive the server that it is added to.
class CalculatorImpl final : public CalculatorService {
 public:
  // `self` calls a calculator on behalf of Average: this one, or another.
  explicit CalculatorImpl(CalculatorStub self);
  // Ends the factorizations that are still running or waiting.
  ~CalculatorImpl() override;

  // Inline: they answer before they return, on the thread that received the call.
  mi7::Reply Add(mi7::ServerContext& context, Calculator::AddParams::Reader params,
                 Calculator::AddResults::Builder results) override;
  mi7::Reply Divide(mi7::ServerContext& context, Calculator::DivideParams::Reader params,
                    Calculator::DivideResults::Builder results) override;

  // Deferred: it takes too long for that thread, so a thread of the service's own answers.
  mi7::Reply Factorize(mi7::ServerContext& context, Calculator::FactorizeParams::Reader params,
                       Calculator::FactorizeResults::Builder results) override;

  // Coroutine: it waits for other calls without holding up a thread.
  mi7::Reply Average(mi7::ServerContext& context, Calculator::AverageParams::Reader params,
                     Calculator::AverageResults::Builder results) override;

 private:
  void Work();
  bool WorkOrStop() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !jobs_.empty();
  }

  const CalculatorStub self_;

  absl::Mutex mutex_;
  std::atomic<bool> stopping_{false};  // set under mutex_; a factorization looks at it without
  std::deque<absl::AnyInvocable<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  std::thread worker_;  // takes the jobs in turn; last, because it uses all of the above
};

}  // namespace calculator
