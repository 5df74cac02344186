#pragma once

// A connection that has a bad day, from a seed: messages are sent late and a few at a time, and the
// connection may be lost. What connection.h promises still holds, so the conformance suite runs on
// it too. Decorate both ends to disturb both directions; several connections then also overtake
// each other, as each is late by itself. For tests.

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "base/limits.h"
#include "transport/connection.h"
#include "transport/event_loop.h"

namespace mi7::transport::fault {

// What goes wrong, and how often. A value type.
struct Options {
  // Everything that happens follows from it and from the order of calls.
  uint64_t seed = 1;
  // A held message goes on after at most this long, unless it waits for earlier ones.
  absl::Duration delay_max = absl::Microseconds(300);
  // At most so many messages go on at a time, at least one.
  uint32_t burst_max = 32;
  // Of each message, the connection being lost in its place: it and what is behind it are unsent.
  double loss_probability = 0;
  // As `inner` has them. Held messages count for queued_bytes_max.
  Limits limits;
  // Whether `inner` was accepted by a listener.
  bool accepted = false;
};

// `inner` must not have been started. `loop` drives it, and outlives its OnClosed.
std::shared_ptr<Connection> Decorate(std::shared_ptr<Connection> inner, EventLoop* loop,
                                     const Options& options);

}  // namespace mi7::transport::fault
