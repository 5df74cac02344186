// Calls a calculator in every way that there is, shows what came back, and measures calls.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/calculator/calculator.mi7.h"
#include "examples/calculator/calculator_impl.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_details.h"
#include "rpc/task.h"

ABSL_FLAG(std::string, server, "mi7://127.0.0.1:4711",
          "The calculator's endpoint: mi7://HOST:PORT (the best transport to it), shm:NAME, "
          "unix:/PATH, tcp:HOST:PORT. With inproc:NAME the client starts one in its own process.");
ABSL_FLAG(uint64_t, measure, 0, "How many calls to measure, one after the other; 0: none.");
ABSL_FLAG(int, timeout_s, 10, "Seconds to wait for the connection, and for each answer.");

namespace {

using calculator::Calculator;
using calculator::CalculatorStub;
using calculator::DivisionProblem;

// The largest prime below 2^64: its factorization takes seconds to find nothing.
constexpr uint64_t kLargePrime = 18446744073709551557u;

mi7::CallOptions InTime() {
  return {.deadline = mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_timeout_s)))};
}

void Show(const CalculatorStub& stub, absl::string_view what, absl::string_view call,
          absl::string_view answer) {
  absl::PrintF("%-10s %-6s  %s  ->  %s\n", what, stub.channel()->transport(), call, answer);
}

// Code and text; what a status carries for programs is unreadable.
std::string Text(const absl::Status& status) {
  return status.ToString(absl::StatusToStringMode::kWithNoExtraData);
}

// For answers that are not what mathematics or calculator.capnp says.
absl::Status Wrong(absl::string_view call, absl::string_view answer) {
  return absl::InternalError(absl::StrCat(call, " was answered with ", answer));
}

std::vector<uint64_t> ToVector(capnp::List<uint64_t>::Reader list) {
  std::vector<uint64_t> values;
  for (uint64_t value : list) values.push_back(value);
  return values;
}

// --- The three ways to make a call ---

// Blocking: the plainest. The waiting thread itself drives the connection, so it is the fastest.
absl::Status Blocking(const CalculatorStub& stub) {
  auto request = stub.Add(InTime());
  request->setA(2);
  request->setB(3);
  auto response = request.Send().Wait();
  if (!response.ok()) return response.status();
  Show(stub, "blocking", "add(2, 3)", absl::StrCat(response->getSum()));
  if (response->getSum() != 5) return Wrong("add(2, 3)", absl::StrCat(response->getSum()));
  return absl::OkStatus();
}

// Coroutine: reads like the blocking form, and holds no thread while it waits. `stub` is taken by
// value, because a coroutine's reference parameters must outlive it.
mi7::Task<absl::Status> Coroutine(CalculatorStub stub) {
  auto add = stub.Add(InTime());
  add->setA(40);
  add->setB(2);
  auto sum = co_await add.Send();
  if (!sum.ok()) co_return sum.status();
  Show(stub, "coroutine", "add(40, 2)", absl::StrCat(sum->getSum()));

  auto average = stub.Average(InTime());
  auto numbers = average->initNumbers(3);
  numbers.set(0, sum->getSum());
  numbers.set(1, 7);
  numbers.set(2, -1);
  auto response = co_await average.Send();
  if (!response.ok()) co_return response.status();
  Show(stub, "coroutine", "average(42, 7, -1)", absl::StrCat(response->getAverage()));
  if (response->getAverage() != 16) {
    co_return Wrong("average(42, 7, -1)", absl::StrCat(response->getAverage()));
  }
  co_return absl::OkStatus();
}

// Callbacks: several calls at once, each told about when it is done. They run on the thread that
// drives the connection, one after the other, and must not block.
absl::Status Callbacks(const CalculatorStub& stub) {
  constexpr uint64_t kNumbers[] = {360, 1001, 600851475143};
  constexpr size_t kCount = std::size(kNumbers);
  absl::StatusOr<std::vector<uint64_t>> answers[kCount];

  absl::BlockingCounter pending(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    auto request = stub.Factorize(InTime());
    request->setNumber(kNumbers[i]);
    request.Send().Then([&answer = answers[i], &pending](auto response) {
      if (response.ok()) {
        answer = ToVector(response->getFactors());
      } else {
        answer = response.status();
      }
      pending.DecrementCount();
    });
  }
  pending.Wait();

  for (size_t i = 0; i < kCount; ++i) {
    if (!answers[i].ok()) return answers[i].status();
    const std::string call = absl::StrCat("factorize(", kNumbers[i], ")");
    const std::string answer = absl::StrJoin(*answers[i], " * ");
    Show(stub, "callback", call, answer);
    uint64_t product = 1;
    for (uint64_t factor : *answers[i]) product *= factor;
    if (product != kNumbers[i]) return Wrong(call, answer);
  }
  return absl::OkStatus();
}

// --- What can go wrong ---

// An error is a status: a code, a text, and perhaps details with a type.
absl::Status Errors(const CalculatorStub& stub) {
  auto request = stub.Divide(InTime());
  request->setDividend(7);
  request->setDivisor(0);
  auto response = request.Send().Wait();
  if (response.ok()) return Wrong("divide(7, 0)", absl::StrCat(response->getQuotient()));

  Show(stub, "error", "divide(7, 0)", Text(response.status()));
  int64_t dividend = 0;
  const bool has_detail = mi7::ReadDetail<DivisionProblem>(
      response.status(),
      [&dividend](DivisionProblem::Reader problem) { dividend = problem.getDividend(); });
  if (!absl::IsInvalidArgument(response.status()) || !has_detail || dividend != 7) {
    return response.status();  // another error than the one that was asked for
  }
  Show(stub, "detail", "DivisionProblem.dividend", absl::StrCat(dividend));
  return absl::OkStatus();
}

// The call ends in time whatever the server does, and the server learns that it is in vain.
absl::Status DeadlinePasses(const CalculatorStub& stub) {
  const int64_t start_ns = mi7::MonotonicNanos();
  auto request = stub.Factorize({.deadline = mi7::Deadline::After(absl::Milliseconds(50))});
  request->setNumber(kLargePrime);
  auto response = request.Send().Wait();
  const int64_t took_ms = (mi7::MonotonicNanos() - start_ns) / 1'000'000;
  const std::string call = absl::StrCat("factorize(", kLargePrime, ") within 50 ms");
  if (response.ok()) return Wrong(call, "success");
  if (!absl::IsDeadlineExceeded(response.status())) return response.status();
  Show(stub, "deadline", call, absl::StrCat(Text(response.status()), "; after ", took_ms, " ms"));
  return absl::OkStatus();
}

absl::Status Cancelled(const CalculatorStub& stub) {
  auto request = stub.Factorize(InTime());
  request->setNumber(kLargePrime);
  auto call = request.Send();
  call.Cancel();
  auto response = call.Wait();
  const std::string text = absl::StrCat("factorize(", kLargePrime, "), cancelled");
  if (response.ok()) return Wrong(text, "success");
  if (!absl::IsCancelled(response.status())) return response.status();
  Show(stub, "cancel", text, Text(response.status()));

  // The server's one thread for factorizations is free again at once: it has stopped the two that
  // nobody waits for.
  auto next = stub.Factorize(InTime());
  next->setNumber(97);
  auto factors = next.Send().Wait();
  if (!factors.ok()) return factors.status();
  Show(stub, "afterwards", "factorize(97)", absl::StrJoin(ToVector(factors->getFactors()), " * "));
  return absl::OkStatus();
}

// --- How long a call takes ---

absl::Status Measure(const CalculatorStub& stub, uint64_t calls) {
  std::vector<int64_t> nanos;
  nanos.reserve(calls);
  const uint64_t warm_up = std::min<uint64_t>(calls, 1000);
  for (uint64_t i = 0; i < warm_up + calls; ++i) {
    const int64_t start_ns = mi7::MonotonicNanos();
    auto request = stub.Add();
    request->setA(static_cast<int64_t>(i));
    request->setB(1);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    if (response->getSum() != static_cast<int64_t>(i) + 1) {
      return Wrong(absl::StrCat("add(", i, ", 1)"), absl::StrCat(response->getSum()));
    }
    if (i >= warm_up) nanos.push_back(mi7::MonotonicNanos() - start_ns);
  }
  std::sort(nanos.begin(), nanos.end());
  const auto percentile_us = [&nanos](size_t percent) {
    return static_cast<double>(nanos[(nanos.size() - 1) * percent / 100]) / 1000;
  };
  absl::PrintF("measured   %-6s  %d calls of add, one after the other: p50 %.2f us, p99 %.2f us\n",
               stub.channel()->transport(), calls, percentile_us(50), percentile_us(99));
  return absl::OkStatus();
}

// --- The program ---

// A calculator in this process.
struct OwnCalculator {
  std::unique_ptr<calculator::CalculatorImpl> service;
  std::unique_ptr<mi7::Server> server;
};

absl::StatusOr<OwnCalculator> StartOwn(const std::string& endpoint,
                                       const std::shared_ptr<mi7::Channel>& channel) {
  OwnCalculator own;
  own.service = std::make_unique<calculator::CalculatorImpl>(CalculatorStub(channel));
  absl::StatusOr<std::unique_ptr<mi7::Server>> server =
      mi7::ServerBuilder().AddService(own.service.get()).Listen(endpoint).Start();
  if (!server.ok()) return server.status();
  own.server = *std::move(server);
  return own;
}

absl::Status Run() {
  const std::string endpoint = absl::GetFlag(FLAGS_server);
  absl::StatusOr<std::shared_ptr<mi7::Channel>> channel = mi7::Channel::Create(endpoint);
  if (!channel.ok()) return channel.status();

  OwnCalculator own;
  if (absl::StartsWith(endpoint, "inproc:")) {
    absl::StatusOr<OwnCalculator> started = StartOwn(endpoint, *channel);
    if (!started.ok()) return started.status();
    own = *std::move(started);
  }

  // A channel connects by itself with the first call. This is only to have a better text for the
  // most common mistake.
  if (absl::Status connected = (*channel)->Connect(InTime().deadline); !connected.ok()) {
    return absl::Status(connected.code(),
                        absl::StrCat(connected.message(), "\nIs there a calculator at ", endpoint,
                                     "? Start one with: server --listen=", endpoint));
  }
  absl::PrintF("%s\n", (*channel)->Describe());

  const CalculatorStub stub(*channel);
  absl::Status status = Blocking(stub);
  if (status.ok()) status = mi7::BlockOn(Coroutine(stub));
  if (status.ok()) status = Callbacks(stub);
  if (status.ok()) status = Errors(stub);
  if (status.ok()) status = DeadlinePasses(stub);
  if (status.ok()) status = Cancelled(stub);
  const uint64_t calls = absl::GetFlag(FLAGS_measure);
  if (status.ok() && calls != 0) status = Measure(stub, calls);
  (*channel)->Close();
  if (own.server) status.Update(own.server->Shutdown(InTime().deadline));
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Calls a calculator in every way, and measures calls.\n"
      "  client --server=mi7://127.0.0.1:4711 --measure=10000\n"
      "  client --server=inproc:calculator   (starts the calculator itself)");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() > 1) {
    absl::FPrintF(stderr, "client: unexpected argument '%s'; see client --help\n", arguments[1]);
    return 2;
  }
  if (absl::Status status = Run(); !status.ok()) {
    absl::FPrintF(stderr, "client: %s\n", Text(status));
    return 1;
  }
  return 0;
}
