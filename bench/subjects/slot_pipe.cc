// Subject "slot_pipe": messages through mi7's slot pipes.
//
// * Over "alone": the client has a pipe for itself and sends and receives each message, on one
//   thread: hold, write, send, fetch, read, release. The server has nothing to do.
// * kStream: each client process holds, writes and sends; each server process fetches, reads and
//   releases. All on one pipe.
// * kEcho: there through one pipe and back through another.
//
// A message is written and read word by word. workload.scale is the number of slots; 0: 100.

#include "transport/slot_pipe/slot_pipe.h"

#include <unistd.h>

#include <cstring>
#include <memory>
#include <span>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/payload.h"
#include "bench/subjects/wait_policy_for.h"

namespace mi7::bench {
namespace {

using PipeOrError = absl::StatusOr<std::unique_ptr<SlotPipe>>;

std::string BackOf(const std::string& name) { return name + "-back"; }

PipeOrError Make(const std::string& name, const Workload& workload) {
  PipeOptions options;
  if (workload.scale != 0) options.slots = static_cast<uint32_t>(workload.scale);
  return SlotPipe::Create(name, options, {.wait = PolicyFor(workload.waiting)});
}

PipeOrError Take(const std::string& name, const Workload& workload) {
  return SlotPipe::Connect(name, {.wait = PolicyFor(workload.waiting)});
}

absl::Status SendOne(SlotPipe& pipe, size_t bytes, uint64_t value) {
  absl::StatusOr<WriteSlot> slot = pipe.Hold();
  if (!slot.ok()) return slot.status();
  FillPayload({reinterpret_cast<uint64_t*>(slot->data()), bytes / sizeof(uint64_t)}, value);
  return slot->Send(bytes);
}

// The sum of the message's words.
absl::StatusOr<uint64_t> ReceiveOne(SlotPipe& pipe) {
  absl::StatusOr<ReadSlot> message = pipe.Fetch();
  if (!message.ok()) return message.status();
  const uint64_t sum =
      SumPayload({reinterpret_cast<const uint64_t*>(message->data()), message->size() / 8});
  if (absl::Status released = message->Release(); !released.ok()) return released;
  return sum;
}

absl::Status Check(const absl::StatusOr<uint64_t>& sum, size_t bytes, uint64_t value) {
  if (!sum.ok()) return sum.status();
  if (*sum == value * (bytes / sizeof(uint64_t))) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("message ", value, " came damaged"));
}

class SlotPipeSubject final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    const std::string name = absl::StrCat("bench-", ::getpid());
    const PipeOrError there = Make(name, workload);
    if (!there.ok()) return there.status();
    if (workload.transport == "alone") {
      ready(name);
      for (;;) ::pause();
    }
    if (workload.call == Call::kEcho) {
      const PipeOrError back = Make(BackOf(name), workload);
      if (!back.ok()) return back.status();
      ready(name);
      return Answer(**there, **back, workload.payload_bytes);
    }
    ready(name);
    return Consume(**there);
  }

  absl::Status Join(const std::string& address, const Workload& workload,
                    const std::function<void()>& ready) override {
    const PipeOrError pipe = Take(address, workload);
    if (!pipe.ok()) return pipe.status();
    ready();
    return Consume(**pipe);
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    const PipeOrError pipe = Take(address, workload);
    if (!pipe.ok()) return pipe.status();
    const size_t bytes = workload.payload_bytes;
    if (workload.call == Call::kEcho) {
      const PipeOrError back = Take(BackOf(address), workload);
      return back.ok() ? PingPong(**pipe, **back, bytes, recorder) : back.status();
    }
    const bool alone = workload.transport == "alone";
    uint64_t value = 0;
    int64_t stamp_ns = 0;
    recorder.Begin();
    do {
      stamp_ns = recorder.Issue();
      if (absl::Status sent = SendOne(**pipe, bytes, ++value); !sent.ok()) return sent;
      if (!alone) continue;
      if (absl::Status got = Check(ReceiveOne(**pipe), bytes, value); !got.ok()) return got;
    } while (recorder.Complete(stamp_ns));
    return absl::OkStatus();
  }

 private:
  absl::Status Consume(SlotPipe& pipe) {
    for (;;) {
      const absl::StatusOr<uint64_t> sum = ReceiveOne(pipe);
      if (!sum.ok()) return sum.status();
      CountServed();
    }
  }

  static absl::Status Answer(SlotPipe& there, SlotPipe& back, size_t bytes) {
    for (;;) {
      const absl::StatusOr<uint64_t> sum = ReceiveOne(there);
      if (!sum.ok()) return sum.status();
      absl::Status sent = SendOne(back, bytes, *sum / (bytes / sizeof(uint64_t)));
      if (!sent.ok()) return sent;
    }
  }

  static absl::Status PingPong(SlotPipe& there, SlotPipe& back, size_t bytes, Recorder& recorder) {
    uint64_t value = 0;
    recorder.Begin();
    do {
      if (absl::Status sent = SendOne(there, bytes, ++value); !sent.ok()) return sent;
      if (absl::Status got = Check(ReceiveOne(back), bytes, value); !got.ok()) return got;
    } while (recorder.Continue());
    return absl::OkStatus();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::SlotPipeSubject subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
