#pragma once

// ForkGuard: a forked child must not use what only its parent may write.
//
// A child inherits the memory and descriptors of its parent, but none of its threads. Over shared
// memory it would write into the parent's conversation; and as long as it holds a copy of a socket,
// the other end does not notice that the parent died. So a child closes these sockets at once, and
// every use of a connection that was made before the fork is refused.

#include <atomic>
#include <cstdint>

namespace mi7::transport {

class ForkGuard {
 public:
  // Closes `fd` in every forked child, until Forget. Thread-safe; not inside a signal handler.
  static void CloseInChild(int fd);
  static void Forget(int fd);

  // Grows with every fork that this process is the child of.
  static uint32_t generation() { return generation_.load(std::memory_order_relaxed); }

 private:
  friend struct ForkGuardParts;
  // Relaxed: a child has one thread when it changes.
  static inline constinit std::atomic<uint32_t> generation_{0};
};

}  // namespace mi7::transport
