// Subject "mi7": mi7's own typed call, used as its users do.
//
// One outstanding: a thread makes a call, waits for the answer, and drives the connection
// meanwhile. Many, on one connection or on several: each answer's callback sends the next call, all
// on the channels' event loop. The server answers inline on its one event loop. Waiting as asked
// for; "default" leaves every option alone. workload.scale: so many methods are registered in all;
// 1: Echo only. Streams: mi7_streams.h.

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "bench/harness/subject.h"
#include "bench/subjects/data_bytes.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/mi7_service.h"
#include "bench/subjects/mi7_streams.h"
#include "bench/subjects/payload.h"
#include "bench/subjects/socket_path.h"
#include "bench/subjects/wait_policy_for.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "transport/event_loop.h"
#include "transport/wait_policy.h"

namespace mi7::bench {
namespace {

using Channels = std::vector<std::shared_ptr<Channel>>;

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
// Long enough for everybody to fall asleep.
constexpr timespec kRest = {.tv_sec = 0, .tv_nsec = 2'000'000};

// Where to listen. What has a name in the file system is in the bench's directory of the run.
std::string EndpointFor(const Workload& workload) {
  if (workload.transport == "tcp") return "tcp:127.0.0.1:0";
  if (workload.transport == "unix") return absl::StrCat("unix:", SocketPath());
  return absl::StrCat(workload.transport, ":bench-", ::getpid());
}

// A server and what it serves.
class EchoServer {
 public:
  // The first endpoint, once it listens.
  absl::StatusOr<std::string> Start(const Workload& workload) {
    ServerOptions options;
    options.wait = PolicyFor(workload.waiting);
    options.event_loops = 1;
    ServerBuilder builder;
    const auto wanted = static_cast<size_t>(workload.scale);
    builder.SetOptions(options).Listen(EndpointFor(workload));
    if (wanted == 1) {
      builder.AddService(&only_echo_);
    } else {
      builder.AddService(&echo_).AddService(&sink_);
    }
    size_t methods = echo_.interface_info().method_count + sink_.interface_info().method_count;
    if (wanted > 1 && wanted < methods) {
      return absl::InvalidArgumentError(absl::StrCat("it has ", methods, " methods already"));
    }
    while (methods < wanted) {
      const size_t more = std::min(wanted - methods, UncalledService::kMethods);
      // Spread over the numbers as ids of schemas are.
      const uint64_t id = 0x9e3779b97f4a7c15u * static_cast<uint64_t>(methods + 1);
      builder.AddService(std::make_unique<UncalledService>(id, more));
      methods += more;
    }
    absl::StatusOr<std::unique_ptr<Server>> server = builder.Start();
    if (!server.ok()) return server.status();
    server_ = *std::move(server);
    return server_->endpoints()[0];
  }

 private:
  EchoImpl echo_;
  OnlyEchoImpl only_echo_;
  SinkImpl sink_;
  std::unique_ptr<Server> server_;
};

absl::Status WrongAnswer(uint64_t value) {
  return absl::DataLossError(absl::StrCat("wrong answer to call ", value));
}

// Keeps a number of calls in flight on each of some channels, which one event loop drives, until
// the recorder has enough. All members but Run are called on the loop, where callbacks never
// overlap.
class Pipeline {
 public:
  Pipeline(const Channels& channels, const Workload& workload, Recorder& recorder)
      : stubs_(channels.begin(), channels.end()),
        workload_(workload),
        recorder_(recorder),
        bytes_(workload) {}

  // Blocks the calling thread until the last call is answered.
  absl::Status Run(transport::EventLoop& loop) {
    loop.Post([this] {
      recorder_.Begin();
      in_flight_ = static_cast<int>(stubs_.size()) * workload_.outstanding;
      for (int i = 0; i < workload_.outstanding; ++i) {
        for (const EchoStub& stub : stubs_) SendOne(stub);
      }
    });
    all_answered_.WaitForNotification();
    return failure_;
  }

 private:
  void SendOne(const EchoStub& stub) {
    const int64_t stamp_ns = recorder_.Issue();
    if (workload_.call == Call::kEcho) {
      auto request = stub.Reflect();
      CopyData(*request, ToData(bytes_.Next()));
      request.Send().Then([this, &stub, value = bytes_.value(), stamp_ns](auto response) {
        Take(stub, stamp_ns,
             response.ok() ? bytes_.Check(ToBytes(response->getData()), value) : response.status());
      });
      return;
    }
    if (workload_.call == Call::kPrebuilt) {
      auto request = stub.Load();
      request->setRead(false);
      InitForOverwrite(*request, &Echo::LoadParams::Builder::initData,
                       static_cast<capnp::uint>(workload_.payload_bytes));
      request.Send().Then([this, &stub, stamp_ns](auto response) {
        Take(stub, stamp_ns,
             !response.ok()            ? response.status()
             : response->getSum() == 0 ? absl::OkStatus()
                                       : WrongAnswer(0));
      });
      return;
    }
    const uint64_t value = ++value_;
    auto request = stub.Echo();
    request->setValue(value);
    request.Send().Then([this, &stub, value, stamp_ns](auto response) {
      Take(stub, stamp_ns,
           !response.ok()                  ? response.status()
           : response->getValue() == value ? absl::OkStatus()
                                           : WrongAnswer(value));
    });
  }

  void Take(const EchoStub& stub, int64_t stamp_ns, const absl::Status& status) {
    if (!status.ok()) {
      failure_.Update(status);
    } else if (recorder_.Complete(stamp_ns) && failure_.ok()) {
      SendOne(stub);
      return;
    }
    if (--in_flight_ == 0) all_answered_.Notify();
  }

  const std::vector<EchoStub> stubs_;
  const Workload& workload_;
  Recorder& recorder_;
  EchoBytes bytes_;
  int in_flight_ = 0;
  uint64_t value_ = 0;
  absl::Status failure_;
  absl::Notification all_answered_;
};

// One thread that waits for each answer; it drives the connection meanwhile.
class OneByOne {
 public:
  OneByOne(const std::shared_ptr<Channel>& channel, const Workload& workload, Recorder& recorder)
      : echo_(channel), workload_(workload), recorder_(recorder) {}

  absl::Status Run() {
    switch (workload_.call) {
      case Call::kNumber:
        return Numbers();
      case Call::kEcho:
        return Echoes();
      case Call::kPrebuilt:
      case Call::kTouched:
        return Payloads();
      case Call::kStream:
      case Call::kStreamCallbacks:
      case Call::kStreamCalls:
      case Call::kStreamBack:
      case Call::kStreamEcho:
        break;
    }
    return absl::UnimplementedError("streams have a thread of their own");
  }

 private:
  absl::Status Numbers() {
    uint64_t value = 0;
    recorder_.Begin();
    do {
      auto request = echo_.Echo();
      request->setValue(++value);
      const auto response = request.Send().Wait();
      if (!response.ok()) return response.status();
      if (response->getValue() != value) return WrongAnswer(value);
      if (workload_.burst != 0 && value % static_cast<uint64_t>(workload_.burst) == 0) Rest();
    } while (recorder_.Continue());
    return absl::OkStatus();
  }

  absl::Status Echoes() {
    EchoBytes bytes(workload_);
    recorder_.Begin();
    do {
      auto request = echo_.Reflect();
      CopyData(*request, ToData(bytes.Next()));
      const auto response = request.Send().Wait();
      if (!response.ok()) return response.status();
      absl::Status right = bytes.Check(ToBytes(response->getData()), bytes.value());
      if (!right.ok()) return right;
    } while (recorder_.Continue());
    return absl::OkStatus();
  }

  absl::Status Payloads() {
    const bool touched = workload_.call == Call::kTouched;
    const auto bytes = static_cast<capnp::uint>(workload_.payload_bytes);
    const size_t words = workload_.payload_bytes / sizeof(uint64_t);
    uint64_t value = 0;
    recorder_.Begin();
    do {
      auto request = echo_.Load();
      request->setRead(touched);
      if (!touched) {
        InitForOverwrite(*request, &Echo::LoadParams::Builder::initData, bytes);
        recorder_.Restart();
      } else {
        capnp::Data::Builder data =
            InitForOverwrite(*request, &Echo::LoadParams::Builder::initData, bytes);
        FillPayload({reinterpret_cast<uint64_t*>(data.begin()), words}, ++value);
      }
      const auto response = request.Send().Wait();
      if (!response.ok()) return response.status();
      if (response->getSum() != (touched ? value * words : 0)) return WrongAnswer(value);
    } while (recorder_.Continue());
    return absl::OkStatus();
  }

  void Rest() {
    ::nanosleep(&kRest, nullptr);
    recorder_.Restart();
  }

  const EchoStub echo_;
  const Workload& workload_;
  Recorder& recorder_;
};

class Mi7 final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    // Within a process there is no server to start in another one.
    if (workload.transport == "inproc") {
      ready("inproc");
      for (;;) ::pause();
    }
    EchoServer server;
    const absl::StatusOr<std::string> endpoint = server.Start(workload);
    if (!endpoint.ok()) return endpoint.status();
    ready(*endpoint);
    for (;;) ::pause();
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    const bool pipelined = workload.outstanding > 1 || workload.connections > 1;
    return WithChannels(address, workload, pipelined,
                        [&](transport::EventLoop& loop, const Channels& channels) {
                          if (IsStream(workload.call) || workload.call == Call::kStreamEcho) {
                            return RunStream(channels[0], loop, workload, recorder);
                          }
                          return pipelined ? Pipeline(channels, workload, recorder).Run(loop)
                                           : OneByOne(channels[0], workload, recorder).Run();
                        });
  }

  absl::Status MakeCallsInThreads(const std::string& address, const Workload& workload,
                                  std::span<const std::unique_ptr<Recorder>> recorders) override {
    return WithChannels(address, workload, false,
                        [&](transport::EventLoop&, const Channels& channels) {
                          return InThreads(recorders, [&](Recorder& recorder) {
                            return OneByOne(channels[0], workload, recorder).Run();
                          });
                        });
  }

  absl::Status OpenIdleConnections(const std::string& address, int count) override {
    for (int i = 0; i < count; ++i) {
      absl::StatusOr<std::shared_ptr<Channel>> channel = Channel::Create(address);
      if (!channel.ok()) return channel.status();
      idle_.push_back(*std::move(channel));
      EchoStub echo(idle_.back());
      auto request = echo.Echo();
      request->setValue(1);
      const auto response = request.Send().Wait();
      if (!response.ok()) return response.status();
    }
    return absl::OkStatus();
  }

 private:
  // Connects as many channels as are asked for, on one event loop, and calls `make_calls`.
  template <typename MakeCalls>
  static absl::Status WithChannels(const std::string& address, const Workload& workload,
                                   bool pipelined, MakeCalls make_calls) {
    EchoServer server;
    std::string endpoint = address;
    if (workload.transport == "inproc") {
      const absl::StatusOr<std::string> started = server.Start(workload);
      if (!started.ok()) return started.status();
      endpoint = *started;
    }
    ChannelOptions options;
    options.wait = PolicyFor(workload.waiting);
    // Only who carries the calls may spin without end; with one outstanding that is a thread of
    // this program.
    const bool loop_may_spin = pipelined || workload.waiting != Waiting::kSpinning;
    absl::StatusOr<std::unique_ptr<transport::EventLoop>> loop = transport::EventLoop::Create(
        {.name = "bench", .wait = loop_may_spin ? options.wait : transport::WaitPolicy::kAdaptive});
    if (!loop.ok()) return loop.status();
    options.event_loop = loop->get();
    Channels channels;
    absl::Status status;
    for (int i = 0; i < workload.connections && status.ok(); ++i) {
      absl::StatusOr<std::shared_ptr<Channel>> channel = Channel::Create(endpoint, options);
      if (!channel.ok()) return channel.status();
      channels.push_back(*std::move(channel));
      status = channels.back()->Connect(Deadline::After(kConnectTimeout));
    }
    if (status.ok()) status = make_calls(**loop, channels);
    for (const std::shared_ptr<Channel>& channel : channels) channel->Close();
    return status;
  }

  Channels idle_;
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::Mi7 subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
