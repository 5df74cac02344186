// Subject "grpc_callback": gRPC C++ with its callback API on both sides. Each answer's callback
// sends the next call; callbacks come from several threads. A stream: client streaming, where each
// written message's callback writes the next one.

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/grpc_peer.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

// Takes one stream.
class UploadReader final : public grpc::ServerReadReactor<grpc_peer::Payload> {
 public:
  explicit UploadReader(grpc_peer::Tally* response) : response_(response) { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      tally_.Add(message_.data());
      StartRead(&message_);
    } else {
      Tell(tally_, response_);
      Finish(grpc::Status::OK);
    }
  }
  void OnDone() override { delete this; }

 private:
  grpc_peer::Tally* const response_;
  grpc_peer::Payload message_;
  StreamTally tally_;
};

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

  grpc::ServerReadReactor<grpc_peer::Payload>* Upload(grpc::CallbackServerContext*,
                                                      grpc_peer::Tally* response) override {
    return new UploadReader(response);
  }
};

// Sends one portion of a stream, as a call of its own. Its callbacks never overlap.
class UploadWriter final : public grpc::ClientWriteReactor<grpc_peer::Payload> {
 public:
  UploadWriter(EchoBytes& bytes, Recorder& recorder) : bytes_(bytes), recorder_(recorder) {}

  // Blocks until the sink has confirmed the portion.
  absl::Status Run(grpc_peer::EchoPeer::Stub& stub) {
    stub.async()->Upload(&context_, &arrived_, this);
    WriteNext();
    StartCall();
    done_.WaitForNotification();
    if (!status_.ok()) return FromGrpc(status_);
    return CheckTally(FromMessage(arrived_), tally_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return;  // OnDone says why
    if (recorder_.Sent(stamp_ns_)) {
      WriteNext();
    } else {
      StartWritesDone();
    }
  }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    done_.Notify();
  }

 private:
  void WriteNext() {
    stamp_ns_ = recorder_.Issue();
    const std::string& bytes = bytes_.Next();
    tally_.Add(bytes);
    message_.set_data(bytes);
    StartWrite(&message_);
  }

  EchoBytes& bytes_;
  Recorder& recorder_;
  grpc::ClientContext context_;
  grpc_peer::Payload message_;
  grpc_peer::Tally arrived_;
  StreamTally tally_;
  int64_t stamp_ns_ = 0;
  grpc::Status status_;
  absl::Notification done_;
};

absl::Status Upload(grpc_peer::EchoPeer::Stub& stub, const Workload& workload, Recorder& recorder) {
  EchoBytes bytes(workload);
  recorder.Begin();
  do {
    UploadWriter writer(bytes, recorder);
    if (absl::Status written = writer.Run(stub); !written.ok()) return written;
  } while (recorder.Confirm());
  return absl::OkStatus();
}

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
    if (workload.call == Call::kStream) return Upload(*stub, workload, recorder);
    return Pipeline(*stub, workload, recorder).Run();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::GrpcCallback subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
