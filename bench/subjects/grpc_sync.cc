// Subject "grpc_sync": gRPC C++ with its synchronous API on both sides, one call outstanding a
// thread; several threads share a channel. A stream: client streaming, ClientWriter and
// ServerReader.

#include <memory>
#include <optional>
#include <string>

#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/grpc_peer.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

class Service final : public grpc_peer::EchoPeer::Service {
 public:
  grpc::Status Reflect(grpc::ServerContext*, const grpc_peer::Payload* request,
                       grpc_peer::Payload* response) override {
    response->set_data(request->data());
    return grpc::Status::OK;
  }

  grpc::Status Upload(grpc::ServerContext*, grpc::ServerReader<grpc_peer::Payload>* reader,
                      grpc_peer::Tally* response) override {
    StreamTally tally;
    grpc_peer::Payload message;
    while (reader->Read(&message)) tally.Add(message.data());
    Tell(tally, response);
    return grpc::Status::OK;
  }
};

// A call for each portion of a stream.
absl::Status Upload(grpc_peer::EchoPeer::Stub& stub, const Workload& workload, Recorder& recorder) {
  std::optional<grpc::ClientContext> context;  // of one call only
  std::unique_ptr<grpc::ClientWriter<grpc_peer::Payload>> writer;
  grpc_peer::Payload message;
  grpc_peer::Tally tally;
  return SendStream(
      workload, recorder,
      [&](const std::string& bytes) {
        if (writer == nullptr) {
          context.emplace();
          writer = stub.Upload(&*context, &tally);
        }
        message.set_data(bytes);
        return writer->Write(message) ? absl::OkStatus()
                                      : absl::UnavailableError("gRPC: the stream is broken");
      },
      [&]() -> absl::StatusOr<StreamTally> {
        writer->WritesDone();
        const grpc::Status status = writer->Finish();
        writer.reset();
        if (!status.ok()) return FromGrpc(status);
        return FromMessage(tally);
      });
}

class GrpcSync final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    Service service;
    std::string address;
    const auto server = StartGrpcServer(workload, &service, &address);
    if (!server.ok()) return server.status();
    ready(address);
    (*server)->Wait();
    return absl::OkStatus();
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (absl::Status good = CheckPeerWorkload(workload); !good.ok()) return good;
    if (workload.outstanding != 1) {
      return absl::InvalidArgumentError("the synchronous API has one call outstanding a thread");
    }
    const auto stub = ConnectGrpc(address);
    if (workload.call == Call::kStream) return Upload(*stub, workload, recorder);
    return Echo(*stub, workload, recorder);
  }

  absl::Status MakeCallsInThreads(const std::string& address, const Workload& workload,
                                  std::span<const std::unique_ptr<Recorder>> recorders) override {
    if (absl::Status good = CheckPeerWorkload(workload); !good.ok()) return good;
    const auto stub = ConnectGrpc(address);
    return InThreads(recorders,
                     [&](Recorder& recorder) { return Echo(*stub, workload, recorder); });
  }

 private:
  // One call after the other.
  static absl::Status Echo(grpc_peer::EchoPeer::Stub& stub, const Workload& workload,
                           Recorder& recorder) {
    EchoBytes bytes(workload);
    grpc_peer::Payload request;
    grpc_peer::Payload response;
    recorder.Begin();
    do {
      request.set_data(bytes.Next());
      grpc::ClientContext context;
      absl::Status status = FromGrpc(stub.Reflect(&context, request, &response));
      if (status.ok()) status = bytes.Check(response.data(), bytes.value());
      if (!status.ok()) return status;
    } while (recorder.Continue());
    return absl::OkStatus();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::GrpcSync subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
