// Subject "grpc_sync": gRPC C++ with its synchronous API on both sides, one call outstanding.

#include <memory>
#include <string>

#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/grpc_peer.h"

namespace mi7::bench {
namespace {

class Service final : public grpc_peer::EchoPeer::Service {
 public:
  grpc::Status Reflect(grpc::ServerContext*, const grpc_peer::Payload* request,
                       grpc_peer::Payload* response) override {
    response->set_data(request->data());
    return grpc::Status::OK;
  }
};

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
    EchoBytes bytes(workload);
    grpc_peer::Payload request;
    grpc_peer::Payload response;
    recorder.Begin();
    do {
      request.set_data(bytes.Next());
      grpc::ClientContext context;
      absl::Status status = FromGrpc(stub->Reflect(&context, request, &response));
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
