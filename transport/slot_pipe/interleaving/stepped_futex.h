#pragma once

// The futex of actors (../futex.h), for those who start runs.

namespace mi7::slot_pipe_internal {

// Before each run: those of the run before, which may have ended with somebody asleep.
void ForgetSleepers();

}  // namespace mi7::slot_pipe_internal
