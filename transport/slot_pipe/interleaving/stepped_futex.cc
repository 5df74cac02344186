// The futex of actors: who sleeps is woken by a wake and by nothing else, so that a wake that is
// lost is found. The system checks the word and lists the sleeper under a lock of its own: one
// step.

#include "transport/slot_pipe/interleaving/stepped_futex.h"

#include <list>

#include "transport/slot_pipe/futex.h"
#include "transport/slot_pipe/interleaving/explorer.h"

namespace mi7::slot_pipe_internal {
namespace {

struct Sleeper {
  const Atomic<uint32_t>* word;
  bool woken = false;
};

// First come, first woken. Those of actors that were killed stay until the next run.
std::list<Sleeper>& Sleepers() {
  static std::list<Sleeper> sleepers;
  return sleepers;
}

}  // namespace

void ForgetSleepers() { Sleepers().clear(); }

void FutexSleep(Atomic<uint32_t>& word, uint32_t expected, int64_t) {
  if (word.load_last() != expected) return;
  const auto self = Sleepers().insert(Sleepers().end(), {&word});
  WaitUntil([self] { return self->woken; });
  Sleepers().erase(self);
}

void FutexWake(Atomic<uint32_t>& word, int count) {
  Step();
  for (Sleeper& sleeper : Sleepers()) {
    if (count > 0 && sleeper.word == &word && !sleeper.woken) {
      sleeper.woken = true;
      --count;
    }
  }
}

}  // namespace mi7::slot_pipe_internal
