#pragma once

// What the two gRPC subjects have in common: how they listen and connect. Default settings, but for
// messages of any size, and a channel of its own for each client. TCP_NODELAY is gRPC's default.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/workload.h"
#include "bench/subjects/socket_path.h"
#include "bench/subjects/stream_tally.h"

// What gRPC generates hides virtual functions of its own.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverloaded-virtual"
#include "bench/subjects/echo_peer.grpc.pb.h"
#pragma GCC diagnostic pop

namespace mi7::bench {

// Serves `service`; `address` is where.
inline absl::StatusOr<std::unique_ptr<grpc::Server>> StartGrpcServer(const Workload& workload,
                                                                     grpc::Service* service,
                                                                     std::string* address) {
  const bool is_unix = workload.transport == "unix";
  *address = is_unix ? absl::StrCat("unix:", SocketPath()) : "127.0.0.1:0";
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(*address, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::UnavailableError("the gRPC server does not start");
  if (!is_unix) *address = absl::StrCat("127.0.0.1:", port);
  return server;
}

inline std::unique_ptr<grpc_peer::EchoPeer::Stub> ConnectGrpc(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc_peer::EchoPeer::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("gRPC: ", status.error_message()));
}

inline void Tell(const StreamTally& tally, grpc_peer::Tally* message) {
  message->set_messages(tally.messages);
  message->set_digest(tally.digest);
}

inline StreamTally FromMessage(const grpc_peer::Tally& message) {
  return {.messages = message.messages(), .digest = message.digest()};
}

}  // namespace mi7::bench
