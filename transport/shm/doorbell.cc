#include "transport/shm/doorbell.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace mi7::transport::shm {
namespace {

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

// Bound of a sleep on a system without futex_waitv (before Linux 5.16, or filtered), where only the
// peer's bell can be waited for: so late is seen what this process wants of the sleeper.
constexpr int64_t kBlindSleepNs = 20'000'000;

uint64_t AddressOf(const std::atomic<uint32_t>& word) { return reinterpret_cast<uint64_t>(&word); }

}  // namespace

void Doorbell::SleepInFutex(const std::atomic<uint32_t>& kick, uint32_t kick_seen,
                            const std::atomic<uint32_t>& other, uint32_t other_seen,
                            Deadline deadline) {
  static std::atomic<bool> no_waitv{false};
  if (!no_waitv.load(std::memory_order_relaxed)) {
    futex_waitv waits[3] = {};
    waits[0].uaddr = AddressOf(theirs_.bell);
    waits[0].val = bell_seen_;
    waits[0].flags = FUTEX_32;  // shared
    waits[1].uaddr = AddressOf(kick);
    waits[1].val = kick_seen;
    waits[1].flags = FUTEX_32 | FUTEX_PRIVATE_FLAG;
    waits[2].uaddr = AddressOf(other);
    waits[2].val = other_seen;
    waits[2].flags = FUTEX_32 | FUTEX_PRIVATE_FLAG;
    const int64_t at_ns = deadline.infinite() ? 0 : deadline.ForSystem().at_ns();
    const timespec until{static_cast<time_t>(at_ns / 1'000'000'000),
                         static_cast<long>(at_ns % 1'000'000'000)};
    const long result = ::syscall(SYS_futex_waitv, waits, 3, 0,
                                  deadline.infinite() ? nullptr : &until, CLOCK_MONOTONIC);
    // Filters of containers that do not know it say EPERM.
    if (result >= 0 || (errno != ENOSYS && errno != EPERM)) return;
    no_waitv.store(true, std::memory_order_relaxed);
  }
  if (kick.load(std::memory_order_seq_cst) != kick_seen ||
      other.load(std::memory_order_seq_cst) != other_seen) {
    return;
  }
  const timespec timeout{0, static_cast<long>(std::min(deadline.remaining_ns(), kBlindSleepNs))};
  ::syscall(SYS_futex, AddressOf(theirs_.bell), FUTEX_WAIT, bell_seen_, &timeout, nullptr, 0);
}

void Doorbell::WakeSlow(uint32_t attention) {
  const uint32_t sleep = attention / kAttentionStep;
  if (woken_.exchange(sleep, std::memory_order_relaxed) == sleep) return;
  if ((attention & kModeMask) == kFutex) {
    // Release is not needed for the record, which `sequence` publishes; the system call orders it.
    mine_.bell.fetch_add(1, std::memory_order_seq_cst);
    ::syscall(SYS_futex, AddressOf(mine_.bell), FUTEX_WAKE, 1, nullptr, nullptr, 0);
  } else {
    // Full: then there are bytes that wake it already. Broken: then it is at its end.
    const uint8_t byte = kWakeByte;
    static_cast<void>(!::send(socket_, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL));
  }
}

void WakeInProcess(const std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, AddressOf(word), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace mi7::transport::shm
