// The calculator's answers, on every transport that works within one process.

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/calculator/calculator.mi7.h"
#include "examples/calculator/calculator_impl.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_details.h"
#include "rpc/task.h"

namespace calculator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
// Its factorization takes far longer than any test waits.
constexpr uint64_t kLargePrime = 18446744073709551557u;

mi7::CallOptions InTime() { return {.deadline = mi7::Deadline::After(absl::Seconds(60))}; }

// The parameter is the endpoint to listen on.
class CalculatorTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    absl::StatusOr<std::shared_ptr<mi7::Channel>> self =
        mi7::Channel::Create("inproc:calculator-self");
    ASSERT_TRUE(self.ok()) << self.status();
    service_ = std::make_unique<CalculatorImpl>(CalculatorStub(*self));
    absl::StatusOr<std::unique_ptr<mi7::Server>> server = mi7::ServerBuilder()
                                                              .AddService(service_.get())
                                                              .Listen(GetParam())
                                                              .Listen("inproc:calculator-self")
                                                              .Start();
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    absl::StatusOr<std::shared_ptr<mi7::Channel>> channel =
        mi7::Channel::Create(server_->endpoints()[0]);
    ASSERT_TRUE(channel.ok()) << channel.status();
    stub_.emplace(*channel);
  }

  void TearDown() override {
    if (server_ == nullptr) return;
    EXPECT_EQ(server_->Shutdown(mi7::Deadline::After(absl::Seconds(60))), absl::OkStatus());
  }

  absl::StatusOr<int64_t> Add(int64_t a, int64_t b) {
    auto request = stub_->Add(InTime());
    request->setA(a);
    request->setB(b);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    return response->getSum();
  }

  // Quotient and remainder.
  absl::StatusOr<std::pair<int64_t, int64_t>> Divide(int64_t dividend, int64_t divisor) {
    auto request = stub_->Divide(InTime());
    request->setDividend(dividend);
    request->setDivisor(divisor);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    return std::make_pair(response->getQuotient(), response->getRemainder());
  }

  auto SendFactorize(uint64_t number, const mi7::CallOptions& options) {
    auto request = stub_->Factorize(options);
    request->setNumber(number);
    return request.Send();
  }

  absl::StatusOr<std::vector<uint64_t>> Factorize(uint64_t number) {
    auto response = SendFactorize(number, InTime()).Wait();
    if (!response.ok()) return response.status();
    std::vector<uint64_t> factors;
    for (uint64_t factor : response->getFactors()) factors.push_back(factor);
    return factors;
  }

  mi7::Task<absl::StatusOr<std::pair<int64_t, int64_t>>> AverageTask(std::vector<int64_t> numbers) {
    auto request = stub_->Average(InTime());
    auto list = request->initNumbers(static_cast<unsigned>(numbers.size()));
    for (unsigned i = 0; i < list.size(); ++i) list.set(i, numbers[i]);
    auto response = co_await request.Send();
    if (!response.ok()) co_return response.status();
    co_return std::make_pair(response->getAverage(), response->getRemainder());
  }

  // Average and remainder.
  absl::StatusOr<std::pair<int64_t, int64_t>> Average(std::vector<int64_t> numbers) {
    return mi7::BlockOn(AverageTask(std::move(numbers)));
  }

  std::unique_ptr<CalculatorImpl> service_;
  std::unique_ptr<mi7::Server> server_;
  absl::optional<CalculatorStub> stub_;
};

std::string TransportName(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(0, info.param.find(':'));
}

INSTANTIATE_TEST_SUITE_P(Transports, CalculatorTest,
                         testing::Values("inproc:calculator-test", "tcp:127.0.0.1:0"),
                         TransportName);

void ExpectDivisionProblem(const absl::Status& status, int64_t dividend) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the divisor must not be 0"));
  int64_t found = dividend + 1;
  EXPECT_TRUE(mi7::ReadDetail<DivisionProblem>(
      status, [&](DivisionProblem::Reader problem) { found = problem.getDividend(); }));
  EXPECT_EQ(found, dividend);
}

TEST_P(CalculatorTest, Adds) {
  EXPECT_EQ(Add(2, 3).value(), 5);
  EXPECT_EQ(Add(kMin, kMax).value(), -1);
}

TEST_P(CalculatorTest, SumThatDoesNotFitIsOutOfRange) {
  const absl::Status status = Add(kMax, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("9223372036854775807 + 1"));
  EXPECT_EQ(Add(kMin, -1).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_P(CalculatorTest, DividesTowardsZero) {
  EXPECT_EQ(Divide(7, 2).value(), std::make_pair(int64_t{3}, int64_t{1}));
  EXPECT_EQ(Divide(-7, 2).value(), std::make_pair(int64_t{-3}, int64_t{-1}));
}

TEST_P(CalculatorTest, DivisionByZeroSaysWhatWasToBeDivided) {
  ExpectDivisionProblem(Divide(7, 0).status(), 7);
}

TEST_P(CalculatorTest, QuotientThatDoesNotFitIsOutOfRange) {
  EXPECT_EQ(Divide(kMin, -1).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_P(CalculatorTest, Factorizes) {
  EXPECT_THAT(Factorize(1).value(), IsEmpty());
  EXPECT_THAT(Factorize(2).value(), ElementsAre(2));
  EXPECT_THAT(Factorize(49).value(), ElementsAre(7, 7));
  EXPECT_THAT(Factorize(360).value(), ElementsAre(2, 2, 2, 3, 3, 5));
  EXPECT_THAT(Factorize(600851475143).value(), ElementsAre(71, 839, 1471, 6857));
  EXPECT_THAT(Factorize(std::numeric_limits<uint64_t>::max()).value(),
              ElementsAre(3, 5, 17, 257, 641, 65537, 6700417));
}

TEST_P(CalculatorTest, ZeroHasNoFactors) {
  EXPECT_EQ(Factorize(0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(CalculatorTest, AveragesByCallingItself) {
  EXPECT_EQ(Average({42, 7, -1}).value(), std::make_pair(int64_t{16}, int64_t{0}));
  EXPECT_EQ(Average({1, 2}).value(), std::make_pair(int64_t{1}, int64_t{1}));
}

TEST_P(CalculatorTest, ErrorsOfInnerCallsArriveWithTheirDetails) {
  ExpectDivisionProblem(Average({}).status(), 0);
  EXPECT_EQ(Average({kMax, kMax}).status().code(), absl::StatusCode::kOutOfRange);
}

// The calculator has one thread for factorizations: that the last one is answered proves that the
// ones before have stopped.
TEST_P(CalculatorTest, DeadlineEndsTheWorkOnBothSides) {
  auto response =
      SendFactorize(kLargePrime, {.deadline = mi7::Deadline::After(absl::Milliseconds(20))}).Wait();
  EXPECT_EQ(response.status().code(), absl::StatusCode::kDeadlineExceeded) << response.status();
  EXPECT_THAT(Factorize(97).value(), ElementsAre(97));
}

TEST_P(CalculatorTest, CancellationEndsTheWorkOnBothSides) {
  auto call = SendFactorize(kLargePrime, {});
  call.Cancel();
  EXPECT_EQ(call.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(Factorize(97).value(), ElementsAre(97));
}

TEST_P(CalculatorTest, DroppedCallEndsTheWorkOnTheServer) {
  { auto dropped = SendFactorize(kLargePrime, {}); }
  EXPECT_THAT(Factorize(97).value(), ElementsAre(97));
}

// Not a death and not a hang: the call that is cut off ends, and so does the work for it.
TEST_P(CalculatorTest, ShutdownCutsOffWhatDoesNotEndByItsDeadline) {
  auto endless = SendFactorize(kLargePrime, {});
  ASSERT_TRUE(Add(1, 1).ok());  // later on the same connection, so the server has the one above
  const absl::Status status = server_->Shutdown(mi7::Deadline::After(absl::Milliseconds(20)));
  const absl::StatusCode ended = endless.Wait().status().code();
  // Its handler sees the deadline, too, and may be just in time to answer.
  if (ended != absl::StatusCode::kCancelled) {
    EXPECT_EQ(ended, absl::StatusCode::kUnavailable);
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  }
  server_.reset();
  service_.reset();  // waits for its thread
}

}  // namespace
}  // namespace calculator
