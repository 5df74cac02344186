#pragma once

// For tests of waits: SleepWatch, which tells when another thread sleeps, and AwaitOthersAsleep.

#include <sched.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/time/time.h"
#include "base/deadline.h"

namespace mi7 {

namespace sleep_watch_internal {

inline bool Sleeps(const std::string& thread) {
  std::ifstream file("/proc/self/task/" + thread + "/stat");
  const std::string stat((std::istreambuf_iterator<char>(file)), {});
  const size_t name_end = stat.rfind(')');  // "number (name) S ..."
  return name_end != std::string::npos && stat.compare(name_end, 4, ") S ") == 0;
}

// Looks until it is so, for a minute.
template <typename Condition>
bool Await(Condition condition) {
  const Deadline patience = Deadline::After(absl::Seconds(60));
  while (!condition()) {
    if (patience.passed()) return false;
    ::sched_yield();
  }
  return true;
}

}  // namespace sleep_watch_internal

// What one thread does between AboutToSleep and its wait is nothing for which it could sleep. So
// when it sleeps, it is in its wait.
class SleepWatch {
 public:
  // By the thread, before each wait.
  void AboutToSleep() { thread_.store(::gettid(), std::memory_order_release); }

  // By another one: looks until the wait has come to sleep. False: it did not within a minute.
  [[nodiscard]] bool Await() {
    const bool sleeps = sleep_watch_internal::Await([this] {
      const pid_t thread = thread_.load(std::memory_order_acquire);
      return thread != 0 && sleep_watch_internal::Sleeps(std::to_string(thread));
    });
    thread_.store(0, std::memory_order_relaxed);
    return sleeps;
  }

 private:
  std::atomic<pid_t> thread_{0};
};

// Looks until all other threads of this process are seen asleep, one after the other: so nobody
// wakes any of them, unless it wakes by itself. False: that did not come within a minute.
[[nodiscard]] inline bool AwaitOthersAsleep() {
  const std::string self = std::to_string(::gettid());
  return sleep_watch_internal::Await([&self] {
    const std::filesystem::directory_iterator threads("/proc/self/task");
    return std::all_of(begin(threads), end(threads), [&self](const auto& thread) {
      const std::string number = thread.path().filename();
      return number == self || sleep_watch_internal::Sleeps(number);
    });
  });
}

}  // namespace mi7
