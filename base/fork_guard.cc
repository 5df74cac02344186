#include "base/fork_guard.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace mi7 {

struct ForkGuardParts {
  // Never destroyed: objects of static storage may outlive every order of destruction.
  static ForkGuardParts& Get() {
    static ForkGuardParts& parts = *new ForkGuardParts;
    return parts;
  }
  ForkGuardParts() {
    const int error = ::pthread_atfork([] { Get().Prepare(); }, [] { Get().InParent(); },
                                       [] { Get().InChild(); });
    MI7_CHECK(error == 0, "pthread_atfork has memory");
  }

  // Everything is held across the fork, so that the child finds it whole.
  void Prepare() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    mutex.Lock();
    for (Mutex* const other : held) other->Lock();
  }
  void InParent() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (Mutex* const other : held) other->Unlock();
    mutex.Unlock();
  }
  void InChild() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (size_t fd = 0; fd < ours.size(); ++fd) {
      if (ours[fd]) ::close(static_cast<int>(fd));
    }
    ours.clear();
    ForkGuard::generation_.fetch_add(1, std::memory_order_relaxed);
    InParent();
  }

  Mutex mutex;
  std::vector<bool> ours ABSL_GUARDED_BY(mutex);  // index: descriptor
  std::vector<Mutex*> held ABSL_GUARDED_BY(mutex);
};

namespace {
// Forks count from the start, whatever is made first.
[[maybe_unused]] const ForkGuardParts& counting_since_start = ForkGuardParts::Get();
}  // namespace

void ForkGuard::CloseInChild(int fd) {
  ForkGuardParts& parts = ForkGuardParts::Get();
  const auto index = static_cast<size_t>(fd);
  MutexLock lock(&parts.mutex);
  if (index >= parts.ours.size()) parts.ours.resize(index + 1);
  parts.ours[index] = true;
}

void ForkGuard::Forget(int fd) {
  ForkGuardParts& parts = ForkGuardParts::Get();
  MutexLock lock(&parts.mutex);
  parts.ours[static_cast<size_t>(fd)] = false;
}

void ForkGuard::Close(int fd) {
  const int error = errno;
  {
    ForkGuardParts& parts = ForkGuardParts::Get();
    MutexLock lock(&parts.mutex);
    parts.ours[static_cast<size_t>(fd)] = false;
    ::close(fd);
  }
  errno = error;
}

void ForkGuard::HoldAcrossFork(Mutex* mutex) {
  ForkGuardParts& parts = ForkGuardParts::Get();
  MutexLock lock(&parts.mutex);
  parts.held.push_back(mutex);
}

absl::Status ForkGuard::Refusal(absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat(what,
                   " was made before fork() by the parent process, which alone may use it; make a "
                   "new one in the child"));
}

}  // namespace mi7
