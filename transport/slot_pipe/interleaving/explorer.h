#pragma once

// Explorer: runs a few actors in every order of their steps, within bounds.
//
// A step is an operation on a SteppedAtomic; which of several values a load returns, where memory
// orders leave that open, is a choice as well (Bounds::stale_loads). One actor runs at a time;
// before each of its steps the explorer chooses whose step comes next. All choices are gone
// through, depth first, with the same actors started anew each time: stateless model checking of
// the code itself, with a bound on preemptions as in CHESS (Musuvathi, Qadeer, "Iterative Context
// Bounding for Systematic Testing of Multithreaded Programs", 2007). Where an actor waits, others
// go on for free.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mi7::slot_pipe_internal {

// One start of a scenario: what its actors do, and what has to be true at the end.
struct Run {
  std::vector<std::function<void()>> actors;
  // Called when all actors have ended: "" when all is well. Its own steps are nobody's choice.
  std::function<std::string()> check;
};

struct Bounds {
  // How often an actor that could go on is made to wait for others.
  int preemptions = 2;
  // Whether actor 0 dies before one of its steps, at each of them in turn, or not at all.
  bool death = false;
  // How many loads return something else than what was written last, as far as their memory orders
  // permit it; negative: memory is sequentially consistent, whatever the orders.
  int stale_loads = -1;
};

struct Explored {
  uint64_t orders = 0;  // in which the steps were taken
  uint64_t steps = 0;
  std::string wrong;  // of the first one with which something was not well; "" for none
};

// Explores what `start` makes, from a fresh state each time. Not thread-safe, one at a time.
Explored Explore(const std::function<Run()>& start, const Bounds& bounds);

// --- For actors.

// Waits until `condition` holds, which the actor is then the next to see. Its reads are no steps.
// When nobody can go on, the run is not well: "nobody goes on".
void WaitUntil(std::function<bool()> condition);
// Whether actor 0 was killed.
bool Killed();
// Gets to know all that actor 0 knew at its end, as by a lock that the system frees.
void KnowWhatTheKilledKnew();
// Does `work` as one step, whatever is in it: as if others had done it while all actors stand.
void AsOneStep(const std::function<void()>& work);

}  // namespace mi7::slot_pipe_internal
