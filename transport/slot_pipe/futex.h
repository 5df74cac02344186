#pragma once

// Sleeping on a shared word, as the system does it; between processes.

#include <cstdint>

#include "transport/slot_pipe/atomic.h"

namespace mi7::slot_pipe_internal {

// Sleeps while the word is `expected`, for `timeout_ns` at most, which is more than 0. May return
// early.
void FutexSleep(Atomic<uint32_t>& word, uint32_t expected, int64_t timeout_ns);
// Wakes `count` sleepers at most.
void FutexWake(Atomic<uint32_t>& word, int count);

}  // namespace mi7::slot_pipe_internal
