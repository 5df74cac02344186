#include "transport/slot_pipe/event.h"

#include <climits>

#include "transport/slot_pipe/futex.h"

namespace mi7::slot_pipe_internal {

bool Event::Await(absl::FunctionRef<bool()> attempt, absl::FunctionRef<bool(uint32_t)> sleep,
                  absl::FunctionRef<bool()> more) {
  bool slept = false;
  for (;;) {
    const uint32_t ticket = Declare();
    if (attempt()) break;
    if (!sleep(ticket)) return false;
    slept = true;
  }
  // The wake that ended our sleep may have been meant for two.
  if (slept && more()) Notify();
  return true;
}

void Event::Sleep(uint32_t ticket, int64_t timeout_ns) {
  if (timeout_ns > 0) FutexSleep(word_, ticket, timeout_ns);
}

void Event::Wake(uint32_t word, int count) {
  // Adding 1 takes the declaration away and counts the sequence. When it fails, somebody else has
  // done that, and wakes.
  if (word_.compare_exchange_strong(word, word + 1, std::memory_order_seq_cst,
                                    std::memory_order_relaxed)) {
    FutexWake(word_, count);
  }
}

void Event::NotifyAll() {
  // Also for sleepers whose declaration was taken away by one who died before it woke them.
  word_.fetch_add(2, std::memory_order_seq_cst);
  FutexWake(word_, INT_MAX);
}

}  // namespace mi7::slot_pipe_internal
