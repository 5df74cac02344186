// Subject "boost_queue": two message queues of Boost.Interprocess, one each way, in shared memory.
// Each has room for all messages in flight, of exactly the size that is sent. A stream is one way:
// the queue back is for the tally, which an empty message asks for.

#include <unistd.h>

#include <boost/interprocess/ipc/message_queue.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

namespace ipc = boost::interprocess;

std::string BackOf(const std::string& name) { return name + "-back"; }

void Send(ipc::message_queue& queue, const std::string& bytes) {
  queue.send(bytes.data(), bytes.size(), 0);
}

std::string_view Receive(ipc::message_queue& queue, std::string& buffer) {
  ipc::message_queue::size_type size = 0;
  unsigned int priority = 0;
  queue.receive(buffer.data(), buffer.size(), size, priority);
  return std::string_view(buffer).substr(0, size);
}

class BoostQueue final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    return Guard([&]() -> absl::Status {
      const std::string name = absl::StrCat("mi7-bench-", ::getpid());
      const bool stream = workload.call == Call::kStream;
      const auto room =
          static_cast<size_t>(stream ? StreamQueueLength(workload) : workload.outstanding);
      ipc::message_queue there(ipc::create_only, name.c_str(), room, workload.payload_bytes);
      ipc::message_queue back(ipc::create_only, BackOf(name).c_str(), room, workload.payload_bytes);
      ready(name);
      std::string buffer(workload.payload_bytes, 0);
      if (stream) Consume(there, back, buffer);
      for (;;) {
        const std::string_view bytes = Receive(there, buffer);
        back.send(bytes.data(), bytes.size(), 0);
      }
    });
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (absl::Status good = CheckPeerWorkload(workload); !good.ok()) return good;
    return Guard([&] {
      ipc::message_queue there(ipc::open_only, address.c_str());
      ipc::message_queue back(ipc::open_only, BackOf(address).c_str());
      // Both sides have them now; the names would outlive the processes.
      ipc::message_queue::remove(address.c_str());
      ipc::message_queue::remove(BackOf(address).c_str());
      if (workload.call == Call::kStream) return Produce(there, back, workload, recorder);
      return MakeCalls(there, back, workload, recorder);
    });
  }

 private:
  [[noreturn]] static void Consume(ipc::message_queue& there, ipc::message_queue& back,
                                   std::string& buffer) {
    StreamTally tally;
    for (;;) {
      const std::string_view bytes = Receive(there, buffer);
      if (!bytes.empty()) {
        tally.Add(bytes);
        continue;
      }
      back.send(&tally, sizeof(tally), 0);
      tally = {};
    }
  }

  static absl::Status Produce(ipc::message_queue& there, ipc::message_queue& back,
                              const Workload& workload, Recorder& recorder) {
    std::string buffer(workload.payload_bytes, 0);
    return SendStream(
        workload, recorder,
        [&](const std::string& bytes) {
          Send(there, bytes);
          return absl::OkStatus();
        },
        [&]() -> absl::StatusOr<StreamTally> {
          Send(there, "");
          return ParseTally(Receive(back, buffer));
        });
  }

  static absl::Status MakeCalls(ipc::message_queue& there, ipc::message_queue& back,
                                const Workload& workload, Recorder& recorder) {
    EchoBytes bytes(workload);
    const auto outstanding = static_cast<size_t>(workload.outstanding);
    std::vector<int64_t> stamps(outstanding);
    std::string buffer(workload.payload_bytes, 0);
    uint64_t answered = 0;
    const auto send_one = [&] {
      const std::string& data = bytes.Next();
      if (outstanding > 1) stamps[bytes.value() % outstanding] = recorder.Issue();
      Send(there, data);
    };
    recorder.Begin();
    for (size_t i = 0; i < outstanding; ++i) send_one();
    while (answered != bytes.value()) {
      absl::Status right = bytes.Check(Receive(back, buffer), ++answered);
      if (!right.ok()) return right;
      const bool go_on = outstanding == 1 ? recorder.Continue()
                                          : recorder.Complete(stamps[answered % outstanding]);
      if (go_on) send_one();
    }
    return absl::OkStatus();
  }

  // Boost's errors are exceptions; none leaves this file.
  template <typename Body>
  static absl::Status Guard(Body body) {
    try {
      return body();
    } catch (const ipc::interprocess_exception& e) {
      return absl::UnavailableError(absl::StrCat("Boost.Interprocess: ", e.what()));
    }
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::BoostQueue subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
