#pragma once

// Stepper: runs a child one instruction at a time, and looks at what it has left after each.

#include <sys/types.h>

#include <cstdint>
#include <functional>

namespace mi7::slot_pipe_internal {

// Whether this process may trace its children. Where not, a NOTICE is printed; aborts where it
// should be permitted (TracingIsPermitted).
bool CanTrace();

// Forks; the child runs `act` and exits. Calls `after(step)` after each of its instructions, until
// that returns false: the child is killed then. Returns the number of instructions made. Aborts
// when the child ends in another way than by exiting with 0.
uint64_t StepChild(const std::function<void()>& act, const std::function<bool(uint64_t)>& after);

}  // namespace mi7::slot_pipe_internal
