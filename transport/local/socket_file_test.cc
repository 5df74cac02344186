#include "transport/local/socket_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "transport/local/testing.h"

namespace mi7::transport {
namespace {

using ::testing::ElementsAre;
using testing::Fork;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryDirectory;
using testing::WaitFor;

const char kId[] = "00112233445566778899aabbccddeeff.sock";

Directory Open(const TemporaryDirectory& directory) { return *OpenRuntimeDir(directory.path()); }

ino_t InodeOf(const std::string& path) {
  struct stat found;
  return ::lstat(path.c_str(), &found) == 0 ? found.st_ino : 0;
}

TEST(SocketFileTest, ListensAndGoesWithItsName) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), kId, {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(directory.names(), ElementsAre(kId)) << "no temporary name is left";
  EXPECT_TRUE(ConnectIn(Open(directory), kId).ok());
  const UniqueFd accepted(::accept4(file->fd(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(accepted);
  file->RemoveName();
  EXPECT_THAT(directory.names(), IsEmpty());
  EXPECT_GE(file->fd(), 0);
  file->Close();
  EXPECT_EQ(file->fd(), -1);
  EXPECT_EQ(ConnectIn(Open(directory), kId).status().code(), absl::StatusCode::kNotFound);
}

TEST(SocketFileTest, ModeIsAsAskedWhateverTheUmask) {
  const TemporaryDirectory directory;
  for (const mode_t mode : {0600, 0660, 0666}) {
    const mode_t before = ::umask(0077);
    absl::StatusOr<SocketFile> file =
        SocketFile::Listen(Open(directory), "shm-a.sock", {.mode = mode});
    ::umask(before);
    ASSERT_TRUE(file.ok()) << file.status();
    struct stat found;
    ASSERT_EQ(::lstat((directory / "shm-a.sock").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, mode);
    EXPECT_NE(found.st_mode & S_ISVTX, 0u) << "what cleans old files away leaves it";
  }
}

TEST(SocketFileTest, NamesMayBeLongerThanAnAddress) {
  const TemporaryDirectory directory;
  const std::string name = ShmSocketName(std::string(100, 'n'));
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), name, {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(directory.names(), ElementsAre(name));
  EXPECT_TRUE(ConnectIn(Open(directory), name).ok());
  EXPECT_EQ(SocketFile::Listen(Open(directory), name, {}).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(SocketFileTest, LiveServerIsNotReplaced) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), "a", {});
  ASSERT_TRUE(file.ok());
  const absl::Status status = SocketFile::Listen(Open(directory), "a", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(), "a server listens at " + directory.path() + "/a already");
  EXPECT_EQ(::accept4(file->fd(), nullptr, nullptr, 0), -1) << "asking is no connection";
}

TEST(SocketFileTest, StaleSocketIsReplaced) {
  const TemporaryDirectory directory;
  testing::LeaveStale(directory / "a");
  const ino_t stale = InodeOf(directory / "a");
  const absl::Status refused = ConnectIn(Open(directory), "a").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(refused.message(), "socket " + directory.path() +
                                   "/a: nobody listens there any more (connection refused)");
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), "a", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_NE(InodeOf(directory / "a"), stale);
  EXPECT_TRUE(ConnectIn(Open(directory), "a").ok());
}

TEST(SocketFileTest, WhatIsNoSocketIsNotTouched) {
  const TemporaryDirectory directory;
  ::close(::open((directory / "a").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  const ino_t before = InodeOf(directory / "a");
  const absl::Status status = SocketFile::Listen(Open(directory), "a", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(),
            directory.path() +
                "/a is there already and is no socket; remove it or listen at another path");
  EXPECT_EQ(InodeOf(directory / "a"), before);
  EXPECT_EQ(ConnectIn(Open(directory), "a").status().message(),
            directory.path() + "/a is no socket");
}

TEST(SocketFileTest, NameThatAnotherTookIsLeftToIt) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> first = SocketFile::Listen(Open(directory), "a", {});
  ASSERT_TRUE(first.ok());
  ASSERT_EQ(::unlink((directory / "a").c_str()), 0);  // an overeager cleaner
  absl::StatusOr<SocketFile> second = SocketFile::Listen(Open(directory), "a", {});
  ASSERT_TRUE(second.ok());
  first->Close();
  EXPECT_TRUE(ConnectIn(Open(directory), "a").ok());
}

TEST(SocketFileTest, ForkedChildDoesNotRemoveItsParentsName) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), "a", {});
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(WaitFor(Fork([&] {
              file->Close();
              return 0;
            })),
            0);
  EXPECT_TRUE(ConnectIn(Open(directory), "a").ok());
}

TEST(SocketFileTest, OthersSocketInARuntimeDirectoryIsNotTrusted) {
  if (!testing::MayBecomeOthers()) GTEST_SKIP();
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), kId, {});
  ASSERT_EQ(::chown((directory / kId).c_str(), 12345, 12345), 0);
  const absl::Status status = ConnectIn(Open(directory), kId).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "socket " + directory.path() + "/" + kId + " belongs to uid 12345, not to us, uid 0");
}

TEST(SocketFileTest, SymbolicLinksAreNotFollowed) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), "a", {});
  ASSERT_EQ(::symlink("a", (directory / "link").c_str()), 0);
  const absl::Status status = ConnectIn(Open(directory), "link").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(SocketFile::Listen(Open(directory), "link", {}).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(SocketFileTest, SocketOfAnotherTypeIsAliveButNoServerOfOurs) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file =
      SocketFile::Listen(Open(directory), "a", {.type = SOCK_SEQPACKET});
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(SocketFile::Listen(Open(directory), "a", {}).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ConnectIn(Open(directory), "a").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(SocketFileTest, FullBacklogIsUnavailableAtOnce) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(Open(directory), "a", {.backlog = 0});
  ASSERT_TRUE(file.ok());
  const absl::StatusOr<UniqueFd> first = ConnectIn(Open(directory), "a");
  EXPECT_TRUE(first.ok());
  const absl::Status status = ConnectIn(Open(directory), "a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no room for another client"));
}

TEST(SocketFileTest, LockThatIsHeldForeverIsNamed) {
  const TemporaryDirectory directory;
  const int fd = ::open(directory.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  testing::LeaveStale(directory / kId);
  EXPECT_EQ(SweepStaleSockets(Open(directory)), 0) << "who has the lock sweeps";
  const absl::Status status =
      SocketFile::Listen(Open(directory), "a", {.lock_patience = absl::Milliseconds(20)}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "directory " + directory.path() +
                                  " is locked by another process (flock), which should take "
                                  "microseconds; is it stopped?");
  ::close(fd);
  EXPECT_EQ(SweepStaleSockets(Open(directory)), 1);
}

TEST(SweepTest, StaleGoesAndTheRestStays) {
  const TemporaryDirectory directory;
  absl::StatusOr<SocketFile> live = SocketFile::Listen(Open(directory), "shm-live.sock", {});
  absl::StatusOr<SocketFile> other =
      SocketFile::Listen(Open(directory), "shm-packet.sock", {.type = SOCK_SEQPACKET});
  testing::LeaveStale(directory / kId);
  testing::LeaveStale(directory / "shm-stale.sock");
  testing::LeaveStale(directory / ".shm-killed.sock.new");
  testing::LeaveStale(directory / "foreign.sock");
  testing::LeaveStale(directory / "00112233445566778899AABBCCDDEEFF.sock");
  ::close(::open((directory / "shm-file.sock").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  EXPECT_EQ(SweepStaleSockets(Open(directory)), 3);
  EXPECT_THAT(directory.names(),
              ElementsAre("00112233445566778899AABBCCDDEEFF.sock", "foreign.sock", "shm-file.sock",
                          "shm-live.sock", "shm-packet.sock"));
  EXPECT_TRUE(ConnectIn(Open(directory), "shm-live.sock").ok());
  EXPECT_EQ(SweepStaleSockets(Open(directory)), 0);
}

TEST(SweepTest, AServerThatStartsSweeps) {
  const TemporaryDirectory directory;
  testing::LeaveStale(directory / kId);
  testing::LeaveStale(directory / "shm-stale.sock");
  absl::StatusOr<SocketFile> file =
      SocketFile::Listen(Open(directory), "shm-new.sock", {.sweep = true});
  ASSERT_TRUE(file.ok());
  EXPECT_THAT(directory.names(), ElementsAre("shm-new.sock"));
}

// --- Processes that race and die ---

// Processes that want the same name at the same time: one gets it, also when a stale socket is in
// the way, and the others are told.
TEST(SocketFileProcessTest, OneOfManyGetsTheName) {
  constexpr int kProcesses = 8;
  for (int round = 0; round < 20; ++round) {
    const TemporaryDirectory directory;
    if (round % 2 == 0) testing::LeaveStale(directory / "shm-x.sock");
    std::array<int, 2> start, result, finish;
    ASSERT_EQ(::pipe(start.data()), 0);
    ASSERT_EQ(::pipe(result.data()), 0);
    ASSERT_EQ(::pipe(finish.data()), 0);
    std::vector<pid_t> children;
    for (int i = 0; i < kProcesses; ++i) {
      children.push_back(Fork([&] {
        ::close(start[1]);
        ::close(finish[1]);
        char letter;
        static_cast<void>(!::read(start[0], &letter, 1));  // the end: all are there
        absl::StatusOr<SocketFile> file = SocketFile::Listen(*OpenRuntimeDir(directory.path()),
                                                             "shm-x.sock", {.sweep = i % 2 == 0});
        letter = file.ok() ? 'w' : absl::IsAlreadyExists(file.status()) ? 'l' : 'e';
        if (::write(result[1], &letter, 1) != 1) return 1;
        static_cast<void>(!::read(finish[0], &letter, 1));
        return 0;  // dies with the name in place, as by a signal
      }));
    }
    ::close(start[1]);
    std::string letters;
    for (int i = 0; i < kProcesses; ++i) {
      char letter;
      ASSERT_EQ(::read(result[0], &letter, 1), 1);
      letters += letter;
    }
    EXPECT_EQ(std::count(letters.begin(), letters.end(), 'w'), 1) << letters;
    EXPECT_EQ(std::count(letters.begin(), letters.end(), 'l'), kProcesses - 1) << letters;
    EXPECT_TRUE(ConnectIn(Open(directory), "shm-x.sock").ok());
    ::close(finish[1]);
    for (const pid_t child : children) EXPECT_EQ(WaitFor(child), 0);
    for (const int fd : {start[0], result[0], result[1], finish[0]}) ::close(fd);
  }
}

// Servers start, sweep, end in order and are killed all the time. None ever loses its name while it
// lives, and after all are gone one sweep leaves nothing.
TEST(SocketFileProcessTest, SweepingNeverTakesALiveServersName) {
  const TemporaryDirectory directory;
  constexpr int kProcesses = 6;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(Fork([&] {
      for (int round = 0; round < 100; ++round) {
        const std::string name = ShmSocketName(absl::StrCat(i, "-", round));
        absl::StatusOr<SocketFile> file =
            SocketFile::Listen(*OpenRuntimeDir(directory.path()), name, {.sweep = true});
        if (!file.ok()) return 1;
        if (!ConnectIn(*OpenRuntimeDir(directory.path()), name).ok()) return 2;
        if (round % 3 == 0) {
          // Killed: a child takes the socket over and dies with it.
          const pid_t victim = Fork([&file] {
            static_cast<void>(file->fd());
            return ::kill(::getpid(), SIGKILL);
          });
          const ino_t inode = InodeOf(directory / name);
          if (WaitFor(victim) != 128 + SIGKILL) return 3;
          if (InodeOf(directory / name) != inode) return 4;
        }
        SweepStaleSockets(*OpenRuntimeDir(directory.path()));
        if (!ConnectIn(*OpenRuntimeDir(directory.path()), name).ok()) return 5;
        // Every second one is left as a killed server leaves it.
        if (round % 2 == 0) new SocketFile(*std::move(file));
      }
      return 0;
    }));
  }
  for (const pid_t child : children) EXPECT_EQ(WaitFor(child), 0);
  SweepStaleSockets(Open(directory));
  EXPECT_THAT(directory.names(), IsEmpty());
}

// A process that is killed at any moment while it listens and closes.
TEST(SocketFileProcessTest, KilledAtAnyMomentLeavesNothingThatStays) {
  const TemporaryDirectory directory;
  for (int round = 0; round < 200; ++round) {
    std::array<int, 2> started;
    ASSERT_EQ(::pipe(started.data()), 0);
    const pid_t child = Fork([&] {
      if (::write(started[1], "s", 1) != 1) return 1;
      for (;;) {
        absl::StatusOr<SocketFile> file =
            SocketFile::Listen(*OpenRuntimeDir(directory.path()), "shm-x.sock", {});
        if (!file.ok()) return 1;
      }
    });
    char letter;
    ASSERT_EQ(::read(started[0], &letter, 1), 1);
    const int64_t kill_ns = MonotonicNanos() + round * 2'500;
    while (MonotonicNanos() < kill_ns) {
    }
    ::kill(child, SIGKILL);
    EXPECT_EQ(WaitFor(child), 128 + SIGKILL);
    for (const int fd : started) ::close(fd);
    absl::StatusOr<SocketFile> next =
        SocketFile::Listen(Open(directory), "shm-x.sock", {.sweep = true});
    ASSERT_TRUE(next.ok()) << next.status();
    ASSERT_THAT(directory.names(), ElementsAre("shm-x.sock"));
  }
}

TEST(SocketPathTest, IsSplitAtItsLastSlash) {
  EXPECT_EQ(SplitSocketPath("/a/b.sock").directory, "/a");
  EXPECT_EQ(SplitSocketPath("/a/b.sock").name, "b.sock");
  EXPECT_EQ(SplitSocketPath("/b.sock").directory, "/");
  EXPECT_EQ(SplitSocketPath("/b.sock").name, "b.sock");
}

}  // namespace
}  // namespace mi7::transport
