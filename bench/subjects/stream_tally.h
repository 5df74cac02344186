#pragma once

// How every subject checks a stream: both ends keep a tally of the messages, and a portion of the
// stream is over when the sink has told a tally that is the sender's.

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/recorder.h"
#include "bench/harness/workload.h"
#include "bench/subjects/echo_bytes.h"

namespace mi7::bench {

// How many messages there were, and which, in their order: of each its length, its first word and
// its last one. As plain bytes it is what untyped peers send.
struct StreamTally {
  uint64_t messages = 0;
  uint64_t digest = 0;

  void Add(std::string_view message) {
    uint64_t first = 0;
    uint64_t last = 0;
    if (message.size() >= sizeof(first)) {
      std::memcpy(&first, message.data(), sizeof(first));
      std::memcpy(&last, message.data() + message.size() - sizeof(last), sizeof(last));
    }
    ++messages;
    // Odd, so that nothing is lost (the multiplier of Knuth's MMIX generator).
    digest = (digest ^ first ^ std::rotl(last, 32) ^ message.size()) * 6364136223846793005u;
  }

  friend bool operator==(const StreamTally&, const StreamTally&) = default;
};
static_assert(sizeof(StreamTally) == 16);

// Of the bytes that an untyped peer's sink sends.
inline absl::StatusOr<StreamTally> ParseTally(std::string_view bytes) {
  StreamTally tally;
  if (bytes.size() != sizeof(tally)) return absl::DataLossError("the sink has sent no tally");
  std::memcpy(&tally, bytes.data(), sizeof(tally));
  return tally;
}

// DATA_LOSS unless `arrived` is what was sent.
inline absl::Status CheckTally(const StreamTally& arrived, const StreamTally& sent) {
  if (arrived == sent) return absl::OkStatus();
  return absl::DataLossError(
      arrived.messages == sent.messages
          ? absl::StrCat("some of ", sent.messages, " messages came damaged")
          : absl::StrCat("of ", sent.messages, " messages ", arrived.messages, " arrived"));
}

// The sender's side of a stream, on one thread. `send(const std::string&)`, an absl::Status, sends
// a message; `confirm()` gives, once all that were sent since it was called last have arrived, the
// sink's tally of those, an absl::StatusOr<StreamTally>.
template <typename Send, typename Confirm>
absl::Status SendStream(const Workload& workload, Recorder& recorder, Send send, Confirm confirm) {
  EchoBytes bytes(workload);
  recorder.Begin();
  do {
    StreamTally tally;
    int64_t stamp_ns = 0;
    do {
      stamp_ns = recorder.Issue();
      const std::string& message = bytes.Next();
      tally.Add(message);
      if (absl::Status sent = send(message); !sent.ok()) return sent;
    } while (recorder.Sent(stamp_ns));
    const absl::StatusOr<StreamTally> arrived = confirm();
    if (!arrived.ok()) return arrived.status();
    if (absl::Status right = CheckTally(*arrived, tally); !right.ok()) return right;
  } while (recorder.Confirm());
  return absl::OkStatus();
}

// Messages that may lie in a queue of a peer that counts them: about 16 MiB of them, at most as
// many as ZeroMQ takes by itself.
inline int StreamQueueLength(const Workload& workload) {
  const size_t fitting = (size_t{16} << 20) / workload.payload_bytes;
  return static_cast<int>(fitting < 1000 ? fitting : 1000);
}

}  // namespace mi7::bench
