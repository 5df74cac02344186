#include "base/limits.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mi7 {
namespace {

// A Hello must fit into a message, and be allowed to.
constexpr uint32_t kMessageBytesMaxLeast = 4096;

absl::Status Wrong(absl::string_view name, uint64_t value, absl::string_view rule) {
  return absl::InvalidArgumentError(
      absl::StrCat("limits.", name, " is ", value, ", must be ", rule));
}

}  // namespace

absl::Status CheckLimits(const Limits& limits) {
  if (limits.message_bytes_max < kMessageBytesMaxLeast || limits.message_bytes_max % 8 != 0) {
    return Wrong("message_bytes_max", limits.message_bytes_max,
                 absl::StrCat("a multiple of 8 of at least ", kMessageBytesMaxLeast));
  }
  for (const auto& [name, value] :
       {std::pair<absl::string_view, uint64_t>{"segments_max", limits.segments_max},
        {"nesting_max", limits.nesting_max},
        {"traversal_factor", limits.traversal_factor},
        {"connections_max", limits.connections_max},
        {"calls_in_flight_max", limits.calls_in_flight_max},
        {"queued_bytes_max", limits.queued_bytes_max},
        {"unread_answer_bytes_max", limits.unread_answer_bytes_max},
        {"stream_queued_bytes_max", limits.stream_queued_bytes_max},
        {"stream_window_bytes", limits.stream_window_bytes}}) {
    if (value == 0) return Wrong(name, value, "at least 1");
  }
  for (const auto& [name, value] :
       {std::pair<absl::string_view, absl::Duration>{"handshake_timeout", limits.handshake_timeout},
        {"write_stall_timeout", limits.write_stall_timeout}}) {
    if (value <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "limits.", name, " is ", absl::FormatDuration(value), ", must be longer than 0"));
    }
  }
  return absl::OkStatus();
}

}  // namespace mi7
