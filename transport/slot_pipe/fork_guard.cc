#include "transport/slot_pipe/fork_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <utility>

#include "base/check.h"
#include "base/mutex.h"

namespace mi7::slot_pipe_internal {
namespace {

// fork() is a matter of the whole process, and so is this list.
constinit Mutex mutex;
constinit ForkGuard* first = nullptr;

}  // namespace

std::unique_ptr<ForkGuard> ForkGuard::Open(absl::FunctionRef<int()> open) {
  static const bool registered = ::pthread_atfork(&Prepare, &InParent, &InChild) == 0;
  MI7_CHECK(registered, "fork handlers can be registered");
  std::unique_ptr<ForkGuard> guard(new ForkGuard);
  int error = 0;
  {
    MutexLock lock(&mutex);
    guard->fd_ = open();
    error = errno;
    guard->next_ = first;
    if (first != nullptr) first->previous_ = guard.get();
    first = guard.get();
  }
  if (guard->fd_ < 0) guard = nullptr;
  errno = error;
  return guard;
}

ForkGuard::~ForkGuard() {
  MutexLock lock(&mutex);
  (previous_ != nullptr ? previous_->next_ : first) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
  if (fd_ >= 0) ::close(fd_);
}

void ForkGuard::Prepare() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex.Lock(); }
void ForkGuard::InParent() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex.Unlock(); }

void ForkGuard::InChild() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (ForkGuard* guard = first; guard != nullptr; guard = guard->next_) {
    // Relaxed: a child of fork() has this one thread.
    guard->forked_.store(true, std::memory_order_relaxed);
    if (guard->fd_ < 0) continue;  // never open, or closed in a parent that was a child
    // Another file under the same number, so that who uses it meanwhile or closes it later does
    // nothing to others.
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    const bool replaced = null >= 0 && ::dup3(null, guard->fd_, O_CLOEXEC) >= 0;
    if (null >= 0) ::close(null);
    // There may be no such file here, nor a descriptor to spare. Then the number is soon that of
    // something else, and none of ours.
    if (!replaced) ::close(std::exchange(guard->fd_, -1));
  }
  mutex.Unlock();
}

}  // namespace mi7::slot_pipe_internal
