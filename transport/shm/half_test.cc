#include "transport/shm/half.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

// Where a signal comes so often that no more than this is reserved between two of them, and what
// one comes into is undone, as on kernels before 6.9; and what there is to reserve at all.
size_t reserved_between_signals = SIZE_MAX;
size_t left_bytes = SIZE_MAX;
int signals = 0;

}  // namespace

extern "C" int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  if (mode == 0) {
    // Nobody waits for ever in a test.
    const bool interrupted = size > reserved_between_signals && ++signals < 1000;
    if (interrupted || size > left_bytes) {
      errno = interrupted ? EINTR : ENOSPC;
      return -1;
    }
    left_bytes -= size;
  }
  return static_cast<int>(::syscall(SYS_fallocate, fd, mode, offset, bytes));
}

namespace mi7::transport::shm {
namespace {

using ::testing::HasSubstr;

UniqueFd Duplicate(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

TEST(ShmOptions, DefaultsAreSound) { EXPECT_TRUE(CheckShmOptions({}).ok()); }

TEST(ShmOptions, WhatCannotBeIsNamed) {
  const auto why = [](std::vector<ShmOptions::SlotClass> classes) {
    ShmOptions options;
    options.slot_classes = std::move(classes);
    const absl::Status status = CheckShmOptions(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(why({}), HasSubstr("0 entries"));
  EXPECT_THAT(
      why({{4096, 1}, {8192, 1}, {12288, 1}, {16384, 1}, {20480, 1}, {24576, 1}, {28672, 1}}),
      HasSubstr("7 entries"));
  EXPECT_THAT(why({{5000, 1}}), HasSubstr("5000"));
  EXPECT_THAT(why({{8192, 1}, {4096, 1}}), HasSubstr("4096"));
  EXPECT_THAT(why({{4096, 1}, {4096, 1}}), HasSubstr("ascending"));
  EXPECT_THAT(why({{4096, 0}}), HasSubstr("no slots"));
  EXPECT_THAT(why({{4096, 1537}}), HasSubstr("1537"));
  EXPECT_THAT(why({{kSlotBytesMax + 4096, 1}}), HasSubstr("up to"));
}

TEST(Half, IsVerifiedByItsPeerAndReadOnlyThere) {
  auto mine = LocalHalf::Create(std::make_shared<const ShmOptions>());
  ASSERT_TRUE(mine.ok()) << mine.status();
  auto theirs = PeerHalf::Verify(Duplicate(mine->descriptor()), {});
  ASSERT_TRUE(theirs.ok()) << theirs.status();
  ASSERT_EQ(theirs->classes().size(), ShmOptions{}.slot_classes.size());
  EXPECT_EQ(theirs->classes()[0].slot_bytes, 4096u);
  mine->control().consumed.store(42);
  EXPECT_EQ(theirs->control().consumed.load(), 42u);
  // Nobody maps it for writing any more, not even its maker.
  EXPECT_EQ(
      ::mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, mine->descriptor(), 0),
      MAP_FAILED);
  EXPECT_NE(::ftruncate(mine->descriptor(), 0), 0);
  EXPECT_NE(::ftruncate(mine->descriptor(), 8192), 0);
}

// A control page that differs from a sound one.
absl::Status VerifyChanged(const std::function<void(Geometry&)>& change) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), kControlBytes), 0);
  void* const page =
      ::mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  auto sound = LocalHalf::Create(std::make_shared<const ShmOptions>());
  Geometry geometry;
  std::memcpy(static_cast<void*>(&geometry), &sound->control().geometry, sizeof(geometry));
  change(geometry);
  std::memcpy(page, static_cast<const void*>(&geometry), sizeof(geometry));
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE), 0);
  const absl::Status status = PeerHalf::Verify(std::move(fd), {}).status();
  ::munmap(page, kControlBytes);
  return status;
}

TEST(Half, EveryFieldOfTheGeometryIsChecked) {
  EXPECT_TRUE(VerifyChanged([](Geometry&) {}).ok());
  const auto code = [](const std::function<void(Geometry&)>& change) {
    return VerifyChanged(change).code();
  };
  using absl::StatusCode;
  EXPECT_EQ(code([](Geometry& g) { g.magic ^= 1; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.version = kLayoutVersion + 1; }),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(code([](Geometry& g) { g.control_bytes = 8192; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.ring_cells = 57; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.class_count = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.class_count = kClassesMax + 1; }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.reserved = 1; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].slot_bytes = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].slot_bytes = 4097; }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].slot_bytes = UINT64_MAX - 4095; }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].count = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].count = UINT32_MAX; }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].count = kSlotsMax; }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[1].reserved = 1; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](Geometry& g) { g.classes[3].count = 100; }), StatusCode::kResourceExhausted);
}

TEST(Half, OnlySealedMemoryOfTheRightSizeIsAccepted) {
  const auto verify = [](int fd) { return PeerHalf::Verify(UniqueFd(fd), {}).status(); };
  const auto memory = [](size_t bytes, int seals) {
    const int fd = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(bytes)), 0);
    if (seals != 0) {
      EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, seals), 0);
    }
    return fd;
  };
  constexpr int kSize = F_SEAL_SHRINK | F_SEAL_GROW;
  EXPECT_THAT(std::string(verify(::open("/dev/null", O_RDWR | O_CLOEXEC)).message()),
              HasSubstr("no memfd"));
  EXPECT_THAT(std::string(verify(memory(kControlBytes, 0)).message()), HasSubstr("seals"));
  EXPECT_THAT(std::string(verify(memory(kControlBytes, F_SEAL_SHRINK)).message()),
              HasSubstr("seals"));
  EXPECT_THAT(std::string(verify(memory(kControlBytes, kSize)).message()),
              HasSubstr("future write"));
  EXPECT_THAT(std::string(verify(memory(2 * kControlBytes, kSize | F_SEAL_FUTURE_WRITE)).message()),
              HasSubstr("8192"));
  EXPECT_THAT(std::string(verify(memory(0, kSize | F_SEAL_FUTURE_WRITE)).message()),
              HasSubstr("0 bytes"));
}

TEST(SharedMemory, LargerThanTheLimitOfFilesIsRefusedByName) {
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 1 << 20;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  // Were it asked for, the system would end this process.
  const absl::Status larger = CreateSharedMemory("test", (1 << 20) + 4096, 0, false).status();
  const absl::Status largest = CreateSharedMemory("test", 1 << 20, 1 << 20, false).status();
  ShmOptions fits;
  fits.slot_classes = {{4096, 16}, {1 << 20, 1}};
  const absl::Status half = LocalHalf::Create(std::make_shared<const ShmOptions>()).status();
  const absl::Status small_half = LocalHalf::Create(std::make_shared<ShmOptions>(fits)).status();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(larger.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(larger.message(),
            "shared memory of 1052672 bytes exceeds this process's RLIMIT_FSIZE, 1048576 bytes "
            "(ulimit -f)");
  EXPECT_TRUE(largest.ok()) << largest;
  EXPECT_EQ(half.code(), absl::StatusCode::kResourceExhausted) << "its largest class is 160 MiB";
  EXPECT_THAT(std::string(half.message()), HasSubstr("167772160 bytes exceeds"));
  EXPECT_TRUE(small_half.ok()) << small_half;
}

// Each reservation is within the size, which the limit is not asked for again.
TEST(SharedMemory, IsReservedAlsoWhenTheLimitOfFilesWasLoweredSince) {
  auto memory = CreateSharedMemory("test", 1 << 20, 0, /*for_good=*/false);
  ASSERT_TRUE(memory.ok());
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  const absl::Status reserved = ReserveMemory(memory->descriptor, 8192, 8192);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(reserved.ok()) << reserved;
}

off_t Committed(const SharedMemory& memory) {
  struct stat info;
  EXPECT_EQ(::fstat(memory.descriptor.get(), &info), 0);
  return info.st_blocks * 512;
}

TEST(SharedMemory, CommitsWhatIsReservedAndNoMore) {
  auto memory = CreateSharedMemory("test", 1 << 20, 0, /*for_good=*/true);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(Committed(*memory), 0);
  ASSERT_TRUE(ReserveMemory(memory->descriptor, 8192, 4096).ok());
  EXPECT_EQ(Committed(*memory), 4096);
}

TEST(SharedMemory, IsReservedHoweverOftenSignalsCome) {
  auto memory = CreateSharedMemory("test", 1 << 20, 0, /*for_good=*/false);
  ASSERT_TRUE(memory.ok());
  signals = 0;
  reserved_between_signals = 10'000;
  EXPECT_TRUE(ReserveMemory(memory->descriptor, 4096, (1 << 20) - 4096).ok());
  EXPECT_GT(signals, 0);
  EXPECT_LT(signals, 100);
  EXPECT_EQ(Committed(*memory), (1 << 20) - 4096);
  reserved_between_signals = SIZE_MAX;
}

TEST(SharedMemory, NothingStaysReservedWhereNotAllOfItIs) {
  auto memory = CreateSharedMemory("test", 1 << 20, 4096, /*for_good=*/false);
  ASSERT_TRUE(memory.ok());
  reserved_between_signals = 10'000;
  left_bytes = 100'000;
  const absl::Status reserved = ReserveMemory(memory->descriptor, 4096, (1 << 20) - 4096);
  EXPECT_EQ(reserved.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(reserved.message()), HasSubstr("No space left"));
  EXPECT_LT(left_bytes, 100'000u) << "it was tried";
  EXPECT_EQ(Committed(*memory), 4096);
  reserved_between_signals = SIZE_MAX;
  left_bytes = SIZE_MAX;
}

}  // namespace
}  // namespace mi7::transport::shm
