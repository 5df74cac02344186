#pragma once

// What a peer's client echoes: bytes of its own that differ from call to call in their first word.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

// Not thread-safe.
class EchoBytes {
 public:
  explicit EchoBytes(const Workload& workload) : bytes_(workload.payload_bytes, 1) {}

  // The bytes of the next call; valid until the call after it.
  const std::string& Next() {
    ++value_;
    std::memcpy(bytes_.data(), &value_, sizeof(value_));
    return bytes_;
  }
  size_t size() const { return bytes_.size(); }
  // The first word of what Next gave last.
  uint64_t value() const { return value_; }

  // DATA_LOSS unless `answer` is what the call with this first word sent.
  absl::Status Check(std::string_view answer, uint64_t value) const {
    if (answer.size() == bytes_.size() && std::memcmp(answer.data(), &value, sizeof(value)) == 0 &&
        (answer.size() == sizeof(value) || answer.back() == bytes_.back())) [[likely]]
      return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("wrong answer to call ", value));
  }

 private:
  std::string bytes_;
  uint64_t value_ = 0;
};

// INVALID_ARGUMENT unless a peer is asked for what peers are asked for: echoes, or a stream to the
// server, waiting as it does by itself.
inline absl::Status CheckPeerWorkload(const Workload& workload) {
  if ((workload.call == Call::kEcho || workload.call == Call::kStream) &&
      workload.waiting == Waiting::kDefault && workload.payload_bytes >= sizeof(uint64_t)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("peers echo or take, not ", workload.Encode()));
}

}  // namespace mi7::bench
