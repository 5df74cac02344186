// Pipes of other users and groups. It takes root to become them; who is not is told so, and passes.

#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;

// What `test` says in a child that has become user `uid` of group `gid`.
bool As(uid_t uid, gid_t gid, bool (*test)()) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(gid, gid, gid) != 0 ||
        ::setresuid(uid, uid, uid) != 0) {
      ::_exit(2);
    }
    ::_exit(test() ? 0 : 1);
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return false;
  return WEXITSTATUS(status) == 0;
}

class OtherUsersTest : public testing::Test {
 protected:
  void SetUp() override {
    if (As(12345, 12345, [] { return true; })) return;
    std::fprintf(stderr, "NOTICE: test not run, it takes root to become other users\n");
    GTEST_SKIP();
  }

  // Where others may enter.
  TestDirectory directory_{"/tmp"};
};

TEST_F(OtherUsersTest, AFileOfAnotherUserIsRefused) {
  ASSERT_TRUE(SlotPipe::Create("p", PipeOptions::Small()).ok());
  // As what he would put there for us to join.
  ASSERT_EQ(::chown(directory_.File("p").c_str(), 12345, 12345), 0);
  EXPECT_TRUE(Is(SlotPipe::Connect("p").status(), StatusCode::kFailedPrecondition,
                 "belongs to user 12345 alone"));
  EXPECT_TRUE(Is(SlotPipe::Inspect("p").status(), StatusCode::kFailedPrecondition,
                 "belongs to user 12345 alone"));
}

TEST_F(OtherUsersTest, TheMembersOfItsGroupGetInAndNobodyElse) {
  constexpr gid_t kGroup = 23456;
  PipeOptions options = PipeOptions::Small();
  options.group = kGroup;
  auto pipe = SlotPipe::Create("p", options);
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  // The directory has to let them in, too, and all that it is in.
  const std::string pipes = directory_.File("");
  ASSERT_EQ(::chown(pipes.c_str(), static_cast<uid_t>(-1), kGroup), 0);
  ASSERT_EQ(::chmod(pipes.c_str(), 0770), 0);
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0711), 0);
  EXPECT_TRUE(As(12345, kGroup, [] {
    const auto own = SlotPipe::Connect("p");
    return own.ok() && (*own)->SendBytes("of the group").ok();
  }));
  auto message = (*pipe)->TryFetch();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "of the group");
  EXPECT_TRUE(As(12346, 12346, [] {
    return Is(SlotPipe::Connect("p").status(), StatusCode::kPermissionDenied, "");
  }));
}

}  // namespace
}  // namespace mi7
