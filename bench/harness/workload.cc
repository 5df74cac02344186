#include "bench/harness/workload.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mi7::bench {

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

std::string Workload::Encode() const {
  return absl::StrCat(std::string(WaitingName(waiting)), ":", outstanding, ":", frame_bytes, ":",
                      transport, ":", payload_bytes, ":", payload_touched ? 1 : 0, ":", warmup_ns,
                      ":", measure_ns);
}

absl::StatusOr<Workload> Workload::Decode(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), ':');
  Workload workload;
  bool good = parts.size() == 8;
  if (good) {
    good = false;
    for (Waiting waiting : {Waiting::kBlocking, Waiting::kSpinning, Waiting::kDefault}) {
      if (parts[0] != WaitingName(waiting)) continue;
      workload.waiting = waiting;
      good = true;
    }
    uint64_t frame_bytes = 0;
    uint64_t payload_bytes = 0;
    good = good && absl::SimpleAtoi(parts[1], &workload.outstanding) &&
           absl::SimpleAtoi(parts[2], &frame_bytes) && absl::SimpleAtoi(parts[4], &payload_bytes) &&
           absl::SimpleAtob(parts[5], &workload.payload_touched) &&
           absl::SimpleAtoi(parts[6], &workload.warmup_ns) &&
           absl::SimpleAtoi(parts[7], &workload.measure_ns);
    workload.frame_bytes = frame_bytes;
    workload.transport = parts[3];
    workload.payload_bytes = payload_bytes;
  }
  if (!good || workload.outstanding < 1 || workload.payload_bytes % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("workload '", std::string(text),
                     "' is not WAITING:OUTSTANDING:FRAME_BYTES:TRANSPORT:PAYLOAD_BYTES:"
                     "TOUCHED:WARMUP_NS:MEASURE_NS"));
  }
  return workload;
}

}  // namespace mi7::bench
