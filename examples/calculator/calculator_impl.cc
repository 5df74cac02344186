#include "examples/calculator/calculator_impl.h"

#include <atomic>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include <capnp/message.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "rpc/status_details.h"

namespace calculator {
namespace {

// Factorizations that may wait for their turn. Whatever callers can pile up needs a bound.
constexpr size_t kJobsMax = 1000;

// Why the work for a call is in vain; OK when it is not.
absl::Status StillWanted(const mi7::ServerContext& context, const std::atomic<bool>& stopping) {
  if (stopping) return absl::UnavailableError("factorize: the calculator is shutting down");
  // First the deadline: when it passes, the call is cancelled as well.
  if (context.deadline().passed()) {
    return absl::DeadlineExceededError("factorize: the caller's deadline passed");
  }
  if (context.cancelled()) return absl::CancelledError("factorize: the caller gave up");
  return absl::OkStatus();
}

// By trial division: 2 and every odd number up to the square root of what is left.
absl::StatusOr<std::vector<uint64_t>> PrimeFactors(uint64_t number,
                                                   const mi7::ServerContext& context,
                                                   const std::atomic<bool>& stopping) {
  // A fraction of a millisecond passes between two looks at whether anybody still waits.
  constexpr uint64_t kDivisorsPerLook = 1 << 16;

  if (absl::Status wanted = StillWanted(context, stopping); !wanted.ok()) return wanted;
  std::vector<uint64_t> factors;
  uint64_t left = number;
  for (uint64_t divisor = 2; divisor <= left / divisor; divisor += divisor == 2 ? 1 : 2) {
    while (left % divisor == 0) {
      factors.push_back(divisor);
      left /= divisor;
    }
    if (divisor % kDivisorsPerLook == 1) {
      if (absl::Status wanted = StillWanted(context, stopping); !wanted.ok()) return wanted;
    }
  }
  if (left > 1) factors.push_back(left);
  return factors;
}

}  // namespace

CalculatorImpl::CalculatorImpl(CalculatorStub self)
    : self_(std::move(self)), worker_([this] { Work(); }) {}

CalculatorImpl::~CalculatorImpl() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  worker_.join();
}

void CalculatorImpl::Work() {
  for (;;) {
    absl::AnyInvocable<void()> job;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &CalculatorImpl::WorkOrStop));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

mi7::Reply CalculatorImpl::Add(mi7::ServerContext&, Calculator::AddParams::Reader params,
                               Calculator::AddResults::Builder results) {
  int64_t sum;
  if (__builtin_add_overflow(params.getA(), params.getB(), &sum)) {
    return absl::OutOfRangeError(
        absl::StrCat("add: ", params.getA(), " + ", params.getB(), " does not fit into 64 bits"));
  }
  results.setSum(sum);
  return absl::OkStatus();
}

mi7::Reply CalculatorImpl::Divide(mi7::ServerContext&, Calculator::DivideParams::Reader params,
                                  Calculator::DivideResults::Builder results) {
  const int64_t dividend = params.getDividend();
  const int64_t divisor = params.getDivisor();
  if (divisor == 0) {
    // Code and text are for everybody; the detail is for programs that know its type.
    absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("divide: ", dividend, " / 0 has no answer; the divisor must not be 0"));
    capnp::MallocMessageBuilder detail;
    detail.initRoot<DivisionProblem>().setDividend(dividend);
    mi7::AttachDetail<DivisionProblem>(detail, status);
    return status;
  }
  if (dividend == std::numeric_limits<int64_t>::min() && divisor == -1) {
    return absl::OutOfRangeError(
        absl::StrCat("divide: ", dividend, " / -1 does not fit into 64 bits"));
  }
  results.setQuotient(dividend / divisor);
  results.setRemainder(dividend % divisor);
  return absl::OkStatus();
}

mi7::Reply CalculatorImpl::Factorize(mi7::ServerContext& context,
                                     Calculator::FactorizeParams::Reader params,
                                     Calculator::FactorizeResults::Builder results) {
  // Parameters are read here, where mi7 answers a malformed message for us, not on the worker.
  const uint64_t number = params.getNumber();
  if (number == 0) {
    return absl::InvalidArgumentError("factorize: 0 has no prime factors; pass 1 or more");
  }
  absl::MutexLock lock(&mutex_);
  if (jobs_.size() >= kJobsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("factorize: ", kJobsMax, " calls wait already; try again later"));
  }
  // Context and results stay valid until the call is answered, that is, until Finish.
  jobs_.push_back([this, number, &context, results, call = context.Defer()]() mutable {
    absl::StatusOr<std::vector<uint64_t>> factors = PrimeFactors(number, context, stopping_);
    if (factors.ok()) {
      auto list = results.initFactors(static_cast<unsigned>(factors->size()));
      for (unsigned i = 0; i < list.size(); ++i) list.set(i, (*factors)[i]);
    }
    call.Finish(factors.status());
  });
  return mi7::Reply::Later();
}

mi7::Reply CalculatorImpl::Average(mi7::ServerContext& context,
                                   Calculator::AverageParams::Reader params,
                                   Calculator::AverageResults::Builder results) {
  // The coroutine's own copy: nothing of this object is used after a co_await, so that a call that
  // a shutdown has cut off does not need it any more.
  const CalculatorStub self = self_;
  // Whoever waits for us until a deadline needs the answers that we wait for before it, too.
  const mi7::CallOptions options{.deadline = context.deadline()};

  int64_t sum = 0;
  for (int64_t number : params.getNumbers()) {
    auto request = self.Add(options);
    request->setA(sum);
    request->setB(number);
    auto response = co_await request.Send();
    if (!response.ok()) co_return response.status();
    sum = response->getSum();
  }

  auto request = self.Divide(options);
  request->setDividend(sum);
  request->setDivisor(params.getNumbers().size());
  auto response = co_await request.Send();
  if (!response.ok()) co_return response.status();
  results.setAverage(response->getQuotient());
  results.setRemainder(response->getRemainder());
  co_return absl::OkStatus();
}

}  // namespace calculator
