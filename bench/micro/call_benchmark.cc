// What one typed unary call costs rpc, Cap'n Proto and the in-process transport together, caller
// and handler on one thread: the instructions of both sides of a call without a socket. Under
// `valgrind --tool=callgrind` (one benchmark, --benchmark_min_time=0.01) it shows where they go.

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "bench/subjects/echo.mi7.h"
#include "benchmark/benchmark.h"
#include "rpc/channel.h"
#include "rpc/server.h"

namespace mi7::bench {
namespace {

class EchoImpl final : public EchoService {
 public:
  Reply Echo(ServerContext&, ::mi7::bench::Echo::EchoParams::Reader params,
             ::mi7::bench::Echo::EchoResults::Builder results) override {
    results.setValue(params.getValue());
    return absl::OkStatus();
  }
};

void BM_InprocCall(benchmark::State& state) {
  EchoImpl echo;
  auto server = ServerBuilder().AddService(&echo).Listen("inproc:call_benchmark").Start();
  MI7_CHECK(server.ok(), "the benchmark's server starts");
  auto channel = Channel::Create("inproc:call_benchmark");
  MI7_CHECK(channel.ok(), "the benchmark's channel is sound");
  MI7_CHECK((*channel)->Connect(Deadline::After(absl::Seconds(10))).ok(), "the channel connects");
  const EchoStub stub(*channel);
  uint64_t value = 0;
  for (auto _ : state) {
    auto request = stub.Echo();
    request->setValue(++value);
    const auto response = request.Send().Wait();
    MI7_CHECK(response.ok() && response->getValue() == value, "the echo is right");
  }
  (*channel)->Close();
}
BENCHMARK(BM_InprocCall);

}  // namespace
}  // namespace mi7::bench
