// Makes a subject count its system calls (mi7_counting): defines the C library's functions through
// which mi7, libuv and Abseil enter the kernel, which count and go on to the C library's own. What
// is counted so takes no longer than it does otherwise, so nobody waits in another way because of
// it, as a traced process does.
//
// Not seen is what the C library does by itself: a pthread mutex or condition variable that has to
// wait, memory that malloc gets from the kernel, looking up host names; and what reads the clock,
// which is most often no system call. A function that is used in calls has to be added here:
// bench/smoke_test.sh holds the count against that of ptrace where nobody spins.

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "bench/harness/system_call_kinds.h"
#include "bench/subjects/counting.h"

// The sanitizers bring functions of their own; nothing is counted then.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

void Count(long number, unsigned long second = 0) {
  mi7::bench::Counts& counts = mi7::bench::CountsNow();
  counts.system_calls.fetch_add(1, std::memory_order_relaxed);
  if (mi7::bench::Wakes(number, second)) {
    counts.wakes.fetch_add(1, std::memory_order_relaxed);
    if (number == SYS_futex) counts.futex_wakes.fetch_add(1, std::memory_order_relaxed);
  }
  if (mi7::bench::Receives(number)) counts.receives.fetch_add(1, std::memory_order_relaxed);
  if (mi7::bench::Sends(number)) counts.sends.fetch_add(1, std::memory_order_relaxed);
  if (mi7::bench::Polls(number)) counts.polls.fetch_add(1, std::memory_order_relaxed);
  if (number == SYS_getrusage) counts.cpu_questions.fetch_add(1, std::memory_order_relaxed);
  if (number == SYS_sched_yield) counts.cpu_offers.fetch_add(1, std::memory_order_relaxed);
}

// The C library's own function. Looked up by whoever calls it first; all find the same.
void* Real(std::atomic<void*>& known, const char* name) {
  void* found = known.load(std::memory_order_relaxed);
  if (found != nullptr) [[likely]]
    return found;
  found = ::dlsym(RTLD_NEXT, name);
  if (found == nullptr) std::abort();  // it linked, so the library has it
  known.store(found, std::memory_order_relaxed);
  return found;
}

}  // namespace

// Defines `name`, which makes system call `number`.
#define MI7_COUNTED(result, name, number, parameters, arguments)     \
  result name parameters {                                           \
    static constinit std::atomic<void*> known = nullptr;             \
    using Function = result(*) parameters;                           \
    Count(number);                                                   \
    return reinterpret_cast<Function>(Real(known, #name)) arguments; \
  }

extern "C" {

// The system call of any number.
long syscall(long number, ...) {
  static constinit std::atomic<void*> known = nullptr;
  // It takes as many as there can be; who has fewer leaves the others to chance.
  va_list rest;
  va_start(rest, number);
  unsigned long arguments[6];
  for (unsigned long& argument : arguments) argument = va_arg(rest, unsigned long);
  va_end(rest);
  Count(number, arguments[1]);
  return reinterpret_cast<long (*)(long, ...)>(Real(known, "syscall"))(
      number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

int fcntl(int fd, int command, ...) {
  static constinit std::atomic<void*> known = nullptr;
  va_list rest;
  va_start(rest, command);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  Count(SYS_fcntl);
  return reinterpret_cast<int (*)(int, int, ...)>(Real(known, "fcntl"))(fd, command, argument);
}

// Sockets and other descriptors.
MI7_COUNTED(ssize_t, read, SYS_read, (int fd, void* data, size_t size), (fd, data, size))
MI7_COUNTED(ssize_t, write, SYS_write, (int fd, const void* data, size_t size), (fd, data, size))
MI7_COUNTED(ssize_t, readv, SYS_readv, (int fd, const iovec* pieces, int count),
            (fd, pieces, count))
MI7_COUNTED(ssize_t, writev, SYS_writev, (int fd, const iovec* pieces, int count),
            (fd, pieces, count))
MI7_COUNTED(ssize_t, recv, SYS_recvfrom, (int fd, void* data, size_t size, int flags),
            (fd, data, size, flags))
MI7_COUNTED(ssize_t, send, SYS_sendto, (int fd, const void* data, size_t size, int flags),
            (fd, data, size, flags))
MI7_COUNTED(ssize_t, recvmsg, SYS_recvmsg, (int fd, msghdr* message, int flags),
            (fd, message, flags))
MI7_COUNTED(ssize_t, sendmsg, SYS_sendmsg, (int fd, const msghdr* message, int flags),
            (fd, message, flags))
MI7_COUNTED(int, socket, SYS_socket, (int family, int type, int protocol), (family, type, protocol))
MI7_COUNTED(int, shutdown, SYS_shutdown, (int fd, int how), (fd, how))
MI7_COUNTED(int, setsockopt, SYS_setsockopt,
            (int fd, int level, int name, const void* value, socklen_t size),
            (fd, level, name, value, size))
MI7_COUNTED(int, getsockopt, SYS_getsockopt,
            (int fd, int level, int name, void* value, socklen_t* size),
            (fd, level, name, value, size))
MI7_COUNTED(int, close, SYS_close, (int fd), (fd))

// Waiting.
MI7_COUNTED(int, epoll_ctl, SYS_epoll_ctl, (int set, int operation, int fd, epoll_event* event),
            (set, operation, fd, event))
MI7_COUNTED(int, epoll_wait, SYS_epoll_pwait, (int set, epoll_event* events, int count, int ms),
            (set, events, count, ms))
MI7_COUNTED(int, epoll_pwait, SYS_epoll_pwait,
            (int set, epoll_event* events, int count, int ms, const sigset_t* mask),
            (set, events, count, ms, mask))
MI7_COUNTED(int, epoll_pwait2, SYS_epoll_pwait2,
            (int set, epoll_event* events, int count, const timespec* time, const sigset_t* mask),
            (set, events, count, time, mask))
MI7_COUNTED(int, poll, SYS_ppoll, (pollfd fds[], nfds_t count, int ms), (fds, count, ms))
MI7_COUNTED(int, ppoll, SYS_ppoll,
            (pollfd fds[], nfds_t count, const timespec* time, const sigset_t* mask),
            (fds, count, time, mask))
MI7_COUNTED(int, nanosleep, SYS_nanosleep, (const timespec* time, timespec* left), (time, left))
MI7_COUNTED(int, clock_nanosleep, SYS_clock_nanosleep,
            (clockid_t clock, int flags, const timespec* time, timespec* left),
            (clock, flags, time, left))
MI7_COUNTED(int, sched_yield, SYS_sched_yield, (), ())
MI7_COUNTED(int, sched_getaffinity, SYS_sched_getaffinity,
            (pid_t thread, size_t size, cpu_set_t* cpus), (thread, size, cpus))
MI7_COUNTED(int, getrusage, SYS_getrusage, (__rusage_who_t who, rusage* usage), (who, usage))
MI7_COUNTED(pid_t, getpid, SYS_getpid, (), ())

// Memory.
MI7_COUNTED(void*, mmap, SYS_mmap,
            (void* address, size_t size, int protection, int flags, int fd, off_t offset),
            (address, size, protection, flags, fd, offset))
MI7_COUNTED(int, munmap, SYS_munmap, (void* address, size_t size), (address, size))
MI7_COUNTED(int, madvise, SYS_madvise, (void* address, size_t size, int advice),
            (address, size, advice))
MI7_COUNTED(int, fallocate, SYS_fallocate, (int fd, int mode, off_t offset, off_t size),
            (fd, mode, offset, size))

}  // extern "C"

#undef MI7_COUNTED

#endif
