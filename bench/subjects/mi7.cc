// Subject "mi7": mi7's own typed call, used as its users do.
//
// One outstanding: a thread makes a call, waits for the answer, and drives the connection
// meanwhile. Many: each answer's callback sends the next call, all on the channel's event loop. The
// server answers inline on its one event loop. Waiting as asked for; "default" leaves every option
// alone.

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo.mi7.h"
#include "bench/subjects/payload.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "transport/event_loop.h"
#include "transport/wait_policy.h"

namespace mi7::bench {
namespace {

transport::WaitPolicy PolicyFor(Waiting waiting) {
  switch (waiting) {
    case Waiting::kBlocking:
      return transport::WaitPolicy::kBlock;
    case Waiting::kSpinning:
      return transport::WaitPolicy::kSpin;
    case Waiting::kDefault:
      break;
  }
  return transport::WaitPolicy::kAdaptive;
}

class EchoImpl final : public EchoService {
 public:
  Reply Echo(ServerContext&, ::mi7::bench::Echo::EchoParams::Reader params,
             ::mi7::bench::Echo::EchoResults::Builder results) override {
    results.setValue(params.getValue());
    return absl::OkStatus();
  }

  Reply Load(ServerContext&, ::mi7::bench::Echo::LoadParams::Reader params,
             ::mi7::bench::Echo::LoadResults::Builder results) override {
    if (params.getRead()) {
      const capnp::Data::Reader data = params.getData();
      results.setSum(SumPayload(
          {reinterpret_cast<const uint64_t*>(data.begin()), data.size() / sizeof(uint64_t)}));
    }
    return absl::OkStatus();
  }
};

// Where to listen. The bench gives every run a directory of its own for what has a name in the file
// system.
std::string EndpointFor(const Workload& workload) {
  const std::string unique = absl::StrCat("bench-", ::getpid());
  if (workload.transport == "tcp") return "tcp:127.0.0.1:0";
  if (workload.transport == "shm") return absl::StrCat("shm:", unique);
  const char* const directory = std::getenv("XDG_RUNTIME_DIR");
  return absl::StrCat(workload.transport, ":", directory != nullptr ? directory : "/tmp", "/",
                      unique);
}

// Keeps a number of calls in flight on one event loop until the recorder has enough. All members
// but Run are called on the loop, which callbacks of one connection never overlap on.
class Pipeline {
 public:
  Pipeline(const std::shared_ptr<Channel>& channel, Recorder& recorder)
      : echo_(channel), recorder_(recorder) {}

  // Blocks the calling thread until the last call is answered.
  absl::Status Run(transport::EventLoop& loop, int outstanding) {
    loop.Post([this, outstanding] {
      recorder_.Begin();
      in_flight_ = outstanding;
      for (int i = 0; i < outstanding; ++i) SendOne();
    });
    all_answered_.WaitForNotification();
    return failure_;
  }

 private:
  void SendOne() {
    const uint64_t value = ++value_;
    const int64_t stamp_ns = recorder_.Issue();
    auto request = echo_.Echo();
    request->setValue(value);
    request.Send().Then([this, value, stamp_ns](auto response) {
      if (!response.ok()) {
        failure_.Update(response.status());
      } else if (response->getValue() != value) {
        failure_.Update(absl::DataLossError(absl::StrCat("wrong answer to call ", value)));
      } else if (recorder_.Complete(stamp_ns) && failure_.ok()) {
        SendOne();
        return;
      }
      if (--in_flight_ == 0) all_answered_.Notify();
    });
  }

  EchoStub echo_;
  Recorder& recorder_;
  int in_flight_ = 0;
  uint64_t value_ = 0;
  absl::Status failure_;
  absl::Notification all_answered_;
};

class Mi7 final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    ServerOptions options;
    options.wait = PolicyFor(workload.waiting);
    options.event_loops = 1;
    EchoImpl echo;
    absl::StatusOr<std::unique_ptr<Server>> server =
        ServerBuilder().SetOptions(options).AddService(&echo).Listen(EndpointFor(workload)).Start();
    if (!server.ok()) return server.status();
    ready((*server)->endpoints()[0]);
    absl::Notification never;
    never.WaitForNotification();
    return absl::OkStatus();
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    const bool pipelined = workload.outstanding > 1;
    ChannelOptions options;
    options.wait = PolicyFor(workload.waiting);
    // Only who carries the calls may spin without end; with one outstanding that is this thread.
    const bool loop_may_spin = pipelined || workload.waiting != Waiting::kSpinning;
    absl::StatusOr<std::unique_ptr<transport::EventLoop>> loop = transport::EventLoop::Create(
        {.name = "bench", .wait = loop_may_spin ? options.wait : transport::WaitPolicy::kAdaptive});
    if (!loop.ok()) return loop.status();
    options.event_loop = loop->get();
    absl::StatusOr<std::shared_ptr<Channel>> channel = Channel::Create(address, options);
    if (!channel.ok()) return channel.status();
    absl::Status status = (*channel)->Connect(Deadline::After(absl::Seconds(10)));
    if (status.ok()) {
      status = pipelined ? Pipeline(*channel, recorder).Run(**loop, workload.outstanding)
               : workload.payload_bytes != 0 ? SendPayloads(*channel, workload, recorder)
                                             : CallOneByOne(*channel, recorder);
    }
    (*channel)->Close();
    return status;
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
  static absl::Status CallOneByOne(const std::shared_ptr<Channel>& channel, Recorder& recorder) {
    EchoStub echo(channel);
    uint64_t value = 0;
    recorder.Begin();
    do {
      auto request = echo.Echo();
      request->setValue(++value);
      const auto response = request.Send().Wait();
      if (!response.ok()) return response.status();
      if (response->getValue() != value) {
        return absl::DataLossError(absl::StrCat("wrong answer to call ", value));
      }
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  static absl::Status SendPayloads(const std::shared_ptr<Channel>& channel,
                                   const Workload& workload, Recorder& recorder) {
    EchoStub echo(channel);
    uint64_t value = 0;
    const size_t words = workload.payload_bytes / sizeof(uint64_t);
    recorder.Begin();
    do {
      auto request = echo.Load();
      request->setRead(workload.payload_touched);
      if (!workload.payload_touched) {
        request->initData(static_cast<capnp::uint>(workload.payload_bytes));
        recorder.Restart();
      } else {
        capnp::Data::Builder data =
            request->initData(static_cast<capnp::uint>(workload.payload_bytes));
        FillPayload({reinterpret_cast<uint64_t*>(data.begin()), words}, ++value);
      }
      const auto response = request.Send().Wait();
      if (!response.ok()) return response.status();
      if (response->getSum() != (workload.payload_touched ? value * words : 0)) {
        return absl::DataLossError(absl::StrCat("wrong answer to payload ", value));
      }
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  std::vector<std::shared_ptr<Channel>> idle_;
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::Mi7 subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
