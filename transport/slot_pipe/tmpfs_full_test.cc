// A slot pipe on a tmpfs that is full: a real one, of a mebibyte, in a mount namespace of this
// process. Where the machine permits none the test says so and passes.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;
using testing::ElementsAre;
using testing::IsEmpty;

bool Write(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const bool written =
      fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (fd >= 0) ::close(fd);
  return written;
}

// Mounts a tmpfs of a mebibyte there, for this process, which has one thread. "" when done, else
// why not.
std::string MountSmallTmpfs(const std::string& path) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return absl::StrCat("unshare: ", ::strerror(errno));
  }
  Write("/proc/self/setgroups", "deny");
  if (!Write("/proc/self/uid_map", absl::StrCat(uid, " ", uid, " 1")) ||
      !Write("/proc/self/gid_map", absl::StrCat(gid, " ", gid, " 1"))) {
    return "the user cannot be mapped into a user namespace";
  }
  // Nobody else is to see it.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0700") != 0) {
    return absl::StrCat("mount: ", ::strerror(errno));
  }
  return "";
}

// Also where a test has failed; pipes may still be mapped.
struct Unmounter {
  ~Unmounter() { ::umount2(path.c_str(), MNT_DETACH); }
  const std::string path;
};

// Takes all the room that is left there.
void FillUp(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0) << ::strerror(errno);
  const std::string page(4096, 'f');
  while (::write(fd, page.data(), page.size()) > 0) {
  }
  EXPECT_EQ(errno, ENOSPC);
  ::close(fd);
}

TEST(TmpfsFullTest, IsRefusedAtCreationAndNeverNoticedLater) {
  TestDirectory directory;
  if (const std::string why = MountSmallTmpfs(directory.path()); !why.empty()) {
    std::fprintf(stderr, "NOTICE: full-tmpfs test not run, this machine does not permit it: %s\n",
                 why.c_str());
    return;
  }
  const Unmounter unmounter{directory.path()};
  constexpr PipeOptions kFits{.slots = 32, .slot_bytes = 4096};
  // Larger than all that there is.
  EXPECT_TRUE(Is(SlotPipe::Create("large", PipeOptions::Large()).status(),
                 StatusCode::kResourceExhausted, "reserving"));
  EXPECT_THAT(SlotPipe::List().value(), IsEmpty());

  auto pipe = SlotPipe::Create("fits", kFits);
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  FillUp(directory.path() + "/filler");
  ASSERT_FALSE(HasFatalFailure());
  const absl::Status refused = SlotPipe::Create("next", kFits).status();
  EXPECT_TRUE(Is(refused, StatusCode::kResourceExhausted, "slot pipe 'next'")) << refused;
  EXPECT_EQ(SlotPipeErrorOf(refused), SlotPipeError::kTmpfsFull);
  EXPECT_THAT(SlotPipe::List().value(), ElementsAre("fits"));
  // What exists has all of its memory: each page of it is touched now for the first time.
  const std::string full(kFits.slot_bytes, 'x');
  for (uint32_t i = 0; i < kFits.slots; ++i) ASSERT_TRUE((*pipe)->SendBytes(full).ok()) << i;
  auto other = SlotPipe::Connect("fits");
  ASSERT_TRUE(other.ok()) << other.status();
  for (uint32_t i = 0; i < kFits.slots; ++i) {
    auto message = (*other)->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    ASSERT_EQ(message->text(), full);
    ASSERT_TRUE(message->Release().ok());
  }
  // What was refused has left nothing: there is room again when others make some.
  ASSERT_EQ(::unlink((directory.path() + "/filler").c_str()), 0);
  const absl::Status made = SlotPipe::Create("next", kFits).status();
  EXPECT_TRUE(made.ok()) << made;
}

}  // namespace
}  // namespace mi7
