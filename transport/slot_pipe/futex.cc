#include "transport/slot_pipe/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace mi7::slot_pipe_internal {
namespace {

// The word of an atomic, for the system call. Not FUTEX_PRIVATE: other processes wait on it too.
uint32_t* Word(Atomic<uint32_t>& word) {
  static_assert(sizeof(word) == sizeof(uint32_t));
  return reinterpret_cast<uint32_t*>(&word);
}

}  // namespace

void FutexSleep(Atomic<uint32_t>& word, uint32_t expected, int64_t timeout_ns) {
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                         static_cast<long>(timeout_ns % 1'000'000'000)};
  ::syscall(SYS_futex, Word(word), FUTEX_WAIT, expected, &timeout);
}

void FutexWake(Atomic<uint32_t>& word, int count) {
  ::syscall(SYS_futex, Word(word), FUTEX_WAKE, count);
}

}  // namespace mi7::slot_pipe_internal
