// Removing a pipe while others join it, create it, or remove it as well.

#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/layout.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace {

// Done before this process locks more than one byte of a file: what others do just before that.
std::function<void()>* before_locking = nullptr;

}  // namespace

// In the place of the C library's.
extern "C" int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (before_locking != nullptr && command == F_OFD_SETLK &&
      static_cast<struct flock*>(argument)->l_len > 1) {
    std::function<void()> others;
    others.swap(*before_locking);
    if (others) others();
  }
  return static_cast<int>(::syscall(SYS_fcntl, fd, command, argument));
}

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;
using slot_pipe_internal::kJoinByte;
using slot_pipe_internal::TestDirectory;

class RemovalTest : public testing::Test {
 protected:
  // Locks bytes of the pipe's file, as somebody who has stopped in the middle. Close ends that.
  int Lock(short type, off_t from, off_t count) {
    const int fd = ::open(directory_.File("p").c_str(), O_RDWR | O_CLOEXEC);
    struct flock lock {};
    lock.l_type = type;
    lock.l_start = from;
    lock.l_len = count;
    EXPECT_EQ(::fcntl(fd, F_OFD_SETLK, &lock), 0);
    return fd;
  }

  TestDirectory directory_;
};

// Whoever has joined is in the pipe that has the name, and stays so until it leaves, however many
// try to remove it: what it sends arrives.
TEST_F(RemovalTest, APipeThatSomebodyJoinsAtThisMomentIsNotRemoved) {
  constexpr int kJoiners = 3;
  constexpr int kRounds = 200;
  // Who removes needs a moment in which nobody takes part.
  constexpr int kRemovals = 20;
  const Deadline patience = Deadline::After(absl::Seconds(30));
  std::atomic<int> joining{kJoiners};
  std::atomic<int> removed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kJoiners; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds || (removed.load() < kRemovals && !patience.passed());
           ++round) {
        const std::string me = absl::StrCat(i, ".", round);
        const auto pipe = SlotPipe::OpenOrCreate("p", PipeOptions::Small(), {.name = me});
        EXPECT_TRUE(pipe.ok()) << pipe.status();
        const auto named = SlotPipe::Inspect("p");
        EXPECT_TRUE(named.ok()) << "removed under " << me << ": " << named.status();
        if (!named.ok()) continue;
        EXPECT_TRUE(std::any_of(named->participants.begin(), named->participants.end(),
                                [&](const PipeParticipant& one) { return one.name == me; }))
            << me << " is in another pipe than that of the name";
      }
      --joining;
    });
  }
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (joining.load() != 0) {
        const absl::Status status = SlotPipe::Remove("p");
        if (status.ok()) ++removed;
        EXPECT_TRUE(status.ok() || absl::IsNotFound(status) || absl::IsFailedPrecondition(status))
            << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(removed.load(), kRemovals) << "too little was tried";
}

// What was looked at is another pipe than the one that has the name now, in which somebody is.
TEST_F(RemovalTest, APipeThatTookThePlaceOfTheOneThatWasOpenedStays) {
  ASSERT_TRUE(SlotPipe::Create("p", PipeOptions::Small()).ok());
  std::unique_ptr<SlotPipe> next;
  std::function<void()> others = [&] {
    EXPECT_TRUE(SlotPipe::Remove("p", true).ok());
    next = SlotPipe::Create("p", PipeOptions::Small()).value();
  };
  before_locking = &others;
  EXPECT_TRUE(Is(SlotPipe::Remove("p"), StatusCode::kFailedPrecondition, "takes part in it"));
  before_locking = nullptr;
  ASSERT_NE(next, nullptr);
  EXPECT_TRUE(SlotPipe::Inspect("p").ok());
  next = nullptr;
  EXPECT_TRUE(SlotPipe::Remove("p").ok());
}

TEST_F(RemovalTest, WhoIsAboutToJoinIsSeen) {
  ASSERT_TRUE(SlotPipe::Create("p", PipeOptions::Small()).ok());
  const int joining = Lock(F_RDLCK, kJoinByte, 1);
  EXPECT_TRUE(Is(SlotPipe::Remove("p"), StatusCode::kFailedPrecondition, "joins it"));
  EXPECT_TRUE(SlotPipe::Connect("p").ok()) << "others can join at the same time";
  ::close(joining);
  EXPECT_TRUE(SlotPipe::Remove("p").ok());
}

// Somebody who has stopped in the middle of removing keeps the others from joining. They do not
// wait for it for ever, and can remove the pipe by force.
TEST_F(RemovalTest, WhoIsAboutToRemoveIsWaitedForSoLong) {
  ASSERT_TRUE(SlotPipe::Create("p", PipeOptions::Small()).ok());
  const int removing = Lock(F_WRLCK, 0, kJoinByte + 1);
  const absl::Status removed = SlotPipe::Connect("p").status();
  EXPECT_TRUE(Is(removed, StatusCode::kAborted, "is being removed"));
  EXPECT_EQ(SlotPipeErrorOf(removed), SlotPipeError::kBeingRemoved);
  EXPECT_TRUE(Is(SlotPipe::Remove("p"), StatusCode::kFailedPrecondition, "removes it"));
  EXPECT_TRUE(SlotPipe::Remove("p", true).ok());
  EXPECT_TRUE(SlotPipe::OpenOrCreate("p", PipeOptions::Small()).ok());
  ::close(removing);
}

// It joins the one that is created instead.
TEST_F(RemovalTest, WhoWaitsForTheEndOfARemovalComesToTheNextPipe) {
  ASSERT_TRUE(SlotPipe::Create("p", PipeOptions::Small()).ok());
  const int removing = Lock(F_WRLCK, 0, kJoinByte + 1);
  std::atomic<bool> begun{false};
  std::thread joins([&] {
    begun = true;
    const auto pipe = SlotPipe::OpenOrCreate("p", PipeOptions::Small(), {.name = "waits"});
    ASSERT_TRUE(pipe.ok()) << pipe.status();
    const auto named = SlotPipe::Inspect("p");
    ASSERT_TRUE(named.ok()) << named.status();
    ASSERT_EQ(named->participants.size(), 1u);
    EXPECT_EQ(named->participants[0].name, "waits");
  });
  while (!begun.load()) std::this_thread::yield();
  EXPECT_EQ(::unlink(directory_.File("p").c_str()), 0);
  ::close(removing);
  joins.join();
}

}  // namespace
}  // namespace mi7
