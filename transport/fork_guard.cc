#include "transport/fork_guard.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/check.h"
#include "base/mutex.h"

namespace mi7::transport {

struct ForkGuardParts {
  // Never destroyed: connections of static objects may outlive every order of destruction.
  static ForkGuardParts& Get() {
    static ForkGuardParts& parts = *new ForkGuardParts;
    return parts;
  }
  ForkGuardParts() {
    // The lock is held across the fork, so that the child finds the list whole.
    const int error =
        ::pthread_atfork([]() ABSL_NO_THREAD_SAFETY_ANALYSIS { Get().mutex.Lock(); },
                         []() ABSL_NO_THREAD_SAFETY_ANALYSIS { Get().mutex.Unlock(); },
                         []() ABSL_NO_THREAD_SAFETY_ANALYSIS { Get().InChild(); });
    MI7_CHECK(error == 0, "pthread_atfork has memory");
  }
  void InChild() ABSL_UNLOCK_FUNCTION(mutex) {
    for (const int fd : fds) ::close(fd);
    fds.clear();
    ForkGuard::generation_.fetch_add(1, std::memory_order_relaxed);
    mutex.Unlock();
  }

  Mutex mutex;
  std::vector<int> fds ABSL_GUARDED_BY(mutex);
};

void ForkGuard::CloseInChild(int fd) {
  ForkGuardParts& parts = ForkGuardParts::Get();
  MutexLock lock(&parts.mutex);
  parts.fds.push_back(fd);
}

void ForkGuard::Forget(int fd) {
  ForkGuardParts& parts = ForkGuardParts::Get();
  MutexLock lock(&parts.mutex);
  const auto found = std::find(parts.fds.begin(), parts.fds.end(), fd);
  if (found == parts.fds.end()) return;
  *found = parts.fds.back();
  parts.fds.pop_back();
}

}  // namespace mi7::transport
