// Subject "thrift": Apache Thrift's generated client and processor, compiled as templates over the
// binary protocol and buffered transports, its fastest; a thread for each connection at the server.
// Many outstanding: the client uses the two halves of its generated call, send_ and recv_, so that
// one thread has many calls in flight; answers come in order. A stream is oneway calls. TCP_NODELAY
// is Thrift's default.

#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/server/TThreadedServer.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TServerSocket.h>
#include <thrift/transport/TSocket.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/EchoPeer.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/socket_path.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

namespace thrift = apache::thrift;
using Buffered = thrift::transport::TBufferedTransport;
using Protocol = thrift::protocol::TBinaryProtocolT<Buffered>;
using Client = thrift_peer::EchoPeerClientT<Protocol>;

// For one connection that pours at a time.
class Handler final : public thrift_peer::EchoPeerIf {
 public:
  void reflect(std::string& result, const std::string& data) override { result = data; }
  void pour(const std::string& data) override { tally_.Add(data); }
  void drain(thrift_peer::Tally& result) override {
    const StreamTally tally = std::exchange(tally_, {});
    result.messages = static_cast<int64_t>(tally.messages);
    result.digest = static_cast<int64_t>(tally.digest);
  }

 private:
  StreamTally tally_;
};

// Tells that the server listens.
class Ready final : public thrift::server::TServerEventHandler {
 public:
  explicit Ready(std::function<void()> ready) : ready_(std::move(ready)) {}
  void preServe() override { ready_(); }

 private:
  const std::function<void()> ready_;
};

class Thrift final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    return Guard([&] {
      const bool is_unix = workload.transport == "unix";
      const auto socket = is_unix
                              ? std::make_shared<thrift::transport::TServerSocket>(SocketPath())
                              : std::make_shared<thrift::transport::TServerSocket>("127.0.0.1", 0);
      thrift::server::TThreadedServer server(
          std::make_shared<thrift_peer::EchoPeerProcessorT<Protocol>>(std::make_shared<Handler>()),
          socket, std::make_shared<thrift::transport::TBufferedTransportFactory>(),
          std::make_shared<thrift::protocol::TBinaryProtocolFactoryT<Buffered>>());
      server.setServerEventHandler(std::make_shared<Ready>([&] {
        ready(is_unix ? absl::StrCat("unix:", SocketPath())
                      : absl::StrCat("tcp:", socket->getPort()));
      }));
      server.serve();
      return absl::OkStatus();
    });
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (absl::Status good = CheckPeerWorkload(workload); !good.ok()) return good;
    return Guard([&] {
      const auto socket = Connect(address);
      Client client(std::make_shared<Protocol>(std::make_shared<Buffered>(socket)));
      socket->open();
      if (workload.call == Call::kStream) return Pour(client, workload, recorder);
      return workload.outstanding == 1 ? CallOneByOne(client, workload, recorder)
                                       : CallPipelined(client, workload, recorder);
    });
  }

 private:
  static std::shared_ptr<thrift::transport::TSocket> Connect(const std::string& address) {
    int port = 0;
    if (absl::SimpleAtoi(address.substr(address.find(':') + 1), &port)) {
      return std::make_shared<thrift::transport::TSocket>("127.0.0.1", port);
    }
    return std::make_shared<thrift::transport::TSocket>(address.substr(address.find(':') + 1));
  }

  static absl::Status Pour(Client& client, const Workload& workload, Recorder& recorder) {
    return SendStream(
        workload, recorder,
        [&](const std::string& bytes) {
          client.pour(bytes);
          return absl::OkStatus();
        },
        [&]() -> absl::StatusOr<StreamTally> {
          thrift_peer::Tally tally;
          client.drain(tally);
          return StreamTally{.messages = static_cast<uint64_t>(tally.messages),
                             .digest = static_cast<uint64_t>(tally.digest)};
        });
  }

  static absl::Status CallOneByOne(Client& client, const Workload& workload, Recorder& recorder) {
    EchoBytes bytes(workload);
    std::string answer;
    recorder.Begin();
    do {
      client.reflect(answer, bytes.Next());
      if (absl::Status right = bytes.Check(answer, bytes.value()); !right.ok()) return right;
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  static absl::Status CallPipelined(Client& client, const Workload& workload, Recorder& recorder) {
    EchoBytes bytes(workload);
    const auto outstanding = static_cast<size_t>(workload.outstanding);
    std::vector<int64_t> stamps(outstanding);
    std::string answer;
    uint64_t answered = 0;
    const auto send_one = [&] {
      const std::string& data = bytes.Next();
      stamps[bytes.value() % outstanding] = recorder.Issue();
      client.send_reflect(data);
    };
    recorder.Begin();
    for (size_t i = 0; i < outstanding; ++i) send_one();
    while (answered != bytes.value()) {
      client.recv_reflect(answer);
      if (absl::Status right = bytes.Check(answer, ++answered); !right.ok()) return right;
      if (recorder.Complete(stamps[answered % outstanding])) send_one();
    }
    return absl::OkStatus();
  }

  // Thrift's errors are exceptions; none leaves this file.
  template <typename Body>
  static absl::Status Guard(Body body) {
    try {
      return body();
    } catch (const thrift::TException& e) {
      return absl::UnavailableError(absl::StrCat("Thrift: ", e.what()));
    }
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::Thrift subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
