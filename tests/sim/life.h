#pragma once

// Life: what is known of a server of the simulation, from its start to its end.

#include <algorithm>
#include <cstdint>
#include <limits>

namespace mi7::sim {

inline constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

struct Life {
  uint64_t number;
  int64_t began_ns;
  int64_t knows_ns;  // for how long it certainly knows a call that has ended
  // Its shutdown: its begin, from which on it begins no calls; by when it has to be over; when what
  // was left was cut off; its end, after which it does nothing.
  int64_t drained_ns = kNever;
  int64_t deadline_ns = kNever;
  int64_t cut_off_ns = kNever;
  int64_t over_ns = kNever;
  int64_t killed_ns = kNever;
  // Whether its clients can tell it from another server (Hello.instanceId).
  bool named = false;
  // Of its handlers.
  uint64_t running = 0;
  int64_t answered_last_ns = 0;

  bool drained() const { return drained_ns != kNever; }
  // When its connections were ended, whatever was on its way.
  int64_t lost_ns() const { return std::min(cut_off_ns, killed_ns); }
};

}  // namespace mi7::sim
