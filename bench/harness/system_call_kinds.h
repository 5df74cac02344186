#pragma once

// What system calls are for: who looks at a process from outside and who counts inside of it mean
// the same.

#include <linux/futex.h>
#include <sys/syscall.h>

namespace mi7::bench {

// Whether system call `number` takes from a socket, or looks in vain whether something is there.
constexpr bool Receives(long number) {
  return number == SYS_recvfrom || number == SYS_recvmsg || number == SYS_recvmmsg;
}

// Whether it gives to a socket.
constexpr bool Sends(long number) {
  return number == SYS_sendto || number == SYS_sendmsg || number == SYS_sendmmsg;
}

// Whether it waits until something can be received, or looks whether anything can.
constexpr bool Polls(long number) {
  return number == SYS_epoll_pwait || number == SYS_epoll_pwait2 || number == SYS_ppoll;
}

// Whether it wakes somebody. `second` is its second argument.
constexpr bool Wakes(long number, unsigned long second) {
  if (number == SYS_futex) {
    const unsigned long operation = second & static_cast<unsigned long>(FUTEX_CMD_MASK);
    return operation == FUTEX_WAKE || operation == FUTEX_WAKE_BITSET;
  }
  return number == SYS_write || number == SYS_writev || Sends(number);
}

}  // namespace mi7::bench
