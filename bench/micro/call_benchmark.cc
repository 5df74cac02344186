// What one typed unary call costs rpc, Cap'n Proto and the transport together, caller and handler
// in one process: over inproc on one thread, so the instructions of both sides of a call; over the
// others with a thread a side. Under `valgrind --tool=callgrind` (one benchmark, for a short time)
// it shows where they go.

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "bench/subjects/echo.mi7.h"
#include "benchmark/benchmark.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "transport/event_loop.h"
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
};

// Whether the request of a call is kept in case that it has to be made again (decision 20). All
// else that a call can have is not used here.
enum class Keeps { kRequest, kNothing };

void MakeCalls(benchmark::State& state, const char* endpoint, transport::WaitPolicy wait,
               Keeps keeps = Keeps::kRequest) {
  EchoImpl echo;
  ServerOptions server_options;
  server_options.wait = wait;
  server_options.event_loops = 1;
  auto server =
      ServerBuilder().SetOptions(server_options).AddService(&echo).Listen(endpoint).Start();
  MI7_CHECK(server.ok(), "the benchmark's server starts");
  ChannelOptions options;
  options.wait = wait;
  if (keeps == Keeps::kNothing) options.retry.kept_request_bytes_max = 0;
  auto channel = Channel::Create((*server)->endpoints()[0], options);
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

void BM_InprocCall(benchmark::State& state) {
  MakeCalls(state, "inproc:call_benchmark", transport::WaitPolicy::kAdaptive);
}
BENCHMARK(BM_InprocCall);

void BM_InprocCallKeepingNothing(benchmark::State& state) {
  MakeCalls(state, "inproc:call_benchmark", transport::WaitPolicy::kAdaptive, Keeps::kNothing);
}
BENCHMARK(BM_InprocCallKeepingNothing);

void BM_ShmCall(benchmark::State& state) {
  MakeCalls(state, "shm:call_benchmark", transport::WaitPolicy::kSpin);
}
BENCHMARK(BM_ShmCall);

void BM_ShmCallKeepingNothing(benchmark::State& state) {
  MakeCalls(state, "shm:call_benchmark", transport::WaitPolicy::kSpin, Keeps::kNothing);
}
BENCHMARK(BM_ShmCallKeepingNothing);

void BM_TcpCall(benchmark::State& state) {
  MakeCalls(state, "tcp:127.0.0.1:0", transport::WaitPolicy::kBlock);
}
BENCHMARK(BM_TcpCall);

void BM_UnixCall(benchmark::State& state) {
  const std::string endpoint = absl::StrCat("unix:/tmp/mi7_call_benchmark_", ::getpid());
  MakeCalls(state, endpoint.c_str(), transport::WaitPolicy::kBlock);
}
BENCHMARK(BM_UnixCall);

// Rounds of 64 calls whose answers are callbacks: each sends the next one, as a pipelined client
// does.
class Pipeline {
 public:
  static constexpr int kOutstanding = 64;
  static constexpr int kCallsInARound = 64 * kOutstanding;

  Pipeline(std::shared_ptr<Channel> channel, transport::EventLoop& loop)
      : stub_(std::move(channel)), loop_(loop) {}

  void RunRound() {
    absl::Notification done;
    done_ = &done;
    to_send_ = to_answer_ = kCallsInARound;
    loop_.Post([this] {
      for (int i = 0; i < kOutstanding; ++i) SendOne();
    });
    done.WaitForNotification();
  }

 private:
  void SendOne() {
    --to_send_;
    auto request = stub_.Echo();
    request->setValue(1);
    request.Send().Then([this](auto response) {
      MI7_CHECK(response.ok() && response->getValue() == 1, "the echo is right");
      if (to_send_ != 0) SendOne();
      if (--to_answer_ == 0) done_->Notify();
    });
  }

  const EchoStub stub_;
  transport::EventLoop& loop_;
  absl::Notification* done_ = nullptr;
  int to_send_ = 0;
  int to_answer_ = 0;
};

void CallPipelined(benchmark::State& state, const char* endpoint, transport::WaitPolicy wait) {
  EchoImpl echo;
  ServerOptions server_options;
  server_options.wait = wait;
  server_options.event_loops = 1;
  auto server =
      ServerBuilder().SetOptions(server_options).AddService(&echo).Listen(endpoint).Start();
  MI7_CHECK(server.ok(), "the benchmark's server starts");
  auto loop = transport::EventLoop::Create({.name = "benchmark", .wait = wait});
  MI7_CHECK(loop.ok(), "the benchmark's loop starts");
  ChannelOptions options;
  options.wait = wait;
  options.event_loop = loop->get();
  auto channel = Channel::Create((*server)->endpoints()[0], options);
  MI7_CHECK(channel.ok(), "the benchmark's channel is sound");
  MI7_CHECK((*channel)->Connect(Deadline::After(absl::Seconds(10))).ok(), "the channel connects");
  Pipeline pipeline(*channel, **loop);
  for (auto _ : state) pipeline.RunRound();
  state.SetItemsProcessed(state.iterations() * Pipeline::kCallsInARound);
  (*channel)->Close();
}

void BM_ShmPipelined(benchmark::State& state) {
  CallPipelined(state, "shm:pipelined_benchmark", transport::WaitPolicy::kSpin);
}
BENCHMARK(BM_ShmPipelined);

void BM_TcpPipelined(benchmark::State& state) {
  CallPipelined(state, "tcp:127.0.0.1:0", transport::WaitPolicy::kBlock);
}
BENCHMARK(BM_TcpPipelined);

}  // namespace
}  // namespace mi7::bench
