#pragma once

// ForkGuard: what a forked child must not do with its parent's pipes.
//
// A child shares its parent's open file descriptions, and with them the locks by which the parent
// is alive: the parent would not be dead before the child is. So in a child that is forked (and
// does not exec, which closes them too) the descriptors are closed at once, and the pipe objects
// are of no use: the child connects for itself. The child's copy of the mapping stays, which is why
// that is made through another description (pipe_file.cc).

#include <atomic>

namespace mi7::slot_pipe_internal {

// Registers itself. Thread-safe.
class ForkGuard {
 public:
  explicit ForkGuard(int fd);
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

  // Whether this is a child, and the descriptor closed. Relaxed: written before the child has any
  // other thread.
  bool forked() const { return forked_.load(std::memory_order_relaxed); }

 private:
  static void Prepare();
  static void InParent();
  static void InChild();

  const int fd_;
  std::atomic<bool> forked_{false};
  ForkGuard* previous_ = nullptr;
  ForkGuard* next_ = nullptr;
};

}  // namespace mi7::slot_pipe_internal
