// Subject "zeromq": ZeroMQ by its C++ interface. One outstanding: REQ and REP. Many: DEALER and
// ROUTER, its asynchronous pair. The server sends back the very message that it received, which
// copies nothing. A stream: PUSH and PULL, with as many messages in queues as are about 16 MiB (at
// most 1,000, its default); an empty message asks for the tally, which comes by another such pair.
// One I/O thread a side, its default; it sets TCP_NODELAY itself.

#include <string>
#include <vector>
#include <zmq.hpp>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/socket_path.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

class Zeromq final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    return Guard([&]() -> absl::Status {
      if (workload.call == Call::kStream) return Consume(workload, ready);
      const bool many = workload.outstanding > 1;
      zmq::context_t context;
      zmq::socket_t socket(context, many ? zmq::socket_type::router : zmq::socket_type::rep);
      socket.bind(WhereToBind(workload, ""));
      ready(socket.get(zmq::sockopt::last_endpoint));
      zmq::message_t sender;
      zmq::message_t message;
      for (;;) {
        if (many) (void)socket.recv(sender);
        (void)socket.recv(message);
        if (many) (void)socket.send(sender, zmq::send_flags::sndmore);
        (void)socket.send(message, zmq::send_flags::none);
      }
    });
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (absl::Status good = CheckPeerWorkload(workload); !good.ok()) return good;
    return Guard([&] {
      if (workload.call == Call::kStream) return Produce(address, workload, recorder);
      const bool many = workload.outstanding > 1;
      zmq::context_t context;
      zmq::socket_t socket(context, many ? zmq::socket_type::dealer : zmq::socket_type::req);
      socket.set(zmq::sockopt::linger, 0);
      socket.connect(address);
      return many ? CallPipelined(socket, workload, recorder)
                  : CallOneByOne(socket, workload, recorder);
    });
  }

 private:
  static std::string WhereToBind(const Workload& workload, const char* suffix) {
    return workload.transport == "unix" ? absl::StrCat("ipc://", SocketPath(), suffix)
                                        : "tcp://127.0.0.1:*";
  }

  // Its address is those of both pairs.
  static absl::Status Consume(const Workload& workload,
                              const std::function<void(const std::string&)>& ready) {
    zmq::context_t context;
    zmq::socket_t there(context, zmq::socket_type::pull);
    zmq::socket_t back(context, zmq::socket_type::push);
    there.set(zmq::sockopt::rcvhwm, StreamQueueLength(workload));
    there.bind(WhereToBind(workload, ""));
    back.bind(WhereToBind(workload, "-back"));
    ready(absl::StrCat(there.get(zmq::sockopt::last_endpoint), " ",
                       back.get(zmq::sockopt::last_endpoint)));
    StreamTally tally;
    zmq::message_t message;
    for (;;) {
      (void)there.recv(message);
      if (message.size() != 0) {
        tally.Add(message.to_string_view());
        continue;
      }
      (void)back.send(zmq::buffer(&tally, sizeof(tally)), zmq::send_flags::none);
      tally = {};
    }
  }

  static absl::Status Produce(const std::string& address, const Workload& workload,
                              Recorder& recorder) {
    zmq::context_t context;
    zmq::socket_t there(context, zmq::socket_type::push);
    zmq::socket_t back(context, zmq::socket_type::pull);
    there.set(zmq::sockopt::linger, 0);
    there.set(zmq::sockopt::sndhwm, StreamQueueLength(workload));
    there.connect(address.substr(0, address.find(' ')));
    back.connect(address.substr(address.find(' ') + 1));
    zmq::message_t answer;
    return SendStream(
        workload, recorder,
        [&](const std::string& bytes) {
          Send(there, bytes);
          return absl::OkStatus();
        },
        [&]() -> absl::StatusOr<StreamTally> {
          Send(there, "");
          (void)back.recv(answer);
          return ParseTally(answer.to_string_view());
        });
  }

  static void Send(zmq::socket_t& socket, const std::string& bytes) {
    zmq::message_t message(bytes.data(), bytes.size());
    (void)socket.send(message, zmq::send_flags::none);
  }

  static absl::Status CallOneByOne(zmq::socket_t& socket, const Workload& workload,
                                   Recorder& recorder) {
    EchoBytes bytes(workload);
    zmq::message_t answer;
    recorder.Begin();
    do {
      Send(socket, bytes.Next());
      (void)socket.recv(answer);
      absl::Status right = bytes.Check(answer.to_string_view(), bytes.value());
      if (!right.ok()) return right;
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  static absl::Status CallPipelined(zmq::socket_t& socket, const Workload& workload,
                                    Recorder& recorder) {
    EchoBytes bytes(workload);
    const auto outstanding = static_cast<size_t>(workload.outstanding);
    std::vector<int64_t> stamps(outstanding);
    zmq::message_t answer;
    uint64_t answered = 0;
    const auto send_one = [&] {
      const std::string& data = bytes.Next();
      stamps[bytes.value() % outstanding] = recorder.Issue();
      Send(socket, data);
    };
    recorder.Begin();
    for (size_t i = 0; i < outstanding; ++i) send_one();
    while (answered != bytes.value()) {
      (void)socket.recv(answer);
      absl::Status right = bytes.Check(answer.to_string_view(), ++answered);
      if (!right.ok()) return right;
      if (recorder.Complete(stamps[answered % outstanding])) send_one();
    }
    return absl::OkStatus();
  }

  // cppzmq's errors are exceptions; none leaves this file.
  template <typename Body>
  static absl::Status Guard(Body body) {
    try {
      return body();
    } catch (const zmq::error_t& e) {
      return absl::UnavailableError(absl::StrCat("ZeroMQ: ", e.what()));
    }
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::Zeromq subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
