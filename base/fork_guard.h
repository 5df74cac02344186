#pragma once

// ForkGuard: what a forked child must not touch, because its parent uses it.
//
// A child inherits the memory and descriptors of its parent, but none of its threads. Wrote it to
// the parent's sockets, the peer would take both for one; and as long as it holds a copy of one,
// the peer does not notice that the parent died. So a child closes them at once, every object that
// needs the parent's threads, sockets or memory remembers the process that made it, and refuses to
// be used in another. What is made in the child works: locks that all objects of a process share
// are free there.
//
//   const uint32_t made_in_ = ForkGuard::generation();
//   bool forked() const { return ForkGuard::generation() != made_in_; }

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"

namespace mi7 {

// Thread-safe; not inside a signal handler. What is done by vfork, posix_spawn, system or popen is
// no fork here: descriptors are closed by exec.
class ForkGuard {
 public:
  // Grows with every fork that this process is the child of.
  static uint32_t generation() { return generation_.load(std::memory_order_relaxed); }
  // Whether this process is such a child. Only there need anything compare generations.
  static bool in_child() { return generation() != 0; }

  // Closes `fd` in every forked child, until Close or Forget. The number may be another
  // descriptor's there: it is for the owner to know that.
  static void CloseInChild(int fd);
  static void Forget(int fd);
  // Forget and close, without a fork in between. Keeps errno.
  static void Close(int fd);

  // No fork while somebody holds `mutex`, which lives for ever: a child finds it free. Whoever
  // holds it takes no other lock and does not fork.
  static void HoldAcrossFork(Mutex* mutex);

  // FAILED_PRECONDITION: `what`, such as "connection to tcp:[::1]:80", is the parent's.
  static absl::Status Refusal(absl::string_view what);

 private:
  friend struct ForkGuardParts;
  // Relaxed: a child has one thread when it changes.
  static inline constinit std::atomic<uint32_t> generation_{0};
};

}  // namespace mi7
