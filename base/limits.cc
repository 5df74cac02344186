#include "base/limits.h"

#include <algorithm>
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
        {"stream_window_bytes", limits.stream_window_bytes},
        {"stray_frames_max", limits.stray_frames_max},
        {"message_arrival_bytes_per_second_min", limits.message_arrival_bytes_per_second_min}}) {
    if (value == 0) return Wrong(name, value, "at least 1");
  }
  if (limits.request_bytes_max < limits.message_bytes_max) {
    return Wrong("request_bytes_max", limits.request_bytes_max,
                 absl::StrCat("at least message_bytes_max, ", limits.message_bytes_max));
  }
  if (limits.stream_kept_bytes_max < limits.stream_window_bytes) {
    return Wrong("stream_kept_bytes_max", limits.stream_kept_bytes_max,
                 absl::StrCat("at least stream_window_bytes, ", limits.stream_window_bytes));
  }
  for (const auto& [name, value] :
       {std::pair<absl::string_view, absl::Duration>{"handshake_timeout", limits.handshake_timeout},
        {"write_stall_timeout", limits.write_stall_timeout},
        {"message_arrival_timeout", limits.message_arrival_timeout}}) {
    if (value <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "limits.", name, " is ", absl::FormatDuration(value), ", must be longer than 0"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckKeepalive(const Keepalive& keepalive, absl::Duration idle_timeout) {
  for (const auto& [name, value] :
       {std::pair<absl::string_view, absl::Duration>{"keepalive.interval", keepalive.interval},
        {"keepalive.timeout", keepalive.timeout},
        {"idle_timeout", idle_timeout}}) {
    if (value <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", absl::FormatDuration(value), ", must be longer than 0"));
    }
  }
  if (!keepalive.enabled()) return absl::OkStatus();
  // They are kept by looks, as many in each as it is longer than the shortest.
  const absl::Duration shortest = std::min({idle_timeout, keepalive.interval, keepalive.timeout});
  for (const auto& [name, value] :
       {std::pair<absl::string_view, absl::Duration>{"keepalive.interval", keepalive.interval},
        {"keepalive.timeout", keepalive.timeout},
        {"idle_timeout", idle_timeout}}) {
    if (value != absl::InfiniteDuration() && value > kKeepaliveSpanMost * shortest) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " is ", absl::FormatDuration(value), ", must be at most ", kKeepaliveSpanMost,
          " times the shortest of keepalive.interval, keepalive.timeout and idle_timeout, ",
          absl::FormatDuration(shortest)));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLoadLimits(const LoadLimits& limits) {
  const auto wrong = [](absl::string_view what, const auto& value, absl::string_view rule) {
    return absl::InvalidArgumentError(absl::StrCat("load.", what, " is ", value, ", ", rule));
  };
  for (const MethodLoadLimit& method : limits.methods) {
    if (method.calls_max == 0 && method.bytes_max == 0) {
      return wrong(absl::StrCat("methods calls_max and bytes_max of ", method.method), 0,
                   "one must be at least 1");
    }
  }
  if (limits.any() && limits.control_calls_max == 0) {
    return wrong("control_calls_max", 0, "must be at least 1");
  }
  if (limits.retry_after < absl::ZeroDuration()) {
    return wrong("retry_after", absl::FormatDuration(limits.retry_after), "must not be negative");
  }
  const AdaptiveLimit& adaptive = limits.adaptive;
  if (!adaptive.enabled) return absl::OkStatus();
  if (adaptive.calls_min == 0) return wrong("adaptive.calls_min", 0, "must be at least 1");
  if (adaptive.calls_min > adaptive.calls_initial || adaptive.calls_initial > adaptive.calls_max) {
    return wrong("adaptive.calls_initial", adaptive.calls_initial,
                 "must be from calls_min to calls_max");
  }
  if (!(adaptive.tolerance >= 1)) {
    return wrong("adaptive.tolerance", adaptive.tolerance, "must be at least 1");
  }
  if (!(adaptive.smoothing > 0 && adaptive.smoothing <= 1)) {
    return wrong("adaptive.smoothing", adaptive.smoothing, "must be above 0 and at most 1");
  }
  if (adaptive.long_windows == 0 || adaptive.window_calls_min == 0) {
    return wrong("adaptive.long_windows or window_calls_min", 0, "must be at least 1");
  }
  if (adaptive.window <= absl::ZeroDuration()) {
    return wrong("adaptive.window", absl::FormatDuration(adaptive.window), "must be longer than 0");
  }
  return absl::OkStatus();
}

}  // namespace mi7
