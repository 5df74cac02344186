#pragma once

// What a process does with a pipe while it is killed, and in what state it finds the pipe.

#include <vector>

#include "transport/slot_pipe/crash/ledger.h"

namespace mi7::slot_pipe_internal {

// Before: in a process that lives. Act: in the one that is killed.
struct Scenario {
  const char* name;
  void (*before)(SlotPipe& pipe, Ledger& ledger);
  void (*act)(Ledger& ledger);  // connects to the pipe called kPipe and leaves it
};

inline constexpr char kPipe[] = "victim";
inline constexpr PipeOptions kOptions = {
    .slots = 4, .slot_bytes = 64, .participants = 3, .attempts_max = 0, .checksum = true};

const std::vector<Scenario>& Scenarios();

}  // namespace mi7::slot_pipe_internal
