// Where ptrace is refused, tests that need it say so; where it should not be, they fail.

#include "transport/slot_pipe/crash/stepper.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>

#include "gtest/gtest.h"
#include "transport/refuse_system_call.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr int kNoFilter = 77;

// How a process ends that may not trace and asks whether it can, with that in MI7_REQUIRE_PTRACE:
// with 1 when it may go on, 0 when it may not, and by SIGABRT when it should have been able to.
int StatusWithout(const char* required) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (required == nullptr) {
      ::unsetenv("MI7_REQUIRE_PTRACE");
    } else {
      ::setenv("MI7_REQUIRE_PTRACE", required, 1);
    }
    if (!transport::testing::RefuseSystemCall(SYS_ptrace, EPERM)) ::_exit(kNoFilter);
    ::_exit(CanTrace() ? 1 : 0);
  }
  int status = -1;
  return ::waitpid(child, &status, 0) == child ? status : -1;
}

TEST(StepperTest, ARefusalIsAFailureWhereItIsNotExpected) {
  const int refused = StatusWithout("0");
  if (WIFEXITED(refused) && WEXITSTATUS(refused) == kNoFilter) {
    std::fprintf(stderr, "NOTICE: test not run, this machine permits no filters\n");
    GTEST_SKIP();
  }
  EXPECT_EQ(refused, 0);
  EXPECT_EQ(StatusWithout(nullptr), 0) << "the filter may be a container's";
  const int required = StatusWithout("1");
  EXPECT_TRUE(WIFSIGNALED(required) && WTERMSIG(required) == SIGABRT) << required;
}

TEST(StepperTest, AChildIsSeenAfterEachOfItsInstructionsUntilItIsKilled) {
  if (!CanTrace()) GTEST_SKIP();
  uint64_t seen = 0;
  const auto after = [&](uint64_t step) {
    EXPECT_EQ(step, seen);
    ++seen;
    return true;
  };
  EXPECT_EQ(StepChild([] {}, after), seen);
  EXPECT_GT(seen, 10u) << "it exits, at least";
  EXPECT_EQ(StepChild([] {}, [](uint64_t step) { return step < 5; }), 6u);
}

}  // namespace
}  // namespace mi7::slot_pipe_internal
