#include "base/fork_guard.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace mi7 {
namespace {

// Runs `body` in a child; whether it said true, and came to its end.
bool HoldsInChild(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);  // a child that hangs is a failure, not a test that never ends
    ::_exit(body() ? 0 : 1);
  }
  int status = -1;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(ForkGuardTest, ChildrenKnowThatTheyAre) {
  const uint32_t here = ForkGuard::generation();
  EXPECT_TRUE(HoldsInChild([here] {
    const uint32_t child = ForkGuard::generation();
    return child != here && HoldsInChild([here, child] {
             return ForkGuard::generation() != here && ForkGuard::generation() != child;
           });
  }));
  EXPECT_EQ(ForkGuard::generation(), here);
}

TEST(ForkGuardTest, DescriptorsAreClosedInTheChildAlone) {
  const int ours = ::open("/dev/null", O_RDONLY), other = ::open("/dev/null", O_RDONLY),
            given_up = ::open("/dev/null", O_RDONLY);
  ForkGuard::CloseInChild(ours);
  ForkGuard::CloseInChild(given_up);
  ForkGuard::Forget(given_up);
  EXPECT_TRUE(HoldsInChild([=] {
    return !IsOpen(ours) && IsOpen(other) && IsOpen(given_up) && [&] {
      // The child's own are closed in its children.
      ForkGuard::CloseInChild(other);
      return HoldsInChild([&] { return !IsOpen(other) && IsOpen(given_up); });
    }();
  }));
  EXPECT_TRUE(IsOpen(ours));
  errno = 1234;
  ForkGuard::Close(ours);
  EXPECT_EQ(errno, 1234);
  EXPECT_FALSE(IsOpen(ours));
  EXPECT_TRUE(HoldsInChild([=] { return IsOpen(other); }));
  ::close(other);
  ::close(given_up);
}

TEST(ForkGuardTest, LocksOfTheProcessAreFreeInTheChild) {
  static Mutex mutex;
  ForkGuard::HoldAcrossFork(&mutex);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop.load()) MutexLock lock(&mutex);
  });
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(HoldsInChild([] {
      MutexLock lock(&mutex);
      return true;
    }));
  }
  stop.store(true);
  busy.join();
}

TEST(ForkGuardTest, ARefusalSaysWhatAndWhy) {
  const absl::Status refusal = ForkGuard::Refusal("channel to tcp:[::1]:80");
  EXPECT_EQ(refusal.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refusal.message(),
            "channel to tcp:[::1]:80 was made before fork() by the parent process, which alone may "
            "use it; make a new one in the child");
}

}  // namespace
}  // namespace mi7
