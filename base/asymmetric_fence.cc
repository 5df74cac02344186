#include "base/asymmetric_fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

namespace mi7 {
namespace {

bool Register() {
#if defined(__SANITIZE_THREAD__)
  return false;
#else
  const long commands = ::syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  return commands >= 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0 &&
         ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
#endif
}

}  // namespace

// While static objects are made: in a process that has threads already it takes 30 ms.
const bool base_internal::asymmetric_fences = Register();

void HeavyFence() {
  const auto fence = [] {
    return ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
  };
  // For the caller's own order; the system call alone is documented to do it as well.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  // A forked child may have to register for itself.
  MI7_CHECK(fence() || (Register() && fence()), "fences are used when there are some");
}

}  // namespace mi7
