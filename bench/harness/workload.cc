#include "bench/harness/workload.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mi7::bench {
namespace {

constexpr Waiting kWaitings[] = {Waiting::kBlocking, Waiting::kSpinning, Waiting::kDefault};
constexpr Call kCalls[] = {Call::kNumber,      Call::kEcho,       Call::kPrebuilt,
                           Call::kTouched,     Call::kStream,     Call::kStreamCallbacks,
                           Call::kStreamCalls, Call::kStreamBack, Call::kStreamEcho};

// Finds the one of `all` that is called `name`.
template <typename Enum, size_t kCount, typename NameOf>
bool Parse(const Enum (&all)[kCount], NameOf name_of, std::string_view name, Enum* found) {
  for (Enum candidate : all) {
    if (name_of(candidate) != name) continue;
    *found = candidate;
    return true;
  }
  return false;
}

}  // namespace

std::string_view WaitingName(Waiting waiting) {
  switch (waiting) {
    case Waiting::kBlocking:
      return "blocking";
    case Waiting::kSpinning:
      return "spinning";
    case Waiting::kDefault:
      return "default";
  }
  return "?";
}

std::string_view CallName(Call call) {
  switch (call) {
    case Call::kNumber:
      return "number";
    case Call::kEcho:
      return "echo";
    case Call::kPrebuilt:
      return "prebuilt";
    case Call::kTouched:
      return "touched";
    case Call::kStream:
      return "stream";
    case Call::kStreamCallbacks:
      return "stream-callbacks";
    case Call::kStreamCalls:
      return "stream-calls";
    case Call::kStreamBack:
      return "stream-back";
    case Call::kStreamEcho:
      return "stream-echo";
  }
  return "?";
}

bool IsStream(Call call) {
  return call == Call::kStream || call == Call::kStreamCallbacks || call == Call::kStreamCalls ||
         call == Call::kStreamBack;
}

std::string Workload::Encode() const {
  return absl::StrCat(std::string(WaitingName(waiting)), ":", std::string(CallName(call)), ":",
                      outstanding, ":", transport, ":", payload_bytes, ":", threads, ":",
                      connections, ":", burst, ":", scale, ":", warmup_ns, ":", measure_ns);
}

absl::StatusOr<Workload> Workload::Decode(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), ':');
  Workload workload;
  uint64_t payload_bytes = 0;
  const bool good =
      parts.size() == 11 && Parse(kWaitings, WaitingName, parts[0], &workload.waiting) &&
      Parse(kCalls, CallName, parts[1], &workload.call) &&
      absl::SimpleAtoi(parts[2], &workload.outstanding) &&
      absl::SimpleAtoi(parts[4], &payload_bytes) && absl::SimpleAtoi(parts[5], &workload.threads) &&
      absl::SimpleAtoi(parts[6], &workload.connections) &&
      absl::SimpleAtoi(parts[7], &workload.burst) && absl::SimpleAtoi(parts[8], &workload.scale) &&
      absl::SimpleAtoi(parts[9], &workload.warmup_ns) &&
      absl::SimpleAtoi(parts[10], &workload.measure_ns);
  if (!good || workload.outstanding < 1 || workload.threads < 1 || workload.connections < 1 ||
      payload_bytes % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("workload '", std::string(text),
                     "' is not WAITING:CALL:OUTSTANDING:TRANSPORT:PAYLOAD_BYTES:THREADS:"
                     "CONNECTIONS:BURST:SCALE:WARMUP_NS:MEASURE_NS"));
  }
  workload.transport = parts[3];
  workload.payload_bytes = payload_bytes;
  return workload;
}

}  // namespace mi7::bench
