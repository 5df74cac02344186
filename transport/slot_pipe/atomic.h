#pragma once

// Atomic<T>: what words that several participants write are made of. It is std::atomic; but where
// the sources are compiled to be run step by step in every order (interleaving/), one whose every
// operation is such a step.

#ifdef MI7_SLOT_PIPE_STEPS
#include "transport/slot_pipe/interleaving/stepped_atomic.h"
#else
#include <atomic>
#endif

namespace mi7::slot_pipe_internal {

#ifdef MI7_SLOT_PIPE_STEPS
template <typename T>
using Atomic = SteppedAtomic<T>;
#else
template <typename T>
using Atomic = std::atomic<T>;
#endif

}  // namespace mi7::slot_pipe_internal
