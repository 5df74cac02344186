#pragma once

// What one measurement asks of a subject. It crosses from the bench to the subject's processes as
// text on the command line.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mi7::bench {

// How either side waits for the other.
enum class Waiting {
  kBlocking,  // sleeps in the system each time
  kSpinning,  // never sleeps
  kDefault,   // as the subject does when nobody configures it
};

std::string_view WaitingName(Waiting waiting);  // "blocking", "spinning", "default"

struct Workload {
  Waiting waiting = Waiting::kBlocking;
  // Calls in flight on one connection.
  int outstanding = 1;
  // Bytes of one message on the wire, 4-byte length included. Only raw subjects obey it; typed ones
  // send what their call needs (8 bytes in, 8 bytes out).
  size_t frame_bytes = 56;
  // Where the server of a typed subject listens; what it means is the subject's affair ("tcp",
  // "unix", "shm"). No colons.
  std::string transport = "tcp";
  // Bytes of payload that the caller sends along with a call, a multiple of 8.
  size_t payload_bytes = 0;
  // Whether the caller writes all of the payload in the time that is measured, and the server reads
  // all of it; otherwise it is there before, and nobody looks at it.
  bool payload_touched = false;
  // Unmeasured calls are made for this long first ...
  int64_t warmup_ns = 20'000'000;
  // ... then measured ones for this long.
  int64_t measure_ns = 150'000'000;

  std::string Encode() const;
  // INVALID_ARGUMENT naming what does not fit.
  static absl::StatusOr<Workload> Decode(std::string_view text);

  friend bool operator==(const Workload&, const Workload&) = default;
};

}  // namespace mi7::bench
