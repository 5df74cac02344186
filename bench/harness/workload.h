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

// What one call carries. A "word" has 8 bytes.
enum class Call {
  kNumber,    // one word there, the same one back
  kEcho,      // payload_bytes there, the same bytes back; the caller has them in memory of its own
  kPrebuilt,  // payload_bytes there that lie ready and nobody looks at; a word back
  kTouched,   // payload_bytes there, written by the caller and read by the server; their sum back
  // Messages, not calls: payload_bytes and nothing back for each.
  kStream,           // to the server
  kStreamCallbacks,  // to the server, each from the callback of the one before
  kStreamCalls,      // to the server, as calls without results (Cap'n Proto's `-> stream`)
  kStreamBack,       // from the server
  // A message there and the same bytes back, on one bidirectional stream; timed as calls are.
  kStreamEcho,
};

std::string_view CallName(Call call);  // "number", "echo", ...

// Whether it is messages that one side sends and nobody answers.
bool IsStream(Call call);

struct Workload {
  Waiting waiting = Waiting::kBlocking;
  Call call = Call::kNumber;
  // Calls in flight on each connection.
  int outstanding = 1;
  // Where the server of a typed subject listens; what it means is the subject's affair ("tcp",
  // "unix", "shm", "inproc"). No colons.
  std::string transport = "tcp";
  // A multiple of 8; 0 with kNumber. A raw subject sends frames of so many bytes with kNumber,
  // too, the 4-byte length included; typed ones send what their call needs.
  size_t payload_bytes = 0;
  // Threads that make calls, of each client process, all on its one connection.
  int threads = 1;
  // Connections of each client process, each with `outstanding` calls in flight.
  int connections = 1;
  // Calls after which the caller rests for a while, so that everybody falls asleep; 0: never.
  int burst = 0;
  // How many there are of what the subject may have many of: methods that its server has
  // registered, slots of its pipe. 0: as many as it has by itself.
  int scale = 0;
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
