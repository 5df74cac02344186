// Subject "slot_pipe": messages through mi7's slot pipes.
//
// * Over "alone": the client has a pipe for itself and sends and receives each message, on one
//   thread: hold, write, send, fetch, read, release. The server has nothing to do.
// * kStream: each client process holds, writes and sends; each server process fetches, reads,
//   checks that all words of the message are the same, and releases. All on one pipe: over "pipe"
//   one client and one server, which checks that no message is missing, twice there or early; over
//   "shared" as many as the bench starts, where each producer counts for itself.
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

// The word that the message, of `bytes`, consists of; DATA_LOSS when it does not. All of it is
// read.
absl::StatusOr<uint64_t> ReceiveOne(SlotPipe& pipe, size_t bytes) {
  absl::StatusOr<ReadSlot> message = pipe.Fetch();
  if (!message.ok()) return message.status();
  const auto* words = reinterpret_cast<const uint64_t*>(message->data());
  const size_t count = message->size() / sizeof(uint64_t);
  const uint64_t sum = SumPayload({words, count});
  const uint64_t value = count != 0 ? words[0] : 0;
  const bool whole = message->size() == bytes && sum == value * count;
  if (absl::Status released = message->Release(); !released.ok()) return released;
  if (whole) [[likely]]
    return value;
  return absl::DataLossError(absl::StrCat("a message that begins with ", value, " came damaged"));
}

absl::Status Check(const absl::StatusOr<uint64_t>& value, uint64_t expected) {
  if (!value.ok()) return value.status();
  if (*value == expected) [[likely]]
    return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("message ", *value, " came instead of ", expected));
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
    return Consume(**there, workload);
  }

  absl::Status Join(const std::string& address, const Workload& workload,
                    const std::function<void()>& ready) override {
    const PipeOrError pipe = Take(address, workload);
    if (!pipe.ok()) return pipe.status();
    ready();
    return Consume(**pipe, workload);
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
      if (absl::Status got = Check(ReceiveOne(**pipe, bytes), value); !got.ok()) return got;
    } while (recorder.Complete(stamp_ns));
    return absl::OkStatus();
  }

 private:
  absl::Status Consume(SlotPipe& pipe, const Workload& workload) {
    const bool all_of_them = workload.transport == "pipe";
    for (uint64_t expected = 1;; ++expected) {
      const absl::StatusOr<uint64_t> value = ReceiveOne(pipe, workload.payload_bytes);
      if (!value.ok()) return value.status();
      if (all_of_them && *value != expected) [[unlikely]]
        return Check(value, expected);
      CountServed();
    }
  }

  static absl::Status Answer(SlotPipe& there, SlotPipe& back, size_t bytes) {
    for (;;) {
      const absl::StatusOr<uint64_t> value = ReceiveOne(there, bytes);
      if (!value.ok()) return value.status();
      absl::Status sent = SendOne(back, bytes, *value);
      if (!sent.ok()) return sent;
    }
  }

  static absl::Status PingPong(SlotPipe& there, SlotPipe& back, size_t bytes, Recorder& recorder) {
    uint64_t value = 0;
    recorder.Begin();
    do {
      if (absl::Status sent = SendOne(there, bytes, ++value); !sent.ok()) return sent;
      if (absl::Status got = Check(ReceiveOne(back, bytes), value); !got.ok()) return got;
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
