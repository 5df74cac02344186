#pragma once

// The system calls of the hot path, past libc's wrappers.
//
// libc's recv, send and epoll_wait are cancellation points: in a program with threads each pays two
// atomic exchanges for pthread_cancel, which nothing here uses. Measured: 2 % of a blocking round
// trip on one CPU. Sanitizers see system calls only through libc, so with them libc is used.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MI7_LIBC_SYSTEM_CALLS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define MI7_LIBC_SYSTEM_CALLS 1
#endif
#endif

namespace mi7::transport::sys {

// As the functions of the same name: -1 and errno on failure.

#ifdef MI7_LIBC_SYSTEM_CALLS

inline ssize_t Recv(int fd, void* data, size_t size, int flags) {
  return ::recv(fd, data, size, flags);
}
inline ssize_t Send(int fd, const void* data, size_t size, int flags) {
  return ::send(fd, data, size, flags);
}
inline ssize_t SendMsg(int fd, const msghdr* message, int flags) {
  return ::sendmsg(fd, message, flags);
}
inline int EpollWait(int fd, epoll_event* events, int count, int timeout_ms) {
  return ::epoll_wait(fd, events, count, timeout_ms);
}

#else

inline ssize_t Recv(int fd, void* data, size_t size, int flags) {
  return ::syscall(SYS_recvfrom, fd, data, size, flags, nullptr, nullptr);
}
inline ssize_t Send(int fd, const void* data, size_t size, int flags) {
  return ::syscall(SYS_sendto, fd, data, size, flags, nullptr, 0);
}
inline ssize_t SendMsg(int fd, const msghdr* message, int flags) {
  return ::syscall(SYS_sendmsg, fd, message, flags);
}
inline int EpollWait(int fd, epoll_event* events, int count, int timeout_ms) {
  // Not SYS_epoll_wait, which newer architectures do not have.
  return static_cast<int>(
      ::syscall(SYS_epoll_pwait, fd, events, count, timeout_ms, nullptr, size_t{0}));
}

#endif
#undef MI7_LIBC_SYSTEM_CALLS

}  // namespace mi7::transport::sys
