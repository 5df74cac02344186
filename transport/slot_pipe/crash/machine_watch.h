#pragma once

// MachineWatch: for how long this machine keeps threads that have something to do from its CPUs,
// so that a test which measures time can tell what it measures from what others do meanwhile.

#include <poll.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/deadline.h"

namespace mi7 {

// A thread on each CPU that this process may use wakes every millisecond, and sees how late that
// is. The threads allocate nothing and take no lock, so a child can be forked meanwhile; it has
// none of them, and must not use or destroy this. One thread uses it.
class MachineWatch {
 public:
  MachineWatch() {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    ::sched_getaffinity(0, sizeof(cpus), &cpus);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &cpus)) seats_.push_back(std::make_unique<Seat>());
    }
    size_t seat = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &cpus)) continue;
      Seat& own = *seats_[seat++];
      own.due_ns = SystemNanos();
      threads_.emplace_back([this, cpu, &own] { Watch(cpu, own); });
    }
  }
  ~MachineWatch() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  MachineWatch(const MachineWatch&) = delete;
  MachineWatch& operator=(const MachineWatch&) = delete;

  // Forgets what was.
  void Restart() {
    for (auto& seat : seats_) seat->late_ns_max = 0;
  }
  // The longest that a thread has been kept waiting since Restart, or is at this moment.
  int64_t kept_ns() const {
    int64_t most = 0;
    const int64_t now_ns = SystemNanos();
    for (const auto& seat : seats_) {
      most = std::max({most, seat->late_ns_max.load(), now_ns - seat->due_ns.load()});
    }
    return most;
  }

 private:
  struct Seat {
    std::atomic<int64_t> due_ns{0};  // when it is to wake next
    std::atomic<int64_t> late_ns_max{0};
  };

  void Watch(size_t cpu, Seat& seat) {
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(cpu, &own);
    ::sched_setaffinity(0, sizeof(own), &own);
    while (!stop_) {
      constexpr int64_t kEveryNs = 1'000'000;
      const timespec time{0, kEveryNs};
      seat.due_ns = SystemNanos() + kEveryNs;
      ::ppoll(nullptr, 0, &time, nullptr);
      const int64_t late_ns = SystemNanos() - seat.due_ns;
      if (late_ns > seat.late_ns_max) seat.late_ns_max = late_ns;
    }
  }

  std::vector<std::unique_ptr<Seat>> seats_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
};

}  // namespace mi7
