#include "tests/conformance/call/system_call_counts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>

namespace mi7::conformance {

Counts counts, watched_counts;
thread_local bool watched = false;

}  // namespace mi7::conformance

#if defined(__x86_64__)
namespace {

using mi7::conformance::Counts;

thread_local long times_asked = 0;

void Count(std::atomic<uint64_t> Counts::*what, uint64_t by = 1) {
  mi7::conformance::counts.*what += by;
  if (mi7::conformance::watched) mi7::conformance::watched_counts.*what += by;
}

long SystemCall(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}

}  // namespace

extern "C" {
long syscall(long number, ...) noexcept {  // NOLINT
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  switch (number) {
    case SYS_futex:
      switch (arguments[1] & 0x7f) {
        case 0:  // FUTEX_WAIT
          // On a word that it shares with the peer, where there is no futex_waitv.
          if (arguments[1] == 0) Count(&Counts::bell_sleeps);
          [[fallthrough]];
        case 9:  // FUTEX_WAIT_BITSET
          Count(&Counts::sleeps);
          break;
        default:
          Count(&Counts::futex_wakes);
      }
      break;
    case 449:  // SYS_futex_waitv
      Count(&Counts::bell_sleeps);
      Count(&Counts::sleeps);
      break;
    case SYS_epoll_pwait:
      Count(static_cast<int>(arguments[3]) == 0 ? &Counts::looks : &Counts::sleeps);
      break;
    default:
      Count(&Counts::others);
  }
  return SystemCall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                    arguments[5]);
}
ssize_t send(int fd, const void* data, size_t size, int flags) {
  Count(&Counts::bytes_sent, size);
  return SystemCall(SYS_sendto, fd, reinterpret_cast<long>(data), static_cast<long>(size), flags, 0,
                    0);
}
// Only loops are called by it.
ssize_t write(int fd, const void* data, size_t size) {
  Count(&Counts::loop_calls);
  return SystemCall(SYS_write, fd, reinterpret_cast<long>(data), static_cast<long>(size), 0, 0, 0);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  Count(&Counts::others);
  return SystemCall(SYS_recvmsg, fd, reinterpret_cast<long>(message), flags, 0, 0, 0);
}
// Passes memory of a size class to the peer.
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  Count(&Counts::others);
  return SystemCall(SYS_sendmsg, fd, reinterpret_cast<long>(message), flags, 0, 0, 0);
}
// Commits pages, or gives them back.
int fallocate(int fd, int mode, off_t offset, off_t size) {
  Count(&Counts::others);
  return static_cast<int>(SystemCall(SYS_fallocate, fd, mode, offset, size, 0, 0));
}
int epoll_pwait2(int fd, epoll_event* events, int count, const timespec* timeout,
                 const sigset_t* mask) {
  Count(&Counts::sleeps);
  return static_cast<int>(SystemCall(SYS_epoll_pwait2, fd, reinterpret_cast<long>(events), count,
                                     reinterpret_cast<long>(timeout), reinterpret_cast<long>(mask),
                                     sizeof(long)));
}
int sched_yield() noexcept {
  Count(&Counts::yields);
  return static_cast<int>(SystemCall(SYS_sched_yield, 0, 0, 0, 0, 0, 0));
}
int getrusage(__rusage_who_t who, rusage* usage) noexcept {
  Count(&Counts::asks);
  const long result = SystemCall(SYS_getrusage, who, reinterpret_cast<long>(usage), 0, 0, 0, 0);
  if (mi7::conformance::watched) usage->ru_nivcsw += ++times_asked;
  return static_cast<int>(result);
}
}  // extern "C"
#endif
