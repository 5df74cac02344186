// Each error of a slot pipe is known by a program: by its code, and by its SlotPipeError where
// several have one code. (kTmpfsFull, kRingFull, kBeingRemoved, kNotCapnp: in the tests of those.)

#include "transport/slot_pipe/slot_pipe_error.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/layout.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::TestDirectory;

testing::AssertionResult Is(const absl::Status& status, SlotPipeError error, StatusCode code) {
  if (status.code() == code && SlotPipeErrorOf(status) == error) return testing::AssertionSuccess();
  return testing::AssertionFailure() << status << " instead of " << SlotPipeErrorName(error);
}

class SlotPipeErrorTest : public testing::Test {
 protected:
  static constexpr PipeOptions kOptions = {
      .slots = 2, .slot_bytes = 64, .participants = 2, .checksum = true};

  static std::unique_ptr<SlotPipe> Create(absl::string_view name = "p") {
    return SlotPipe::Create(name, kOptions).value();
  }
  static absl::Status Connect(absl::string_view name = "p") {
    return SlotPipe::Connect(name).status();
  }
  static Deadline Soon() { return Deadline::After(absl::Milliseconds(1)); }
  void Patch(off_t offset, uint32_t value) {
    const int fd = ::open(directory_.File("p").c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(::pwrite(fd, &value, sizeof(value), offset), static_cast<ssize_t>(sizeof(value)));
    ::close(fd);
  }
  // Runs `told` in a forked child.
  static testing::AssertionResult InAChild(const std::function<bool()>& told) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(told() ? 0 : 1);
    int status = 0;
    if (::waitpid(child, &status, 0) == child && status == 0) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "the child's status is " << status;
  }

  TestDirectory directory_;
};

TEST_F(SlotPipeErrorTest, ErrorsOfMakingAndFindingAPipeAreToldApart) {
  EXPECT_TRUE(Is(Connect(), SlotPipeError::kNoSuchPipe, StatusCode::kNotFound));
  EXPECT_TRUE(Is(SlotPipe::Remove("p", true), SlotPipeError::kNoSuchPipe, StatusCode::kNotFound));
  auto pipe = Create();
  EXPECT_TRUE(Is(Connect("q"), SlotPipeError::kNoSuchPipe, StatusCode::kNotFound));
  EXPECT_TRUE(
      Is(SlotPipe::Inspect("q").status(), SlotPipeError::kNoSuchPipe, StatusCode::kNotFound));
  EXPECT_TRUE(Is(SlotPipe::Remove("q"), SlotPipeError::kNoSuchPipe, StatusCode::kNotFound));
  EXPECT_TRUE(Is(SlotPipe::Remove("q", true), SlotPipeError::kNoSuchPipe, StatusCode::kNotFound));
  EXPECT_TRUE(
      Is(SlotPipe::Create("p").status(), SlotPipeError::kExists, StatusCode::kAlreadyExists));
  EXPECT_TRUE(Is(Connect("a/b"), SlotPipeError::kNameInvalid, StatusCode::kInvalidArgument));
  EXPECT_TRUE(Is(SlotPipe::Create("q", {.slots = 0}).status(), SlotPipeError::kOptionsInvalid,
                 StatusCode::kInvalidArgument));
  EXPECT_TRUE(Is(SlotPipe::OpenOrCreate("p", PipeOptions::Small()).status(),
                 SlotPipeError::kGeometryMismatch, StatusCode::kFailedPrecondition));
  EXPECT_TRUE(Is(SlotPipe::Remove("p"), SlotPipeError::kInUse, StatusCode::kFailedPrecondition));
  {
    auto second = SlotPipe::Connect("p").value();
    EXPECT_TRUE(
        Is(Connect(), SlotPipeError::kParticipantTableFull, StatusCode::kResourceExhausted));
  }
  ASSERT_EQ(::chmod(directory_.File("p").c_str(), 0606), 0);
  EXPECT_TRUE(Is(Connect(), SlotPipeError::kUnsafeFile, StatusCode::kFailedPrecondition));
  ASSERT_EQ(::chmod(directory_.File("p").c_str(), 0600), 0);
  ASSERT_EQ(::chmod(directory_.File("").c_str(), 0705), 0);
  EXPECT_TRUE(Is(Connect(), SlotPipeError::kUnsafeFile, StatusCode::kFailedPrecondition));
  ASSERT_EQ(::chmod(directory_.File("").c_str(), 0700), 0);
  ASSERT_EQ(::symlink(directory_.File("p").c_str(), directory_.File("link").c_str()), 0);
  EXPECT_TRUE(Is(Connect("link"), SlotPipeError::kUnsafeFile, StatusCode::kFailedPrecondition));

  pipe.reset();
  Patch(offsetof(slot_pipe_internal::PipeHeader, version), 1);
  EXPECT_TRUE(Is(Connect(), SlotPipeError::kVersionMismatch, StatusCode::kFailedPrecondition));
  EXPECT_TRUE(
      Is(SlotPipe::Remove("p"), SlotPipeError::kVersionMismatch, StatusCode::kFailedPrecondition));
  Patch(offsetof(slot_pipe_internal::PipeHeader, version), slot_pipe_internal::kPipeVersion);
  Patch(offsetof(slot_pipe_internal::PipeHeader, slots), 3);
  EXPECT_TRUE(Is(Connect(), SlotPipeError::kDamaged, StatusCode::kDataLoss));
  ASSERT_EQ(::truncate(directory_.File("p").c_str(), 1), 0);
  EXPECT_TRUE(Is(Connect(), SlotPipeError::kDamaged, StatusCode::kDataLoss));
}

TEST_F(SlotPipeErrorTest, WhatTheSystemRefusesIsToldApart) {
  const struct rlimit unlimited { RLIM_INFINITY, RLIM_INFINITY };
  const struct rlimit small { 1 << 20, RLIM_INFINITY };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status large = SlotPipe::Create("large", PipeOptions::Large()).status();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  EXPECT_TRUE(Is(large, SlotPipeError::kSystemLimit, StatusCode::kResourceExhausted));

  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const struct rlimit none { 3, before.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status descriptors = SlotPipe::Create("p", kOptions).status();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(Is(descriptors, SlotPipeError::kSystemLimit, StatusCode::kResourceExhausted));

  Create();
  ASSERT_EQ(::chmod(directory_.File("p").c_str(), 0), 0);
  EXPECT_TRUE(InAChild([] {
    // Without the capabilities that would let the superuser in.
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct nothing[2] = {};
    return ::syscall(SYS_capset, &header, nothing) == 0 &&
           Is(Connect(), SlotPipeError::kPermissionDenied, StatusCode::kPermissionDenied);
  }));
}

TEST_F(SlotPipeErrorTest, ErrorsOfUsingAPipeAreToldApart) {
  auto pipe = Create();
  EXPECT_TRUE(Is(pipe->TryFetch().status(), SlotPipeError::kPipeEmpty, StatusCode::kUnavailable));
  EXPECT_TRUE(
      Is(pipe->Fetch(Soon()).status(), SlotPipeError::kPipeEmpty, StatusCode::kDeadlineExceeded));
  EXPECT_TRUE(Is(pipe->TryFetchDeadLetter().status(), SlotPipeError::kNoDeadLetter,
                 StatusCode::kUnavailable));
  const std::string large(65, 'x');
  EXPECT_TRUE(
      Is(pipe->SendBytes(large), SlotPipeError::kMessageTooLarge, StatusCode::kInvalidArgument));
  EXPECT_TRUE(
      Is(pipe->TrySendBytes(large), SlotPipeError::kMessageTooLarge, StatusCode::kInvalidArgument));
  EXPECT_TRUE(
      Is(pipe->Hold()->Send(65), SlotPipeError::kMessageTooLarge, StatusCode::kInvalidArgument));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pipe->SendBytes("x").ok());
  EXPECT_TRUE(
      Is(pipe->TryHold().status(), SlotPipeError::kPipeFull, StatusCode::kResourceExhausted));
  EXPECT_TRUE(
      Is(pipe->TrySendBytes("x"), SlotPipeError::kPipeFull, StatusCode::kResourceExhausted));
  EXPECT_TRUE(
      Is(pipe->Hold(Soon()).status(), SlotPipeError::kPipeFull, StatusCode::kDeadlineExceeded));
  pipe->Cancel();
  EXPECT_TRUE(Is(pipe->Hold().status(), SlotPipeError::kCancelled, StatusCode::kCancelled));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pipe->TryFetch()->Release().ok());
  EXPECT_TRUE(Is(pipe->Fetch().status(), SlotPipeError::kCancelled, StatusCode::kCancelled));
  EXPECT_TRUE(
      Is(pipe->StateOf(2).status(), SlotPipeError::kNoSuchSlot, StatusCode::kInvalidArgument));
  EXPECT_TRUE(InAChild([&] {
    return Is(pipe->TryHold().status(), SlotPipeError::kForked, StatusCode::kFailedPrecondition) &&
           Is(pipe->Fetch().status(), SlotPipeError::kForked, StatusCode::kFailedPrecondition);
  }));

  auto slot = pipe->TryHold();
  std::byte* const stray = slot->data();
  ASSERT_TRUE(slot->SendBytes("precious").ok());
  stray[0] ^= std::byte{1};
  EXPECT_TRUE(Is(pipe->TryFetch().status(), SlotPipeError::kOverwritten, StatusCode::kDataLoss));
}

TEST_F(SlotPipeErrorTest, AWrongStateOfASlotIsToldWhateverIsDone) {
  auto pipe = Create();
  const auto wrong = [](const absl::Status& status) {
    return Is(status, SlotPipeError::kWrongSlotState, StatusCode::kFailedPrecondition);
  };
  auto slot = pipe->TryHold();
  const SlotRef ref = slot->Detach();
  EXPECT_TRUE(wrong(slot->Send(1)));
  EXPECT_TRUE(wrong(slot->GiveBack()));
  EXPECT_TRUE(wrong(pipe->Reading(ref).status()));
  ASSERT_TRUE(pipe->Writing(ref)->Send(1).ok());
  EXPECT_TRUE(wrong(pipe->Writing(ref).status()));
  EXPECT_TRUE(wrong(pipe->MarkInProgress(ref)));
  auto message = pipe->TryFetch();
  ASSERT_TRUE(message->Release().ok());
  EXPECT_TRUE(wrong(message->Release()));
  EXPECT_TRUE(wrong(message->Return()));
  EXPECT_TRUE(wrong(message->Redrive()));
}

TEST_F(SlotPipeErrorTest, AStatusThatHasAnErrorKeepsTheError) {
  using slot_pipe_internal::AboutPipe;
  using slot_pipe_internal::WithError;
  EXPECT_EQ(SlotPipeErrorOf(absl::OkStatus()), SlotPipeError::kNone);
  EXPECT_EQ(SlotPipeErrorOf(absl::NotFoundError("another's")), SlotPipeError::kNone);
  EXPECT_TRUE(WithError(SlotPipeError::kExists, absl::OkStatus()).ok());
  const absl::Status inner =
      WithError(SlotPipeError::kTmpfsFull, absl::ResourceExhaustedError("inner"));
  EXPECT_TRUE(Is(AboutPipe("p", SlotPipeError::kSystem, inner), SlotPipeError::kTmpfsFull,
                 StatusCode::kResourceExhausted));
  EXPECT_EQ(AboutPipe("p", inner).message(), "slot pipe 'p': inner");
  absl::Status unknown = absl::InternalError("of a later version");
  unknown.SetPayload("mi7/slot_pipe_error", absl::Cord("something new"));
  EXPECT_EQ(SlotPipeErrorOf(unknown), SlotPipeError::kNone);
}

TEST_F(SlotPipeErrorTest, EachHasAName) {
  std::set<absl::string_view> names;
  for (int i = 0; i <= static_cast<int>(SlotPipeError::kOverwritten); ++i) {
    const auto error = static_cast<SlotPipeError>(i);
    EXPECT_TRUE(names.insert(SlotPipeErrorName(error)).second) << SlotPipeErrorName(error);
    if (error == SlotPipeError::kNone) continue;
    EXPECT_EQ(SlotPipeErrorOf(slot_pipe_internal::WithError(error, absl::UnknownError(""))), error);
  }
  EXPECT_EQ(SlotPipeErrorName(static_cast<SlotPipeError>(255)), "");
}

}  // namespace
}  // namespace mi7
