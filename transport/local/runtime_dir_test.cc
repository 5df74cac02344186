#include "transport/local/runtime_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "transport/local/testing.h"

namespace mi7::transport {
namespace {

using ::testing::ElementsAre;
using testing::TemporaryDirectory;

std::string UserDirectory(uid_t uid) { return absl::StrCat("/tmp/mi7-", uid); }

RuntimeDirEnvironment Nothing() {
  RuntimeDirEnvironment environment;
  environment.run_user = "/nonexistent";
  environment.uid = ::geteuid();
  return environment;
}

TEST(RuntimeDirTest, OnlyTheOneThatWasChosen) {
  RuntimeDirEnvironment environment = Nothing();
  environment.xdg_runtime_dir = "/tmp";
  environment.mi7_runtime_dir = "/from/environment";
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre("/from/environment"));
  EXPECT_THAT(*RuntimeDirs("/from/options", environment), ElementsAre("/from/options"));
}

TEST(RuntimeDirTest, WhatWasChosenIsAbsolute) {
  RuntimeDirEnvironment environment = Nothing();
  environment.mi7_runtime_dir = "run";
  absl::Status status = RuntimeDirs("", environment).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "MI7_RUNTIME_DIR is 'run', must be an absolute path");
  EXPECT_EQ(RuntimeDirs("./a", environment).status().message(),
            "the runtime directory is './a', must be an absolute path");
}

TEST(RuntimeDirTest, UsersOwnDirectoriesInOrder) {
  const TemporaryDirectory root;
  RuntimeDirEnvironment environment = Nothing();
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre(UserDirectory(environment.uid)));
  environment.tmp = root / "tmp";
  environment.run_user = root.path();
  const std::string run = root / absl::StrCat(environment.uid);
  ASSERT_EQ(::mkdir(run.c_str(), 0700), 0);
  const std::string last = absl::StrCat(root / "tmp/mi7-", environment.uid);
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre(run + "/mi7", last));
  environment.xdg_runtime_dir = root.path();
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre(root / "mi7", run + "/mi7", last));
  environment.xdg_runtime_dir = run;
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre(run + "/mi7", last)) << "each once";
}

TEST(RuntimeDirTest, RuntimeDirectoryOfAnotherUserIsPassedOver) {
  const TemporaryDirectory root;
  RuntimeDirEnvironment environment = Nothing();
  environment.xdg_runtime_dir = root.path();
  environment.uid = ::geteuid() + 1;
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre(UserDirectory(environment.uid)));
  environment.uid = ::geteuid();
  environment.xdg_runtime_dir = "relative";
  EXPECT_THAT(*RuntimeDirs("", environment), ElementsAre(UserDirectory(environment.uid)));
}

TEST(RuntimeDirTest, IsMadeClosedToOthers) {
  const TemporaryDirectory root;
  const std::string path = root / "mi7";
  EXPECT_EQ(OpenRuntimeDir(path).status().code(), absl::StatusCode::kNotFound);
  const mode_t before = ::umask(0);
  absl::StatusOr<Directory> made = MakeRuntimeDir(path);
  ::umask(before);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->path(), path);
  EXPECT_EQ(made->PathOf("x"), path + "/x");
  struct stat found;
  ASSERT_EQ(::fstat(made->fd(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700u);
  EXPECT_TRUE(MakeRuntimeDir(path).ok()) << "it may be there already";
  EXPECT_TRUE(OpenRuntimeDir(path).ok());
}

TEST(RuntimeDirTest, ParentIsNotMade) {
  const TemporaryDirectory root;
  const absl::Status status = MakeRuntimeDir(root / "a/b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(),
            "runtime directory " + root.path() +
                "/a/b: No such file or directory (its parent directory is missing)");
}

TEST(RuntimeDirTest, OneThatLetsOthersInIsRefused) {
  const TemporaryDirectory root;
  for (const mode_t mode : {0755, 0710, 0701, 0770, 01777}) {
    ASSERT_EQ(::chmod(root.path().c_str(), mode), 0);
    const absl::Status status = MakeRuntimeDir(root.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status.message(),
              absl::StrCat("runtime directory ", root.path(), ": its mode is ",
                           absl::StrCat(absl::Dec(mode >> 9 & 7), absl::Dec(mode >> 6 & 7),
                                        absl::Dec(mode >> 3 & 7), absl::Dec(mode & 7)),
                           ", which lets others in; run chmod 700 '", root.path(),
                           "', or set MI7_RUNTIME_DIR to another directory"));
  }
}

TEST(RuntimeDirTest, SymbolicLinksAndFilesAreRefused) {
  const TemporaryDirectory root;
  const std::string way_out = "; remove it, or set MI7_RUNTIME_DIR to another directory";
  ASSERT_EQ(::mkdir((root / "real").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("real", (root / "link").c_str()), 0);
  ASSERT_EQ(::symlink("nowhere", (root / "dangling").c_str()), 0);
  ::close(::open((root / "file").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  for (const char* name : {"link", "dangling"}) {
    const absl::Status status = MakeRuntimeDir(root / name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status.message(),
              "runtime directory " + root / name + ": it is a symbolic link" + way_out);
  }
  const absl::Status status = MakeRuntimeDir(root / "file").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "runtime directory " + root / "file" + ": it is no directory" + way_out);
}

// What somebody else puts at a name of ours under /tmp. Root only: nobody else can give away.
TEST(RuntimeDirTest, DirectoryOfAnotherUserIsRefused) {
  if (!testing::MayBecomeOthers()) GTEST_SKIP();
  const TemporaryDirectory root;
  ASSERT_EQ(::chown(root.path().c_str(), 12345, 12345), 0);
  const absl::Status status = MakeRuntimeDir(root.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "runtime directory " + root.path() +
                ": it belongs to uid 12345, not to us, uid 0; remove it, or set MI7_RUNTIME_DIR to "
                "another directory");
}

// The same seen by a user who may not even open it.
TEST(RuntimeDirTest, DirectoryThatMayNotBeOpenedIsRefusedWithTheReason) {
  if (!testing::MayBecomeOthers()) GTEST_SKIP();
  const TemporaryDirectory root;
  const std::string path = root / "mi7";
  ASSERT_EQ(::chmod(root.path().c_str(), 0711), 0);
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  EXPECT_EQ(testing::WaitFor(testing::Fork([&] {
              if (::setresuid(12345, 12345, 12345) != 0) return 2;
              const absl::Status status = OpenRuntimeDir(path).status();
              return status.message() == "runtime directory " + path +
                                             ": it belongs to uid 0, not to us, uid 12345; remove "
                                             "it, or set MI7_RUNTIME_DIR to another directory"
                         ? 0
                         : 1;
            })),
            0);
}

TEST(RuntimeDirTest, AnyDirectoryCanHoldASocket) {
  const TemporaryDirectory root;
  ASSERT_EQ(::chmod(root.path().c_str(), 0777), 0);
  EXPECT_TRUE(Directory::Open(root.path()).ok());
  EXPECT_EQ(Directory::Open(root / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Directory::Open("/dev/null").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Directory::Open("/")->PathOf("x"), "/x");
}

TEST(RuntimeDirTest, NamesOfSharedMemoryServers) {
  EXPECT_EQ(ShmSocketName("a.b"), "shm-a.b.sock");
}

}  // namespace
}  // namespace mi7::transport
