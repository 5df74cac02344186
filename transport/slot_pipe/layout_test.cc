// What a pipe's file may be, and what is said about one that is not.

#include "transport/slot_pipe/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace {

// Where a signal comes so often that no more than this is reserved between two of them, and what
// one comes into is undone: as on kernels before 6.9.
uint64_t reserved_between_signals = UINT64_MAX;
int signals = 0;

}  // namespace

extern "C" int posix_fallocate(int fd, off_t offset, off_t bytes) {
  // Nobody waits for ever in a test.
  if (static_cast<uint64_t>(bytes) > reserved_between_signals && ++signals < 1000) return EINTR;
  return ::syscall(SYS_fallocate, fd, 0, offset, bytes) == 0 ? 0 : errno;
}

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::CheckHeader;
using slot_pipe_internal::Is;
using slot_pipe_internal::MakeHeader;
using slot_pipe_internal::MakeLayout;
using slot_pipe_internal::PipeHeader;
using slot_pipe_internal::TestDirectory;
using testing::ElementsAre;

class PipeFileTest : public testing::Test {
 protected:
  void Create(absl::string_view name = "p") {
    auto pipe = SlotPipe::Create(name, PipeOptions::Small());
    ASSERT_TRUE(pipe.ok()) << pipe.status();
  }
  absl::Status Connect(absl::string_view name = "p") { return SlotPipe::Connect(name).status(); }
  // Overwrites bytes of the file.
  void Patch(off_t offset, uint64_t value, size_t size) {
    const int fd = ::open(directory_.File("p").c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(::pwrite(fd, &value, size, offset), static_cast<ssize_t>(size));
    ::close(fd);
  }
  TestDirectory directory_;
};

TEST_F(PipeFileTest, NamesAreChecked) {
  for (const char* name : {"", ".", "..", "a/b", "../x", "-x", ".x", "a b", "a\n"}) {
    EXPECT_TRUE(Is(SlotPipe::Create(name).status(), StatusCode::kInvalidArgument, "letters"))
        << name;
    EXPECT_TRUE(Is(SlotPipe::Connect(name).status(), StatusCode::kInvalidArgument, "letters"));
    EXPECT_TRUE(Is(SlotPipe::Remove(name), StatusCode::kInvalidArgument, "letters"));
  }
  EXPECT_FALSE(SlotPipe::Create(std::string(65, 'x')).ok());
  EXPECT_TRUE(SlotPipe::Create(std::string(64, 'x'), PipeOptions::Small()).ok());
}

TEST_F(PipeFileTest, AMissingPipeAndAnExistingOneAreToldByName) {
  EXPECT_TRUE(Is(Connect("none"), StatusCode::kNotFound, "slot pipe 'none': there is none in"));
  EXPECT_TRUE(Is(SlotPipe::Remove("none"), StatusCode::kNotFound, "'none'"));
  Create();
  EXPECT_TRUE(Is(SlotPipe::Create("p").status(), StatusCode::kAlreadyExists, "/pipes/p"));
  EXPECT_TRUE(Connect().ok());
}

TEST_F(PipeFileTest, OpenOrCreateRefusesOtherOptions) {
  { ASSERT_TRUE(SlotPipe::OpenOrCreate("p", PipeOptions::Small()).ok()); }
  EXPECT_TRUE(SlotPipe::OpenOrCreate("p", PipeOptions::Small()).ok());
  EXPECT_TRUE(Is(SlotPipe::OpenOrCreate("p", {.slots = 11, .slot_bytes = 1024}).status(),
                 StatusCode::kFailedPrecondition, "slots 10 instead of 11;"));
}

TEST_F(PipeFileTest, EachOptionInWhichAPipeIsOtherIsNamed) {
  const PipeOptions options{.slots = 4, .slot_bytes = 64, .participants = 3, .attempts_max = 2};
  { ASSERT_TRUE(SlotPipe::OpenOrCreate("p", options).ok()); }
  const auto differs = [](const PipeOptions& wanted, absl::string_view text) {
    const absl::Status status = SlotPipe::OpenOrCreate("p", wanted).status();
    // It names what differs and nothing else.
    return Is(status, StatusCode::kFailedPrecondition,
              absl::StrCat("it exists with other options: ", text, "; connect to it as it is"))
               ? testing::AssertionSuccess()
               : testing::AssertionFailure() << status;
  };
  PipeOptions other = options;
  other.slots = 5;
  EXPECT_TRUE(differs(other, "slots 4 instead of 5"));
  other = options;
  other.slot_bytes = 65;
  EXPECT_TRUE(differs(other, "slot_bytes 64 instead of 65"));
  other = options;
  other.participants = 4;
  EXPECT_TRUE(differs(other, "participants 3 instead of 4"));
  other = options;
  other.attempts_max = 3;
  EXPECT_TRUE(differs(other, "attempts_max 2 instead of 3"));
  other = options;
  other.checksum = true;
  EXPECT_TRUE(differs(other, "flags (1: checksum, 2: group) 0 instead of 1"));
}

// They create it, join it and remove it at the same time: each of them gets a pipe.
TEST_F(PipeFileTest, OpenOrCreateGivesManyAPipeWhoCreateAndRemoveIt) {
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([i] {
      for (int round = 0; round < 50; ++round) {
        const auto pipe = SlotPipe::OpenOrCreate("p", PipeOptions::Small());
        ASSERT_TRUE(pipe.ok()) << pipe.status();
        EXPECT_TRUE((*pipe)->TrySendBytes("x").ok() || (*pipe)->TryFetch().ok());
        if ((round + i) % 2 == 0) SlotPipe::Remove("p", true).IgnoreError();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  SlotPipe::Remove("p").IgnoreError();
  EXPECT_THAT(directory_.Files(), ElementsAre());
}

TEST_F(PipeFileTest, StatusTellsWhoMadeItAndWhoTakesPart) {
  const absl::Time before = absl::Now() - absl::Seconds(1);
  PipeOptions options = PipeOptions::Small();
  options.checksum = true;
  auto pipe = SlotPipe::Create("p", options, {.name = "the first"}).value();
  auto second = SlotPipe::Connect("p", {.name = std::string(60, 'n')}).value();
  const absl::Time after = absl::Now() + absl::Seconds(1);
  const PipeStatus status = SlotPipe::Inspect("p").value();
  EXPECT_EQ(status.name, "p");
  EXPECT_TRUE(status.options.checksum);
  EXPECT_EQ(status.options.participants, options.participants);
  EXPECT_EQ(status.options.attempts_max, options.attempts_max);
  EXPECT_TRUE(before < status.created && status.created < after) << status.created;
  ASSERT_EQ(status.participants.size(), 2u);
  EXPECT_EQ(status.participants[0].name, "the first");
  EXPECT_EQ(status.participants[1].name, std::string(47, 'n'));
  for (const PipeParticipant& one : status.participants) {
    EXPECT_TRUE(before < one.joined && one.joined < after) << one.joined;
  }
}

TEST_F(PipeFileTest, GeometryHasBounds) {
  EXPECT_TRUE(Is(SlotPipe::Create("q", {.slots = 0}).status(), StatusCode::kInvalidArgument,
                 "'q': slots is 0, must be from 1 to 16384"));
  EXPECT_TRUE(Is(SlotPipe::Create("q", {.slots = 16385}).status(), StatusCode::kInvalidArgument,
                 "slots is 16385"));
  EXPECT_TRUE(Is(SlotPipe::Create("q", {.slot_bytes = 7}).status(), StatusCode::kInvalidArgument,
                 "slot_bytes is 7"));
  EXPECT_TRUE(Is(SlotPipe::Create("q", {.participants = 4095}).status(),
                 StatusCode::kInvalidArgument, "participants is 4095"));
  EXPECT_TRUE(Is(SlotPipe::Create("q", {.attempts_max = 31}).status(), StatusCode::kInvalidArgument,
                 "attempts_max is 31"));
}

TEST_F(PipeFileTest, ListAndRemove) {
  EXPECT_THAT(SlotPipe::List().value(), ElementsAre());
  Create("b");
  Create("a");
  EXPECT_THAT(SlotPipe::List().value(), ElementsAre("a", "b"));
  auto in_use = SlotPipe::Connect("a").value();
  EXPECT_TRUE(Is(SlotPipe::Remove("a"), StatusCode::kFailedPrecondition, "takes part in it"));
  EXPECT_TRUE(SlotPipe::Remove("b").ok());
  EXPECT_TRUE(SlotPipe::Remove("a", true).ok());
  EXPECT_THAT(SlotPipe::List().value(), ElementsAre());
  EXPECT_TRUE(in_use->SendBytes("still works").ok());
  EXPECT_TRUE(Is(Connect("a"), StatusCode::kNotFound, ""));
}

TEST_F(PipeFileTest, TheFileIsPrivate) {
  Create();
  struct stat about;
  ASSERT_EQ(::stat(directory_.File("p").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat(directory_.File("").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);

  ASSERT_EQ(::chmod(directory_.File("p").c_str(), 0606), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kFailedPrecondition, "open to all users"));
  ASSERT_EQ(::chmod(directory_.File("p").c_str(), 0600), 0);
  ASSERT_EQ(::link(directory_.File("p").c_str(), directory_.File("second").c_str()), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kFailedPrecondition, "several names"));
  ASSERT_EQ(::unlink(directory_.File("second").c_str()), 0);
  ASSERT_EQ(::symlink(directory_.File("p").c_str(), directory_.File("link").c_str()), 0);
  EXPECT_TRUE(Is(Connect("link"), StatusCode::kFailedPrecondition, "symbolic link"));
  ASSERT_EQ(::mkdir(directory_.File("folder").c_str(), 0700), 0);
  EXPECT_FALSE(Connect("folder").ok());
  ASSERT_EQ(::chmod(directory_.File("").c_str(), 0705), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kFailedPrecondition,
                 "can be entered by others (mode 0705); chmod it to 0700"));
}

// And not waited for, should it be one that waits for who opens its other end.
TEST_F(PipeFileTest, WhatIsNoFileIsRefused) {
  Create();
  ASSERT_EQ(::mkfifo(directory_.File("fifo").c_str(), 0600), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);
    const auto refused = [](const absl::Status& status) {
      return Is(status, StatusCode::kFailedPrecondition, "/pipes/fifo is no regular file");
    };
    ::_exit(refused(Connect("fifo")) && refused(SlotPipe::Inspect("fifo").status()) ? 0 : 1);
  }
  int status;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(PipeFileTest, AllOfItIsReservedHoweverOftenSignalsCome) {
  reserved_between_signals = 100'000;
  const auto pipe = SlotPipe::Create("p", PipeOptions::Large());
  reserved_between_signals = UINT64_MAX;
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  EXPECT_GT(signals, 0);
  EXPECT_LT(signals, 100);
  struct stat about;
  ASSERT_EQ(::stat(directory_.File("p").c_str(), &about), 0);
  EXPECT_GE(about.st_blocks * 512, about.st_size);
}

TEST_F(PipeFileTest, WhereNoDirectoryIsChosenItIsInDevShm) {
  ::unsetenv("MI7_RUNTIME_DIR");
  ::unsetenv("XDG_RUNTIME_DIR");
  const std::string name = absl::StrCat("layout_test-", ::getpid());
  const std::string file = absl::StrCat("/dev/shm/mi7-", ::geteuid(), "/pipes/", name);
  Create(name);
  struct stat about;
  EXPECT_EQ(::stat(file.c_str(), &about), 0) << file;
  EXPECT_TRUE(Connect(name).ok());
  EXPECT_TRUE(SlotPipe::Remove(name).ok());
  EXPECT_NE(::stat(file.c_str(), &about), 0) << file;
}

// Where the user has not chosen the directory, others may have made what it is in.
TEST_F(PipeFileTest, ADirectoryInOneThatOthersCanWriteInIsRefused) {
  const std::string runtime = directory_.path() + "/run";
  ASSERT_EQ(::mkdir(runtime.c_str(), 0700), 0);
  ::unsetenv("MI7_RUNTIME_DIR");
  ::setenv("XDG_RUNTIME_DIR", runtime.c_str(), 1);
  Create();
  EXPECT_TRUE(Connect().ok());
  const std::string parent = runtime + "/mi7";
  ASSERT_EQ(::chmod(parent.c_str(), 0777), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kFailedPrecondition,
                 parent + " can be written by others (mode 0777); chmod it to 0700"));
  EXPECT_TRUE(Is(SlotPipe::Create("other").status(), StatusCode::kFailedPrecondition, "written"));
  ASSERT_EQ(::chmod(parent.c_str(), 0700), 0);
  ASSERT_EQ(::rename(parent.c_str(), (runtime + "/elsewhere").c_str()), 0);
  ASSERT_EQ(::symlink((runtime + "/elsewhere").c_str(), parent.c_str()), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kFailedPrecondition, "is no directory of user"));
  ::unsetenv("XDG_RUNTIME_DIR");
}

TEST_F(PipeFileTest, AFileThatTheSystemKeepsFromUsIsPermissionDenied) {
  Create();
  ASSERT_EQ(::chmod(directory_.File("p").c_str(), 0), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // Without the capabilities that would let the superuser in.
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    if (::syscall(SYS_capset, &header, none) != 0) ::_exit(2);
    const bool told =
        Is(Connect(), StatusCode::kPermissionDenied, "slot pipe 'p': opening ") &&
        Is(SlotPipe::Inspect("p").status(), StatusCode::kPermissionDenied, "slot pipe 'p'");
    ::_exit(told ? 0 : 1);
  }
  int status;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(PipeFileTest, AGroupIsLetInWhereItIsAskedFor) {
  PipeOptions options = PipeOptions::Small();
  options.group = ::getegid();
  ASSERT_TRUE(SlotPipe::Create("p", options).ok());
  struct stat about;
  ASSERT_EQ(::stat(directory_.File("p").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0660u);
  EXPECT_EQ(about.st_gid, ::getegid());
  EXPECT_TRUE(Connect().ok());
  EXPECT_TRUE(SlotPipe::OpenOrCreate("p", options).ok());
  EXPECT_TRUE(Is(SlotPipe::OpenOrCreate("p", PipeOptions::Small()).status(),
                 StatusCode::kFailedPrecondition, "group"));
}

TEST_F(PipeFileTest, ADamagedHeaderIsDataLossAndAnotherVersionSaysSo) {
  Create();
  Patch(8, 1, 4);
  EXPECT_TRUE(Is(Connect(), StatusCode::kFailedPrecondition, "version 1"));
  EXPECT_TRUE(Is(SlotPipe::Remove("p"), StatusCode::kFailedPrecondition, "by force"));
  Patch(8, slot_pipe_internal::kPipeVersion, 4);
  EXPECT_TRUE(Connect().ok());
  Patch(0, 0, 8);
  EXPECT_TRUE(Is(Connect(), StatusCode::kDataLoss, "no slot pipe"));
  EXPECT_TRUE(Is(SlotPipe::Inspect("p").status(), StatusCode::kDataLoss, "no slot pipe"));
  EXPECT_TRUE(SlotPipe::Remove("p").ok()) << "what is damaged can be removed";
}

// Every byte of the header counts: none can be changed without being noticed.
TEST_F(PipeFileTest, EveryByteOfTheHeaderIsChecked) {
  const auto layout = MakeLayout({.slots = 10, .slot_bytes = 100, .participants = 3});
  ASSERT_TRUE(layout.ok());
  const PipeHeader header = MakeHeader(*layout, 12345);
  EXPECT_TRUE(CheckHeader(header, layout->file_bytes).ok());
  EXPECT_FALSE(CheckHeader(header, layout->file_bytes + 4096).ok());
  for (size_t byte = 0; byte < sizeof(header); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      PipeHeader changed = header;
      reinterpret_cast<unsigned char*>(&changed)[byte] ^= static_cast<unsigned char>(1 << bit);
      EXPECT_FALSE(CheckHeader(changed, layout->file_bytes).ok()) << byte;
    }
  }
}

TEST_F(PipeFileTest, ATruncatedFileIsDataLoss) {
  Create();
  ASSERT_EQ(::truncate(directory_.File("p").c_str(), 8192), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kDataLoss, "8192 bytes instead of"));
  ASSERT_EQ(::truncate(directory_.File("p").c_str(), 100), 0);
  EXPECT_TRUE(Is(Connect(), StatusCode::kDataLoss, "too short"));
}

// Not a signal, which would end the process (SIGXFSZ).
TEST_F(PipeFileTest, ALimitOnTheSizeOfFilesIsTold) {
  const struct rlimit unlimited { RLIM_INFINITY, RLIM_INFINITY };
  const struct rlimit small { 1 << 20, RLIM_INFINITY };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status full = SlotPipe::Create("p", {.slots = 1000, .slot_bytes = 8192}).status();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  EXPECT_TRUE(Is(full, StatusCode::kResourceExhausted, "RLIMIT_FSIZE, 1048576 bytes")) << full;
  EXPECT_TRUE(Is(Connect(), StatusCode::kNotFound, "there is none")) << "nothing is left of it";
}

TEST_F(PipeFileTest, AFullTableOfParticipantsIsTold) {
  auto first = SlotPipe::Create("t", {.slots = 1, .slot_bytes = 8, .participants = 2}).value();
  {
    auto second = SlotPipe::Connect("t").value();
    EXPECT_TRUE(Is(Connect("t"), StatusCode::kResourceExhausted, "all 2 places"));
  }
  EXPECT_TRUE(Connect("t").ok());
}

}  // namespace
}  // namespace mi7
