#include "transport/slot_pipe/event.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace mi7::slot_pipe_internal {
namespace {

// The word of an atomic, for the system call. Not FUTEX_PRIVATE: other processes wait on it too.
uint32_t* Word(std::atomic<uint32_t>& word) {
  static_assert(sizeof(word) == sizeof(uint32_t));
  return reinterpret_cast<uint32_t*>(&word);
}

}  // namespace

void Event::Sleep(uint32_t ticket, int64_t timeout_ns) {
  if (timeout_ns <= 0) return;
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                         static_cast<long>(timeout_ns % 1'000'000'000)};
  ::syscall(SYS_futex, Word(word_), FUTEX_WAIT, ticket, &timeout);
}

void Event::Wake(uint32_t word, int count) {
  // Adding 1 takes the declaration away and counts the sequence. When it fails, somebody else has
  // done that, and wakes.
  if (word_.compare_exchange_strong(word, word + 1, std::memory_order_seq_cst,
                                    std::memory_order_relaxed)) {
    ::syscall(SYS_futex, Word(word_), FUTEX_WAKE, count);
  }
}

void Event::NotifyAll() {
  // Also for sleepers whose declaration was taken away by one who died before it woke them.
  word_.fetch_add(2, std::memory_order_seq_cst);
  ::syscall(SYS_futex, Word(word_), FUTEX_WAKE, INT_MAX);
}

}  // namespace mi7::slot_pipe_internal
