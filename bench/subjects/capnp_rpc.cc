// Subject "capnp_rpc": Cap'n Proto RPC over its two-party network, used as its documentation does
// and at its best reasonable settings: size hints on both messages (without them each allocates and
// zeroes 8 KiB), no traversal limit on large ones, one capability for all calls, TCP_NODELAY (which
// its sockets have by themselves). One outstanding: the client waits for each promise. Many: each
// answer sends the next call from its continuation. A stream is calls of a `-> stream` method, each
// made when the one before lets it. It has no spinning mode; blocking is what it does.

#include <cstring>
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
#include "bench/subjects/socket_path.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

// One word of data and the root pointer.
constexpr capnp::MessageSize kEchoSize = {.wordCount = 4, .capCount = 0};

// The same for bytes.
capnp::MessageSize ReflectSize(size_t bytes) {
  return {.wordCount = 4 + (bytes + sizeof(capnp::word) - 1) / sizeof(capnp::word), .capCount = 0};
}

// Both sides trust each other to send what the bench sends.
capnp::ReaderOptions NoLimits() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = UINT64_MAX;
  return options;
}

// Destructors of Cap'n Proto's interfaces are not virtual.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"
class EchoServer final : public Echo::Server {
 public:
  kj::Promise<void> echo(EchoContext context) override {
    const uint64_t value = context.getParams().getValue();
    context.getResults(kEchoSize).setValue(value);
    return kj::READY_NOW;
  }
  kj::Promise<void> reflect(ReflectContext context) override {
    const capnp::Data::Reader data = context.getParams().getData();
    context.getResults(ReflectSize(data.size())).setData(data);
    return kj::READY_NOW;
  }
};

class SinkServer final : public Sink::Server {
 public:
  kj::Promise<void> pour(PourContext context) override {
    const capnp::Data::Reader data = context.getParams().getData();
    tally_.Add({reinterpret_cast<const char*>(data.begin()), data.size()});
    return kj::READY_NOW;
  }
  kj::Promise<void> drain(DrainContext context) override {
    const StreamTally tally = std::exchange(tally_, {});
    auto results = context.getResults();
    results.setMessages(tally.messages);
    results.setDigest(tally.digest);
    return kj::READY_NOW;
  }

 private:
  StreamTally tally_;
};

// What goes wrong on a connection ends that one only; the client tells of it.
class Failures final : public kj::TaskSet::ErrorHandler {
 public:
  void taskFailed(kj::Exception&&) override {}
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
        network_(*stream_, capnp::rpc::twoparty::Side::CLIENT, NoLimits()),
        system_(capnp::makeRpcClient(network_)) {}

  capnp::Capability::Client Bootstrap() {
    capnp::MallocMessageBuilder message(4);
    auto vat = message.initRoot<capnp::rpc::twoparty::VatId>();
    vat.setSide(capnp::rpc::twoparty::Side::SERVER);
    return system_.bootstrap(vat);
  }

 private:
  kj::Own<kj::AsyncIoStream> stream_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system_;
};

// Makes the calls that a workload asks for, and checks their answers.
class Caller {
 public:
  Caller(Echo::Client& echo, const Workload& workload, Recorder& recorder)
      : echo_(echo), recorder_(recorder), bytes_(workload.payload_bytes, 1) {
    if (workload.call == Call::kNumber) bytes_.clear();
  }

  // One call; the answer has been checked when the promise is fulfilled.
  kj::Promise<void> CallOnce() {
    const uint64_t value = ++value_;
    if (bytes_.empty()) {
      auto request = echo_.echoRequest(kEchoSize);
      request.setValue(value);
      return request.send().then([value](capnp::Response<Echo::EchoResults>&& response) {
        KJ_REQUIRE(response.getValue() == value, "wrong answer");
      });
    }
    auto request = echo_.reflectRequest(ReflectSize(bytes_.size()));
    std::memcpy(bytes_.data(), &value, sizeof(value));
    request.setData({bytes_.data(), bytes_.size()});
    return request.send().then(
        [value, size = bytes_.size()](capnp::Response<Echo::ReflectResults>&& response) {
          const capnp::Data::Reader data = response.getData();
          KJ_REQUIRE(data.size() == size && std::memcmp(data.begin(), &value, sizeof(value)) == 0,
                     "wrong answer");
        });
  }

  // A call that is followed by another until the recorder has enough.
  kj::Promise<void> CallAndGoOn() {
    const int64_t stamp_ns = recorder_.Issue();
    return CallOnce().then([this, stamp_ns]() -> kj::Promise<void> {
      if (!recorder_.Complete(stamp_ns)) return kj::READY_NOW;
      return CallAndGoOn();
    });
  }

 private:
  Echo::Client& echo_;
  Recorder& recorder_;
  std::vector<uint8_t> bytes_;
  uint64_t value_ = 0;
};

// Calls that nobody answers; one that asks for the tally comes behind them.
absl::Status Pour(Sink::Client sink, const Workload& workload, Recorder& recorder,
                  kj::WaitScope& wait_scope) {
  return SendStream(
      workload, recorder,
      [&](const std::string& bytes) {
        auto request = sink.pourRequest(ReflectSize(bytes.size()));
        request.setData({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
        request.send().wait(wait_scope);
        return absl::OkStatus();
      },
      [&]() -> absl::StatusOr<StreamTally> {
        const auto response = sink.drainRequest().send().wait(wait_scope);
        return StreamTally{.messages = response.getMessages(), .digest = response.getDigest()};
      });
}

// kj's "HOST:PORT" out of "tcp:HOST:PORT"; "unix:/path" is kj's, too.
std::string KjAddress(const std::string& address) {
  return address.rfind("tcp:", 0) == 0 ? address.substr(4) : address;
}

class CapnpRpc final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    return Guard([&]() -> absl::Status {
      const bool is_unix = workload.transport == "unix";
      const std::string where = is_unix ? absl::StrCat("unix:", SocketPath()) : "127.0.0.1";
      kj::AsyncIoContext io = kj::setupAsyncIo();
      auto address = io.provider->getNetwork().parseAddress(where).wait(io.waitScope);
      auto listener = address->listen();
      capnp::Capability::Client service = nullptr;
      if (workload.call == Call::kStream) {
        service = kj::heap<SinkServer>();
      } else {
        service = kj::heap<EchoServer>();
      }
      // Not TwoPartyServer, which knows no reader options.
      ready(is_unix ? where : absl::StrCat("tcp:127.0.0.1:", listener->getPort()));
      kj::TaskSet tasks(failures_);
      for (;;) {
        tasks.add(ServeConnection(listener->accept().wait(io.waitScope), service));
      }
    });
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (workload.waiting == Waiting::kSpinning ||
        (workload.call != Call::kNumber && workload.call != Call::kEcho &&
         workload.call != Call::kStream)) {
      return absl::InvalidArgumentError("Cap'n Proto RPC neither spins nor takes such calls");
    }
    return Guard([&]() -> absl::Status {
      kj::AsyncIoContext io = kj::setupAsyncIo();
      Connection connection(io, KjAddress(address));
      if (workload.call == Call::kStream) {
        return Pour(connection.Bootstrap().castAs<Sink>(), workload, recorder, io.waitScope);
      }
      Echo::Client echo = connection.Bootstrap().castAs<Echo>();
      Caller caller(echo, workload, recorder);
      recorder.Begin();
      if (workload.outstanding > 1) {
        const auto count = static_cast<size_t>(workload.outstanding);
        auto promises = kj::heapArrayBuilder<kj::Promise<void>>(count);
        for (size_t i = 0; i < count; ++i) promises.add(caller.CallAndGoOn());
        kj::joinPromises(promises.finish()).wait(io.waitScope);
        return absl::OkStatus();
      }
      do {
        caller.CallOnce().wait(io.waitScope);
      } while (recorder.Continue());
      return absl::OkStatus();
    });
  }

  absl::Status OpenIdleConnections(const std::string& address, int count) override {
    return Guard([&]() -> absl::Status {
      if (!idle_io_) idle_io_ = std::make_unique<kj::AsyncIoContext>(kj::setupAsyncIo());
      for (int i = 0; i < count; ++i) {
        idle_.push_back(std::make_unique<Connection>(*idle_io_, KjAddress(address)));
        auto request = idle_.back()->Bootstrap().castAs<Echo>().echoRequest(kEchoSize);
        request.send().wait(idle_io_->waitScope);
      }
      return absl::OkStatus();
    });
  }

 private:
  // All that one client has, until it disconnects.
  static kj::Promise<void> ServeConnection(kj::Own<kj::AsyncIoStream> stream,
                                           capnp::Capability::Client service) {
    auto network = kj::heap<capnp::TwoPartyVatNetwork>(*stream, capnp::rpc::twoparty::Side::SERVER,
                                                       NoLimits());
    auto system = kj::heap(capnp::makeRpcServer(*network, kj::mv(service)));
    auto ended = network->onDisconnect();
    return ended.attach(kj::mv(system), kj::mv(network), kj::mv(stream));
  }

  // kj's errors are exceptions; none leaves this file.
  template <typename Body>
  static absl::Status Guard(Body body) {
    try {
      return body();
    } catch (const kj::Exception& e) {
      return absl::UnavailableError(absl::StrCat("Cap'n Proto: ", e.getDescription().cStr()));
    }
  }

  Failures failures_;
  std::unique_ptr<kj::AsyncIoContext> idle_io_;
  std::vector<std::unique_ptr<Connection>> idle_;
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::CapnpRpc subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
