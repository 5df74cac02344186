// What each thing that a call can have costs it, against one that has none. BM_Inproc: on one
// thread, so the work of both sides, but a deadline takes the call to the server's loop there
// (docs/decisions/0007). BM_Shm: a thread a side, both spinning.

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "bench/micro/once.mi7.h"
#include "bench/subjects/echo.mi7.h"
#include "benchmark/benchmark.h"
#include "rpc/call_options.h"
#include "rpc/channel.h"
#include "rpc/interceptors/call_metrics.h"
#include "rpc/server.h"
#include "transport/wait_policy.h"

namespace mi7::bench {
namespace {

class EchoImpl final : public EchoService {
 public:
  Reply Echo(ServerContext&, ::mi7::bench::Echo::EchoParams::Reader params,
             ::mi7::bench::Echo::EchoResults::Builder results) override {
    results.setValue(params.getValue());
    return absl::OkStatus();
  }
  Reply Load(ServerContext&, ::mi7::bench::Echo::LoadParams::Reader params,
             ::mi7::bench::Echo::LoadResults::Builder results) override {
    results.setSum(params.getData().size());
    return absl::OkStatus();
  }
};

class OnceImpl final : public OnceService {
 public:
  Reply Echo(ServerContext&, ::mi7::bench::Once::EchoParams::Reader params,
             ::mi7::bench::Once::EchoResults::Builder results) override {
    results.setValue(params.getValue());
    return absl::OkStatus();
  }
};

struct Features {
  ServerOptions server;
  ChannelOptions channel;
  std::function<CallOptions()> call = [] { return CallOptions(); };
};

// Calls `call(stub)` over a connection whose sides both spin.
template <typename Stub, typename Call>
void Measure(benchmark::State& state, const char* endpoint, Features features, Call call) {
  EchoImpl echo;
  OnceImpl once;
  features.server.event_loops = 1;
  features.server.wait = features.channel.wait = transport::WaitPolicy::kSpin;
  auto server = ServerBuilder()
                    .SetOptions(features.server)
                    .AddService(&echo)
                    .AddService(&once)
                    .Listen(endpoint)
                    .Start();
  MI7_CHECK(server.ok(), "the benchmark's server starts");
  auto channel = Channel::Create((*server)->endpoints()[0], features.channel);
  MI7_CHECK(channel.ok(), "the benchmark's channel is sound");
  MI7_CHECK((*channel)->Connect(Deadline::After(absl::Seconds(10))).ok(), "the channel connects");
  const Stub stub(*channel);
  for (auto _ : state) call(stub);
  (*channel)->Close();
}

template <typename Stub>
void MakeCalls(benchmark::State& state, const char* endpoint, Features features) {
  uint64_t value = 0;
  Measure<Stub>(state, endpoint, features, [&](const Stub& stub) {
    auto request = stub.Echo(features.call());
    request->setValue(++value);
    const auto response = request.Send().Wait();
    MI7_CHECK(response.ok() && response->getValue() == value, "the echo is right");
  });
}

// Requests with so many bytes, not written to, that are kept until they are answered, or are not.
void BM_Request(benchmark::State& state, const char* endpoint, bool kept) {
  Features features;
  if (!kept) features.channel.retry.kept_request_bytes_max = 0;
  const auto bytes = static_cast<uint32_t>(state.range(0));
  Measure<EchoStub>(state, endpoint, features, [&](const EchoStub& stub) {
    auto request = stub.Load();
    request->initData(bytes);
    const auto response = request.Send().Wait();
    MI7_CHECK(response.ok() && response->getSum() == bytes, "the load is right");
  });
}

// The same for several calls at a time, which are sent before the first answer is waited for.
void BM_Requests(benchmark::State& state, const char* endpoint, bool kept) {
  Features features;
  if (!kept) features.channel.retry.kept_request_bytes_max = 0;
  const auto bytes = static_cast<uint32_t>(state.range(0));
  std::vector<PendingCall<::mi7::bench::Echo::LoadResults>> calls;
  Measure<EchoStub>(state, endpoint, features, [&](const EchoStub& stub) {
    for (int64_t i = 0; i < state.range(1); ++i) {
      auto request = stub.Load();
      request->initData(bytes);
      calls.push_back(request.Send());
    }
    for (auto& call : calls) {
      const auto response = call.Wait();
      MI7_CHECK(response.ok() && response->getSum() == bytes, "the load is right");
    }
    calls.clear();
  });
}

Features Plain() { return {}; }

Features WithDeadline() {
  Features with;
  with.call = [] { return CallOptions{.deadline = Deadline::After(absl::Seconds(10))}; };
  return with;
}

Features WithDefaultTimeout() {
  Features with;
  with.channel.default_timeout = absl::Seconds(10);
  return with;
}

Features WithIdempotent() {
  Features with;
  with.call = [] { return CallOptions{.repeat = Repeat::kIdempotent}; };
  return with;
}

Features WithMetadata() {
  Features with;
  auto metadata = std::make_shared<Metadata>();
  metadata->Add("tenant", "blue");
  with.call = [metadata] { return CallOptions{.metadata = metadata}; };
  return with;
}

Features WithTrace() {
  Features with;
  const auto trace = std::make_shared<const TraceContext>(TraceContext::NewRoot(true));
  with.call = [trace] { return CallOptions{.trace = trace}; };
  return with;
}

Features WithClientInterceptor() {
  Features with;
  with.channel.interceptors = {std::make_shared<Interceptor>()};
  return with;
}

Features WithServerInterceptor() {
  Features with;
  with.server.interceptors = {std::make_shared<Interceptor>()};
  return with;
}

Features WithMetricsOnBothSides() {
  Features with;
  with.channel.interceptors = with.server.interceptors = {std::make_shared<CallMetrics>()};
  return with;
}

Features WithLoadLimits() {
  Features with;
  with.server.load.calls_max = 1000;
  with.server.load.bytes_max = 1 << 30;
  return with;
}

Features WithAdaptiveLimit() {
  Features with;
  with.server.load.adaptive.enabled = true;
  return with;
}

constexpr char kInproc[] = "inproc:call_features_benchmark";
constexpr char kShm[] = "shm:call_features_benchmark";
constexpr char kUnix[] = "unix:/tmp/mi7_call_features_benchmark";
constexpr char kTcp[] = "tcp:127.0.0.1:0";

void BM_Inproc(benchmark::State& state, Features (*features)()) {
  MakeCalls<EchoStub>(state, kInproc, features());
}
void BM_Shm(benchmark::State& state, Features (*features)()) {
  MakeCalls<EchoStub>(state, kShm, features());
}
void BM_InprocDeduplicated(benchmark::State& state) {
  MakeCalls<OnceStub>(state, kInproc, Plain());
}
void BM_ShmDeduplicated(benchmark::State& state) { MakeCalls<OnceStub>(state, kShm, Plain()); }

BENCHMARK_CAPTURE(BM_Inproc, plain, &Plain);
BENCHMARK_CAPTURE(BM_Inproc, deadline, &WithDeadline);
BENCHMARK_CAPTURE(BM_Inproc, default_timeout, &WithDefaultTimeout);
BENCHMARK_CAPTURE(BM_Inproc, idempotent, &WithIdempotent);
BENCHMARK_CAPTURE(BM_Inproc, metadata, &WithMetadata);
BENCHMARK_CAPTURE(BM_Inproc, trace, &WithTrace);
BENCHMARK_CAPTURE(BM_Inproc, client_interceptor, &WithClientInterceptor);
BENCHMARK_CAPTURE(BM_Inproc, server_interceptor, &WithServerInterceptor);
BENCHMARK_CAPTURE(BM_Inproc, metrics_on_both_sides, &WithMetricsOnBothSides);
BENCHMARK_CAPTURE(BM_Inproc, load_limits, &WithLoadLimits);
BENCHMARK_CAPTURE(BM_Inproc, adaptive_limit, &WithAdaptiveLimit);
BENCHMARK(BM_InprocDeduplicated);

BENCHMARK_CAPTURE(BM_Shm, plain, &Plain);
BENCHMARK_CAPTURE(BM_Shm, deadline, &WithDeadline);
BENCHMARK_CAPTURE(BM_Shm, default_timeout, &WithDefaultTimeout);
BENCHMARK_CAPTURE(BM_Shm, idempotent, &WithIdempotent);
BENCHMARK_CAPTURE(BM_Shm, metadata, &WithMetadata);
BENCHMARK_CAPTURE(BM_Shm, trace, &WithTrace);
BENCHMARK_CAPTURE(BM_Shm, client_interceptor, &WithClientInterceptor);
BENCHMARK_CAPTURE(BM_Shm, server_interceptor, &WithServerInterceptor);
BENCHMARK_CAPTURE(BM_Shm, metrics_on_both_sides, &WithMetricsOnBothSides);
BENCHMARK_CAPTURE(BM_Shm, load_limits, &WithLoadLimits);
BENCHMARK_CAPTURE(BM_Shm, adaptive_limit, &WithAdaptiveLimit);
BENCHMARK(BM_ShmDeduplicated);

BENCHMARK_CAPTURE(BM_Request, inproc_kept, kInproc, true)
    ->Arg(8)
    ->Arg(512)
    ->Arg(32768)
    ->Arg(1 << 20)
    ->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, inproc_not_kept, kInproc, false)
    ->Arg(8)
    ->Arg(512)
    ->Arg(32768)
    ->Arg(1 << 20)
    ->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, shm_kept, kShm, true)
    ->Arg(8)
    ->Arg(512)
    ->Arg(4096)
    ->Arg(32768)
    ->Arg(1 << 20)
    ->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, shm_not_kept, kShm, false)
    ->Arg(8)
    ->Arg(512)
    ->Arg(4096)
    ->Arg(32768)
    ->Arg(1 << 20)
    ->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, unix_kept, kUnix, true)->Arg(1 << 20)->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, unix_not_kept, kUnix, false)->Arg(1 << 20)->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, tcp_kept, kTcp, true)->Arg(1 << 20)->Arg(16 << 20);
BENCHMARK_CAPTURE(BM_Request, tcp_not_kept, kTcp, false)->Arg(1 << 20)->Arg(16 << 20);
// 64 of 1 MiB need more slots than there are.
BENCHMARK_CAPTURE(BM_Requests, shm_kept, kShm, true)->Args({1 << 20, 8})->Args({1 << 20, 64});
BENCHMARK_CAPTURE(BM_Requests, shm_not_kept, kShm, false)->Args({1 << 20, 8})->Args({1 << 20, 64});
BENCHMARK_CAPTURE(BM_Requests, tcp_kept, kTcp, true)->Args({1 << 20, 8});
BENCHMARK_CAPTURE(BM_Requests, tcp_not_kept, kTcp, false)->Args({1 << 20, 8});

}  // namespace
}  // namespace mi7::bench
