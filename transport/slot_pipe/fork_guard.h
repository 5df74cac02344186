#pragma once

// ForkGuard: what a forked child must not do with its parent's pipes.
//
// A child shares its parent's open file descriptions, and with them the locks by which the parent
// is alive: the parent would not be dead before the child is. So in a child that is forked (and
// does not exec, which closes them too) the descriptors are closed at once, and the pipe objects
// are of no use: the child connects for itself. The child's copy of the mapping stays, which is why
// that is made through another description (pipe_file.cc).

#include <atomic>
#include <memory>

#include "absl/functional/function_ref.h"

namespace mi7::slot_pipe_internal {

// A descriptor that is closed in every forked child. Thread-safe. On the heap: a child walks the
// list of them all, while those of its parent's other threads are never destroyed there.
class ForkGuard {
 public:
  // The guard of the descriptor that `open` makes; null when that is -1, with its errno. No fork
  // comes between: a child of it would have the descriptor, and nobody to close it.
  static std::unique_ptr<ForkGuard> Open(absl::FunctionRef<int()> open);
  // Closes it; again without a fork in between.
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

  // In a forked child another file, or -1.
  int fd() const { return fd_; }
  // Whether this is a child, and the descriptor closed. Relaxed: written before the child has any
  // other thread.
  bool forked() const { return forked_.load(std::memory_order_relaxed); }

 private:
  ForkGuard() = default;
  static void Prepare();
  static void InParent();
  static void InChild();

  int fd_ = -1;
  std::atomic<bool> forked_{false};
  ForkGuard* previous_ = nullptr;
  ForkGuard* next_ = nullptr;
};

}  // namespace mi7::slot_pipe_internal
