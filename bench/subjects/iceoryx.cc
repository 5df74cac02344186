// Subject "iceoryx": messages that are written, handed over and read in place. Untyped publishers
// and subscribers, one each way, and with them what its examples do: the sender loans memory,
// writes, publishes; the receiver takes, reads, releases.
//
// Spinning: either side takes until there is something. By itself: it sleeps in a WaitSet. kEcho:
// the caller copies from memory of its own, the server copies what it got to its answer.
// kPrebuilt: the payload lies in loaned memory already, nobody looks at it, and a word comes back.

#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "bench/harness/subject.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/iceoryx_daemon.h"
#include "iceoryx_posh/popo/untyped_publisher.hpp"
#include "iceoryx_posh/popo/untyped_subscriber.hpp"
#include "iceoryx_posh/popo/wait_set.hpp"
#include "iceoryx_posh/runtime/posh_runtime.hpp"

namespace mi7::bench {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
constexpr timespec kPause = {.tv_sec = 0, .tv_nsec = 1'000'000};

std::string ClientOf(const std::string& server) { return server + "-client"; }

iox::capro::ServiceDescription Way(const char* name) {
  return {"mi7", "bench", {iox::cxx::TruncateToCapacity, name}};
}

// A program of that name joins the daemon: once, before it has an End.
void JoinDaemon(const std::string& name) {
  SilenceIceoryx();
  iox::runtime::PoshRuntime::initRuntime({iox::cxx::TruncateToCapacity, name});
}

// What one side has of the two ways. Ends with the process, as everything of iceoryx: in order
// that takes time, and needs the other side.
class End {
 public:
  End(const char* outgoing, const char* incoming, bool spinning)
      : publisher_(Way(outgoing)), subscriber_(Way(incoming), OneMessage()) {
    if (spinning) return;
    // It is given a semaphore for each message then, also by who never waits for it.
    wait_set_.emplace();
    wait_set_->attachState(subscriber_, iox::popo::SubscriberState::HAS_DATA).or_else([](auto) {
      std::abort();  // a set for one that has none
    });
  }

  // The daemon brings the two together about ten times a second.
  absl::Status Meet() {
    const Deadline deadline = Deadline::After(kConnectTimeout);
    while (!publisher_.hasSubscribers() ||
           subscriber_.getSubscriptionState() != iox::SubscribeState::SUBSCRIBED) {
      if (deadline.passed()) return absl::DeadlineExceededError("the other side did not come");
      ::nanosleep(&kPause, nullptr);
    }
    return absl::OkStatus();
  }

  // Null when there is no memory.
  void* Loan(size_t bytes) {
    auto loaned = publisher_.loan(static_cast<uint32_t>(bytes));
    return loaned.has_error() ? nullptr : loaned.value();
  }
  void Publish(void* payload) { publisher_.publish(payload); }

  // Waits for the next message; null when that fails.
  const void* Take() {
    for (;;) {
      auto taken = subscriber_.take();
      if (!taken.has_error()) [[likely]]
        return taken.value();
      if (taken.get_error() != iox::popo::ChunkReceiveResult::NO_CHUNK_AVAILABLE) return nullptr;
      if (wait_set_.has_value()) wait_set_->wait();
    }
  }
  void Release(const void* payload) { subscriber_.release(payload); }

 private:
  static iox::popo::SubscriberOptions OneMessage() {
    iox::popo::SubscriberOptions options;
    options.queueCapacity = 1;
    return options;
  }

  iox::popo::UntypedPublisher publisher_;
  iox::popo::UntypedSubscriber subscriber_;
  std::optional<iox::popo::WaitSet<1>> wait_set_;
};

absl::Status NoMemory() { return absl::ResourceExhaustedError("iceoryx has no memory to loan"); }
absl::Status NotTaken() { return absl::UnavailableError("iceoryx: a message cannot be taken"); }

absl::Status CheckWorkload(const Workload& workload) {
  const bool calls = workload.call == Call::kEcho || workload.call == Call::kPrebuilt;
  if (calls && workload.outstanding == 1 && workload.waiting != Waiting::kBlocking &&
      workload.payload_bytes >= sizeof(uint64_t)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("iceoryx makes one call of some bytes at a time here, not ", workload.Encode()));
}

bool Spins(const Workload& workload) { return workload.waiting == Waiting::kSpinning; }

class Iceoryx final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    if (absl::Status good = CheckWorkload(workload); !good.ok()) return good;
    const std::string name = absl::StrCat("mi7-bench-", ::getpid());
    absl::Status started = StartIceoryxDaemon(
        {.payload_bytes = workload.payload_bytes, .programs = {name, ClientOf(name)}});
    if (!started.ok()) return started;
    JoinDaemon(name);
    End& end = *new End("back", "there", Spins(workload));
    ready(name);
    const size_t answer_bytes =
        workload.call == Call::kEcho ? workload.payload_bytes : sizeof(uint64_t);
    for (;;) {
      const void* const request = end.Take();
      if (request == nullptr) return NotTaken();
      void* const answer = end.Loan(answer_bytes);
      if (answer == nullptr) return NoMemory();
      std::memcpy(answer, request, answer_bytes);
      end.Publish(answer);
      end.Release(request);
    }
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (absl::Status good = CheckWorkload(workload); !good.ok()) return good;
    JoinDaemon(ClientOf(address));
    End& end = *new End("there", "back", Spins(workload));
    if (absl::Status met = end.Meet(); !met.ok()) return met;
    return workload.call == Call::kEcho ? Echoes(end, workload, recorder)
                                        : Payloads(end, workload, recorder);
  }

 private:
  static absl::Status Echoes(End& end, const Workload& workload, Recorder& recorder) {
    EchoBytes bytes(workload);
    recorder.Begin();
    do {
      const std::string& data = bytes.Next();
      void* const request = end.Loan(data.size());
      if (request == nullptr) return NoMemory();
      std::memcpy(request, data.data(), data.size());
      end.Publish(request);
      const void* const answer = end.Take();
      if (answer == nullptr) return NotTaken();
      const std::string_view got(static_cast<const char*>(answer), data.size());
      if (absl::Status right = bytes.Check(got, bytes.value()); !right.ok()) return right;
      end.Release(answer);
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  static absl::Status Payloads(End& end, const Workload& workload, Recorder& recorder) {
    uint64_t value = 0;
    recorder.Begin();
    do {
      void* const request = end.Loan(workload.payload_bytes);
      if (request == nullptr) return NoMemory();
      ++value;
      std::memcpy(request, &value, sizeof(value));
      recorder.Restart();
      end.Publish(request);
      const void* const answer = end.Take();
      if (answer == nullptr) return NotTaken();
      uint64_t got = 0;
      std::memcpy(&got, answer, sizeof(got));
      if (got != value) return absl::DataLossError(absl::StrCat("wrong answer to call ", value));
      end.Release(answer);
    } while (recorder.Continue());
    return absl::OkStatus();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::Iceoryx subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
