#include "base/tracing_testing.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "base/check.h"

namespace mi7 {
namespace {

// Whether a filter of system calls applies to this process, which may refuse ptrace.
bool IsFiltered() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("Seccomp:", 0) == 0) return line.find_first_of("12") != std::string::npos;
  }
  return true;  // a system that does not tell
}

// Whether Yama keeps everybody from tracing, their own children, too.
bool IsForbidden() {
  int scope = 0;
  std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope;
  return scope >= 3;
}

}  // namespace

bool TracingIsPermitted(bool can) {
  if (can) return true;
  const char* const required = std::getenv("MI7_REQUIRE_PTRACE");
  const bool may_fail =
      required != nullptr ? std::strcmp(required, "0") == 0 : IsFiltered() || IsForbidden();
  MI7_CHECK(may_fail,
            "this machine should permit ptrace, and it fails; MI7_REQUIRE_PTRACE=0 lets tests that "
            "need it pass with a NOTICE");
  std::printf("NOTICE: ptrace is not permitted here: nothing was killed between instructions\n");
  return false;
}

}  // namespace mi7
