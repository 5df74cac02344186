// Subject "nng": nng's REQ and REP protocols. One outstanding: one socket, which sends and
// receives. Many: a context for each call in flight at either end, driven by callbacks of
// asynchronous I/O, as its documentation does it. The server sends back the very message that it
// received, which copies nothing. Messages of any size; TCP_NODELAY is its default. A stream: PUSH
// and PULL, with as many messages in either queue as are about 16 MiB (at most 1,000); an empty
// message asks for the tally, which comes by another such pair.

#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/socket_path.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

absl::Status FromNng(int error) {
  if (error == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("nng: ", nng_strerror(error)));
}

std::string_view BytesOf(nng_msg* message) {
  return {static_cast<const char*>(nng_msg_body(message)), nng_msg_len(message)};
}

absl::StatusOr<nng_msg*> NewMessage(std::string_view bytes) {
  nng_msg* message = nullptr;
  if (const int error = nng_msg_alloc(&message, bytes.size()); error != 0) return FromNng(error);
  std::memcpy(nng_msg_body(message), bytes.data(), bytes.size());
  return message;
}

// Answers one call after the other, for ever.
class Answerer {
 public:
  absl::Status Start(nng_socket socket) {
    int error = nng_ctx_open(&context_, socket);
    if (error == 0) error = nng_aio_alloc(&io_, &Answerer::Step, this);
    if (error == 0) nng_ctx_recv(context_, io_);
    return FromNng(error);
  }

 private:
  static void Step(void* self) { static_cast<Answerer*>(self)->Step(); }
  // After a receive, sends that message; after a send, receives. A client that goes away fails
  // either.
  void Step() {
    const bool done = nng_aio_result(io_) == 0;
    const bool received = receiving_ && done;
    if (!receiving_ && !done) nng_msg_free(nng_aio_get_msg(io_));  // a send that fails keeps it
    receiving_ = !received;
    if (received) {
      nng_ctx_send(context_, io_);  // the message is still in io_
    } else {
      nng_ctx_recv(context_, io_);
    }
  }

  nng_ctx context_ = {};
  nng_aio* io_ = nullptr;
  bool receiving_ = true;
};

// Keeps a number of calls in flight until the recorder has enough. Steps come from several threads.
class Pipeline {
 public:
  Pipeline(const Workload& workload, Recorder& recorder)
      : recorder_(recorder),
        bytes_(workload),
        calls_(static_cast<size_t>(workload.outstanding)),
        in_flight_(workload.outstanding) {}

  absl::Status Run(nng_socket socket) {
    {
      absl::MutexLock lock(&mutex_);
      recorder_.Begin();
    }
    for (CallState& call : calls_) {
      call.pipeline = this;
      int error = nng_ctx_open(&call.context, socket);
      if (error == 0) error = nng_aio_alloc(&call.io, &Pipeline::Step, &call);
      if (error != 0) return FromNng(error);
      absl::MutexLock lock(&mutex_);
      SendNext(call);
    }
    all_answered_.WaitForNotification();
    absl::MutexLock lock(&mutex_);
    return failure_;
  }

 private:
  struct CallState {
    Pipeline* pipeline = nullptr;
    nng_ctx context = {};
    nng_aio* io = nullptr;
    bool sending = false;
    uint64_t value = 0;
    int64_t stamp_ns = 0;
  };

  static void Step(void* call) {
    auto& state = *static_cast<CallState*>(call);
    state.pipeline->Step(state);
  }

  void Step(CallState& call) {
    absl::MutexLock lock(&mutex_);
    failure_.Update(FromNng(nng_aio_result(call.io)));
    if (failure_.ok() && call.sending) {
      call.sending = false;
      nng_ctx_recv(call.context, call.io);
      return;
    }
    if (failure_.ok()) {
      nng_msg* const answer = nng_aio_get_msg(call.io);
      failure_.Update(bytes_.Check(BytesOf(answer), call.value));
      nng_msg_free(answer);
    }
    if (recorder_.Complete(call.stamp_ns) && failure_.ok()) {
      SendNext(call);
    } else if (--in_flight_ == 0) {
      all_answered_.Notify();
    }
  }

  void SendNext(CallState& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::StatusOr<nng_msg*> message = NewMessage(bytes_.Next());
    call.value = bytes_.value();
    call.stamp_ns = recorder_.Issue();
    call.sending = true;
    nng_aio_set_msg(call.io, message.value());
    nng_ctx_send(call.context, call.io);
  }

  absl::Mutex mutex_;
  Recorder& recorder_ ABSL_GUARDED_BY(mutex_);
  EchoBytes bytes_ ABSL_GUARDED_BY(mutex_);
  std::deque<CallState> calls_;
  int in_flight_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Notification all_answered_;
};

absl::Status CallOneByOne(nng_socket socket, const Workload& workload, Recorder& recorder) {
  EchoBytes bytes(workload);
  recorder.Begin();
  do {
    const absl::StatusOr<nng_msg*> message = NewMessage(bytes.Next());
    if (!message.ok()) return message.status();
    if (const int error = nng_sendmsg(socket, *message, 0); error != 0) {
      nng_msg_free(*message);
      return FromNng(error);
    }
    nng_msg* answer = nullptr;
    if (const int error = nng_recvmsg(socket, &answer, 0); error != 0) return FromNng(error);
    const absl::Status right = bytes.Check(BytesOf(answer), bytes.value());
    nng_msg_free(answer);
    if (!right.ok()) return right;
  } while (recorder.Continue());
  return absl::OkStatus();
}

// Listens where a workload says; the address to dial. `suffix`: of one more socket.
absl::StatusOr<std::string> Listen(nng_socket socket, const Workload& workload,
                                   const char* suffix) {
  nng_listener listener;
  const bool is_unix = workload.transport == "unix";
  const std::string url =
      is_unix ? absl::StrCat("ipc://", SocketPath(), suffix) : "tcp://127.0.0.1:0";
  int error = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, 0);
  if (error == 0) error = nng_listen(socket, url.c_str(), &listener, 0);
  int port = 0;
  if (error == 0 && !is_unix) {
    error = nng_listener_get_int(listener, NNG_OPT_TCP_BOUND_PORT, &port);
  }
  if (error != 0) return FromNng(error);
  return is_unix ? url : absl::StrCat("tcp://127.0.0.1:", port);
}

absl::Status SendBytes(nng_socket socket, std::string_view bytes) {
  const absl::StatusOr<nng_msg*> message = NewMessage(bytes);
  if (!message.ok()) return message.status();
  const int error = nng_sendmsg(socket, *message, 0);
  if (error != 0) nng_msg_free(*message);
  return FromNng(error);
}

// Takes a stream. Its address is those of both pairs.
absl::Status Consume(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) {
  nng_socket there;
  nng_socket back;
  int error = nng_pull0_open(&there);
  if (error == 0) error = nng_push0_open(&back);
  if (error == 0) error = nng_socket_set_int(there, NNG_OPT_RECVBUF, StreamQueueLength(workload));
  if (error != 0) return FromNng(error);
  const absl::StatusOr<std::string> there_at = Listen(there, workload, "");
  if (!there_at.ok()) return there_at.status();
  const absl::StatusOr<std::string> back_at = Listen(back, workload, "-back");
  if (!back_at.ok()) return back_at.status();
  ready(absl::StrCat(*there_at, " ", *back_at));
  StreamTally tally;
  for (;;) {
    nng_msg* message = nullptr;
    error = nng_recvmsg(there, &message, 0);
    if (error != 0) return FromNng(error);
    const bool asks = nng_msg_len(message) == 0;
    if (!asks) tally.Add(BytesOf(message));
    nng_msg_free(message);
    if (!asks) continue;
    absl::Status told = SendBytes(back, {reinterpret_cast<const char*>(&tally), sizeof(tally)});
    if (!told.ok()) return told;
    tally = {};
  }
}

absl::Status Produce(const std::string& address, const Workload& workload, Recorder& recorder) {
  nng_socket there;
  nng_socket back;
  int error = nng_push0_open(&there);
  if (error == 0) error = nng_pull0_open(&back);
  if (error == 0) error = nng_socket_set_int(there, NNG_OPT_SENDBUF, StreamQueueLength(workload));
  const size_t space = address.find(' ');
  if (error == 0) error = nng_dial(there, address.substr(0, space).c_str(), nullptr, 0);
  if (error == 0) error = nng_dial(back, address.substr(space + 1).c_str(), nullptr, 0);
  if (error != 0) return FromNng(error);
  return SendStream(
      workload, recorder, [&](const std::string& bytes) { return SendBytes(there, bytes); },
      [&]() -> absl::StatusOr<StreamTally> {
        if (absl::Status asked = SendBytes(there, ""); !asked.ok()) return asked;
        nng_msg* answer = nullptr;
        if (const int failed = nng_recvmsg(back, &answer, 0); failed != 0) return FromNng(failed);
        const absl::StatusOr<StreamTally> tally = ParseTally(BytesOf(answer));
        nng_msg_free(answer);
        return tally;
      });
}

class Nng final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    if (workload.call == Call::kStream) return Consume(workload, ready);
    nng_socket socket;
    int error = nng_rep0_open(&socket);
    if (error != 0) return FromNng(error);
    const absl::StatusOr<std::string> address = Listen(socket, workload, "");
    if (!address.ok()) return address.status();
    std::deque<Answerer> answerers;
    if (workload.outstanding > 1) {
      for (int i = 0; i < workload.outstanding; ++i) {
        answerers.emplace_back();
        if (absl::Status started = answerers.back().Start(socket); !started.ok()) return started;
      }
    }
    ready(*address);
    for (;;) {
      if (!answerers.empty()) {
        ::pause();
        continue;
      }
      nng_msg* message = nullptr;
      error = nng_recvmsg(socket, &message, 0);
      if (error == 0) error = nng_sendmsg(socket, message, 0);
      if (error != 0) return FromNng(error);
    }
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (absl::Status good = CheckPeerWorkload(workload); !good.ok()) return good;
    if (workload.call == Call::kStream) return Produce(address, workload, recorder);
    nng_socket socket;
    int error = nng_req0_open(&socket);
    if (error == 0) error = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, 0);
    if (error == 0) error = nng_dial(socket, address.c_str(), nullptr, 0);
    if (error != 0) return FromNng(error);
    return workload.outstanding == 1 ? CallOneByOne(socket, workload, recorder)
                                     : Pipeline(workload, recorder).Run(socket);
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::Nng subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
