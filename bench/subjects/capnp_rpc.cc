// Subject "capnp_rpc": Cap'n Proto RPC over its two-party network, used as its documentation does
// and at its best reasonable settings: size hints on both messages (without them each allocates and
// zeroes 8 KiB), one capability for all calls, TCP_NODELAY (which its sockets have by themselves).
// One outstanding: the client waits for each promise. Many: each answer sends the next call from
// its continuation. It has no spinning mode; blocking is what it does.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <capnp/message.h>
#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo.capnp.h"

namespace mi7::bench {
namespace {

// One word of data and the root pointer.
constexpr capnp::MessageSize kEchoSize = {.wordCount = 4, .capCount = 0};

// What capnpc-c++ generates for a server has a destructor that is not virtual.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"
class EchoServer final : public Echo::Server {
 public:
  kj::Promise<void> echo(EchoContext context) override {
    const uint64_t value = context.getParams().getValue();
    context.getResults(kEchoSize).setValue(value);
    return kj::READY_NOW;
  }
};
#pragma GCC diagnostic pop

// A connection and the service at its other end.
class Connection {
 public:
  Connection(kj::AsyncIoContext& io, const std::string& address)
      : stream_(io.provider->getNetwork()
                    .parseAddress(address)
                    .wait(io.waitScope)
                    ->connect()
                    .wait(io.waitScope)),
        network_(*stream_, capnp::rpc::twoparty::Side::CLIENT),
        system_(capnp::makeRpcClient(network_)) {}

  Echo::Client Bootstrap() {
    capnp::MallocMessageBuilder message(4);
    auto vat = message.initRoot<capnp::rpc::twoparty::VatId>();
    vat.setSide(capnp::rpc::twoparty::Side::SERVER);
    return system_.bootstrap(vat).castAs<Echo>();
  }

 private:
  kj::Own<kj::AsyncIoStream> stream_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system_;
};

// One of the calls in flight, which follows itself until the recorder has enough.
class Pipeline {
 public:
  Pipeline(Echo::Client& echo, Recorder& recorder) : echo_(echo), recorder_(recorder) {}

  kj::Promise<void> Run() {
    auto request = echo_.echoRequest(kEchoSize);
    const uint64_t value = ++value_;
    const int64_t stamp_ns = recorder_.Issue();
    request.setValue(value);
    return request.send().then(
        [this, value, stamp_ns](capnp::Response<Echo::EchoResults>&& response) {
          KJ_REQUIRE(response.getValue() == value, "wrong answer");
          if (!recorder_.Complete(stamp_ns)) return kj::Promise<void>(kj::READY_NOW);
          return Run();
        });
  }

 private:
  Echo::Client& echo_;
  Recorder& recorder_;
  uint64_t value_ = 0;
};

// kj's "HOST:PORT" out of "tcp:HOST:PORT".
std::string KjAddress(const std::string& address) {
  return address.rfind("tcp:", 0) == 0 ? address.substr(4) : address;
}

class CapnpRpc final : public Subject {
 public:
  absl::Status Serve(const Workload&,
                     const std::function<void(const std::string&)>& ready) override {
    return Guard([&] {
      kj::AsyncIoContext io = kj::setupAsyncIo();
      auto address = io.provider->getNetwork().parseAddress("127.0.0.1").wait(io.waitScope);
      auto listener = address->listen();
      capnp::TwoPartyServer server(kj::heap<EchoServer>());
      auto serving = server.listen(*listener);
      ready(absl::StrCat("tcp:127.0.0.1:", listener->getPort()));
      serving.wait(io.waitScope);
    });
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (workload.waiting == Waiting::kSpinning) {
      return absl::InvalidArgumentError("Cap'n Proto RPC cannot spin");
    }
    return Guard([&] {
      kj::AsyncIoContext io = kj::setupAsyncIo();
      Connection connection(io, KjAddress(address));
      Echo::Client echo = connection.Bootstrap();
      recorder.Begin();
      if (workload.outstanding > 1) {
        const auto count = static_cast<size_t>(workload.outstanding);
        auto pipelines = kj::heapArrayBuilder<Pipeline>(count);
        auto promises = kj::heapArrayBuilder<kj::Promise<void>>(count);
        for (size_t i = 0; i < count; ++i) {
          promises.add(pipelines.add(echo, recorder).Run());
        }
        kj::joinPromises(promises.finish()).wait(io.waitScope);
        return;
      }
      uint64_t value = 0;
      do {
        auto request = echo.echoRequest(kEchoSize);
        request.setValue(++value);
        KJ_REQUIRE(request.send().wait(io.waitScope).getValue() == value, "wrong answer");
      } while (recorder.Continue());
    });
  }

  absl::Status OpenIdleConnections(const std::string& address, int count) override {
    return Guard([&] {
      if (!idle_io_) idle_io_ = std::make_unique<kj::AsyncIoContext>(kj::setupAsyncIo());
      for (int i = 0; i < count; ++i) {
        idle_.push_back(std::make_unique<Connection>(*idle_io_, KjAddress(address)));
        auto request = idle_.back()->Bootstrap().echoRequest(kEchoSize);
        request.send().wait(idle_io_->waitScope);
      }
    });
  }

 private:
  // kj's errors are exceptions; none leaves this file.
  template <typename Body>
  static absl::Status Guard(Body body) {
    try {
      body();
      return absl::OkStatus();
    } catch (const kj::Exception& e) {
      return absl::UnavailableError(absl::StrCat("Cap'n Proto: ", e.getDescription().cStr()));
    }
  }

  std::unique_ptr<kj::AsyncIoContext> idle_io_;
  std::vector<std::unique_ptr<Connection>> idle_;
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::CapnpRpc subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
