#pragma once

// Which system calls wake somebody: who looks at a process from outside and who counts inside of
// it mean the same.

#include <linux/futex.h>
#include <sys/syscall.h>

namespace mi7::bench {

// Whether system call `number` does, whose second argument is `second`.
constexpr bool Wakes(long number, unsigned long second) {
  switch (number) {
    case SYS_write:
    case SYS_writev:
    case SYS_sendto:
    case SYS_sendmsg:
      return true;
    case SYS_futex: {
      const unsigned long operation = second & static_cast<unsigned long>(FUTEX_CMD_MASK);
      return operation == FUTEX_WAKE || operation == FUTEX_WAKE_BITSET;
    }
    default:
      return false;
  }
}

}  // namespace mi7::bench
