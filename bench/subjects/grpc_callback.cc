// Subject "grpc_callback": gRPC C++ with its callback API on both sides. Each answer's callback
// sends the next call; callbacks come from several threads.

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/grpc_peer.h"

namespace mi7::bench {
namespace {

class Service final : public grpc_peer::EchoPeer::CallbackService {
 public:
  grpc::ServerUnaryReactor* Reflect(grpc::CallbackServerContext* context,
                                    const grpc_peer::Payload* request,
                                    grpc_peer::Payload* response) override {
    response->set_data(request->data());
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// Keeps a number of calls in flight until the recorder has enough.
class Pipeline {
 public:
  Pipeline(grpc_peer::EchoPeer::Stub& stub, const Workload& workload, Recorder& recorder)
      : stub_(stub),
        alone_(workload.outstanding == 1),
        recorder_(recorder),
        bytes_(workload),
        calls_(static_cast<size_t>(workload.outstanding)),
        in_flight_(workload.outstanding) {}

  absl::Status Run() {
    {
      absl::MutexLock lock(&mutex_);
      recorder_.Begin();
    }
    for (CallState& call : calls_) {
      {
        absl::MutexLock lock(&mutex_);
        Prepare(call);
      }
      Send(call);
    }
    all_answered_.WaitForNotification();
    absl::MutexLock lock(&mutex_);
    return failure_;
  }

 private:
  struct CallState {
    std::optional<grpc::ClientContext> context;  // of one call only
    grpc_peer::Payload request;
    grpc_peer::Payload response;
    uint64_t value = 0;
    int64_t stamp_ns = 0;
  };

  void Prepare(CallState& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    call.request.set_data(bytes_.Next());
    call.value = bytes_.value();
    call.context.emplace();
    if (!alone_) call.stamp_ns = recorder_.Issue();
  }

  void Send(CallState& call) {
    stub_.async()->Reflect(&*call.context, &call.request, &call.response,
                           [this, &call](const grpc::Status& status) { Answered(call, status); });
  }

  void Answered(CallState& call, const grpc::Status& status) {
    bool go_on = false;
    {
      absl::MutexLock lock(&mutex_);
      failure_.Update(FromGrpc(status));
      if (failure_.ok()) failure_.Update(bytes_.Check(call.response.data(), call.value));
      go_on = alone_ ? recorder_.Continue() : recorder_.Complete(call.stamp_ns);
      go_on = go_on && failure_.ok();
      if (go_on) Prepare(call);
      if (!go_on && --in_flight_ == 0) all_answered_.Notify();
    }
    if (go_on) Send(call);
  }

  grpc_peer::EchoPeer::Stub& stub_;
  const bool alone_;
  absl::Mutex mutex_;
  Recorder& recorder_ ABSL_GUARDED_BY(mutex_);
  EchoBytes bytes_ ABSL_GUARDED_BY(mutex_);
  std::deque<CallState> calls_;
  int in_flight_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Notification all_answered_;
};

class GrpcCallback final : public Subject {
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
    const auto stub = ConnectGrpc(address);
    return Pipeline(*stub, workload, recorder).Run();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::GrpcCallback subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
