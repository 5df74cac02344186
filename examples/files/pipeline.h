#pragma once

#include <cstddef>
#include <deque>
#include <utility>

#include "absl/status/status.h"

namespace files {

// Makes `count` calls, at most `window` (1 or more) of them on their way at a time, on this thread:
// Send() does not wait, so a queue of pending calls is all it takes.
//
// `send(i)` gives the absl::StatusOr<mi7::PendingCall<...>> of call i, `receive(i, response)` gets
// its answer and returns an absl::Status; both go from 0 to count - 1. Ends with the first failure
// of either, or of a call; the calls that are still on their way are cancelled.
template <typename Send, typename Receive>
absl::Status Pipeline(size_t count, size_t window, Send send, Receive receive) {
  std::deque<typename decltype(send(size_t{0}))::value_type> pending;
  size_t sent = 0;
  for (size_t received = 0; received < count; ++received) {
    while (sent < count && pending.size() < window) {
      auto call = send(sent++);
      if (!call.ok()) return call.status();
      pending.push_back(*std::move(call));
    }
    auto response = pending.front().Wait();
    if (!response.ok()) return response.status();
    if (absl::Status status = receive(received, *response); !status.ok()) return status;
    pending.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace files
