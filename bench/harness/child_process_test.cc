#include "bench/harness/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

Deadline Soon() { return Deadline::After(absl::Seconds(20)); }

absl::StatusOr<ChildProcess> Shell(const std::string& script) {
  return ChildProcess::Start({.argv = {"/bin/sh", "-c", script}});
}

TEST(ChildProcessTest, TalksInLines) {
  absl::StatusOr<ChildProcess> child =
      Shell("echo hello >&3; read -r line <&3; echo \"got $line\" >&3");
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->ReadLine(Soon()).value(), "hello");
  ASSERT_TRUE(child->WriteLine("this").ok());
  EXPECT_EQ(child->ReadLine(Soon()).value(), "got this");
}

TEST(ChildProcessTest, SaysHowAChildEnded) {
  absl::StatusOr<ChildProcess> child = Shell("exit 7");
  ASSERT_TRUE(child.ok()) << child.status();
  const absl::Status ended = child->ReadLine(Soon()).status();
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ended.message(), "/bin/sh exited with 7");
}

TEST(ChildProcessTest, MissingProgramIsNamed) {
  absl::StatusOr<ChildProcess> child = ChildProcess::Start({.argv = {"/nonexistent/program"}});
  ASSERT_TRUE(child.ok()) << child.status();
  const absl::Status ended = child->ReadLine(Soon()).status();
  EXPECT_EQ(ended.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(ended.message().find("/nonexistent/program"), std::string::npos) << ended;
}

TEST(ChildProcessTest, SilenceEndsWithTheDeadline) {
  absl::StatusOr<ChildProcess> child = Shell("read -r line <&3");
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->ReadLine(Deadline::After(absl::Milliseconds(10))).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(ChildProcessTest, IsGoneWhenItsObjectIs) {
  pid_t pid = 0;
  {
    absl::StatusOr<ChildProcess> child = Shell("read -r line <&3");
    ASSERT_TRUE(child.ok()) << child.status();
    pid = child->pid();
    EXPECT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_NE(::kill(pid, 0), 0);
}

TEST(ChildProcessTest, ResultDescriptorArrivesWhateverItsNumberHere) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const int read_end = ::fcntl(pipe_fds[0], F_DUPFD_CLOEXEC, 32);
  const int write_end = ::fcntl(pipe_fds[1], F_DUPFD_CLOEXEC, 32);
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
  // 3 and 4 are the very numbers at which the child expects things.
  for (int number : {kChildControlFd, kChildResultFd, 9}) {
    ASSERT_EQ(::dup3(write_end, number, O_CLOEXEC), number);
    absl::StatusOr<ChildProcess> child = ChildProcess::Start(
        {.argv = {"/bin/sh", "-c", "printf x >&4; echo said >&3"}, .result_fd = number});
    ::close(number);
    ASSERT_TRUE(child.ok()) << child.status();
    const absl::StatusOr<std::string> line = child->ReadLine(Soon());
    EXPECT_EQ(line.value_or(std::string(line.status().message())), "said") << number;
    pollfd readable = {.fd = read_end, .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&readable, 1, 0), 1) << number;
    char byte = 0;
    EXPECT_EQ(::read(read_end, &byte, 1), 1);
    EXPECT_EQ(byte, 'x');
  }
  ::close(read_end);
  ::close(write_end);
}

// What a standing server takes is not somebody else's.
TEST(ChildProcessTest, CpuTimeOfTheLivingIsKnown) {
  const double before_s = ChildProcess::LivingCpuSeconds();
  {
    absl::StatusOr<ChildProcess> child = Shell(
        "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo done >&3; read -r line <&3");
    ASSERT_TRUE(child.ok()) << child.status();
    ASSERT_EQ(child->ReadLine(Soon()).value(), "done");
    EXPECT_GT(ChildProcess::LivingCpuSeconds(), before_s + 0.001);
  }
  EXPECT_EQ(ChildProcess::LivingCpuSeconds(), before_s) << "it is reaped";
}

// The child of a bench that is killed must not live on (and spin).
TEST(ChildProcessTest, DiesWithItsParent) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t parent = ::fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    absl::StatusOr<ChildProcess> child = Shell("echo up >&3; read -r line <&3; sleep 1000");
    if (!child.ok() || !child->ReadLine(Soon()).ok()) ::_exit(1);
    const pid_t pid = child->pid();
    if (::write(pipe_fds[1], &pid, sizeof(pid)) != sizeof(pid)) ::_exit(1);
    for (;;) ::pause();
  }
  pid_t grandchild = 0;
  ASSERT_EQ(::read(pipe_fds[0], &grandchild, sizeof(grandchild)),
            static_cast<ssize_t>(sizeof(grandchild)));
  const int handle = static_cast<int>(::syscall(SYS_pidfd_open, grandchild, 0));
  ASSERT_GE(handle, 0);
  ::kill(parent, SIGKILL);
  ASSERT_EQ(::waitpid(parent, nullptr, 0), parent);
  pollfd dead = {.fd = handle, .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&dead, 1, 20'000), 1) << "the grandchild outlived its parent";
  ::close(handle);
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
}

}  // namespace
}  // namespace mi7::bench
