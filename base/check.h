#pragma once

// MI7_CHECK: for our own bugs only. What the peer, the user or the world gets wrong is an
// absl::Status, never a check.

#include <cstdio>
#include <cstdlib>

namespace mi7::base_internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* expression,
                                     const char* why) {
  std::fprintf(stderr, "%s:%d: mi7 bug, please report it: %s: check failed: %s\n", file, line, why,
               expression);
  std::abort();
}

}  // namespace mi7::base_internal

// Aborts with `why` (a string literal that says which invariant broke) when `condition` is false.
#define MI7_CHECK(condition, why)                                             \
  do {                                                                        \
    if (!(condition)) [[unlikely]]                                            \
      ::mi7::base_internal::CheckFailed(__FILE__, __LINE__, #condition, why); \
  } while (false)
