// What participants that were killed leave, one after the other, and who comes next finds. That
// nothing is lost whenever they die is seen in crash/.

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/event.h"
#include "transport/slot_pipe/layout.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Doomed;
using slot_pipe_internal::Is;
using slot_pipe_internal::Possessions;
using slot_pipe_internal::TestDirectory;

constexpr uint32_t kAttemptsMax = 3;

class RecoveryTest : public testing::Test {
 protected:
  RecoveryTest()
      : pipe_(SlotPipe::Create("test", {.slots = 4, .slot_bytes = 64, .attempts_max = kAttemptsMax})
                  .value()) {}

  ~RecoveryTest() override {
    pipe_.reset();
    EXPECT_EQ(Possessions::Count(), before_) << "leaked";
  }

  // A process connects, does `work` and is killed. `work` says whether it has come to its end.
  static void Die(const std::function<bool(SlotPipe&)>& work) {
    const pid_t child = ::fork();
    if (child == 0) {
      auto own = SlotPipe::Connect("test");
      if (own.ok() && work(**own)) ::raise(SIGKILL);
      ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  }
  static bool FetchAndKeep(SlotPipe& own) {
    auto message = own.TryFetch();
    if (message.ok()) message->Detach();
    return message.ok();
  }
  static bool HoldAndKeep(SlotPipe& own) {
    auto slot = own.TryHold();
    if (slot.ok()) slot->Detach();
    return slot.ok();
  }

  TestDirectory directory_;
  const Possessions before_ = Possessions::Count();
  std::unique_ptr<SlotPipe> pipe_;
};

TEST_F(RecoveryTest, AMessageThatKillsEachConsumerIsADeadLetterInTheEnd) {
  ASSERT_TRUE(pipe_->SendBytes("poison").ok());
  for (uint32_t attempt = 1; attempt <= kAttemptsMax; ++attempt) {
    EXPECT_EQ(pipe_->Status().dead_lettered, 0u);
    Die([attempt](SlotPipe& own) {
      auto message = own.TryFetch();
      if (!message.ok() || message->attempt() != attempt) return false;
      message->Detach();
      return true;
    });
    ASSERT_FALSE(HasFatalFailure()) << "attempt " << attempt;
    EXPECT_EQ(pipe_->Recover(), 1u);
  }
  const PipeStatus status = pipe_->Status();
  EXPECT_EQ(status.dead_letters, 1u);
  EXPECT_EQ(status.dead_lettered, 1u);
  EXPECT_EQ(status.redelivered, kAttemptsMax - 1);
  EXPECT_EQ(status.recovered_slots, kAttemptsMax);
  EXPECT_TRUE(Is(pipe_->TryFetch().status(), StatusCode::kUnavailable, "no message"));

  auto dead = pipe_->TryFetchDeadLetter();
  ASSERT_TRUE(dead.ok()) << dead.status();
  EXPECT_EQ(dead->text(), "poison");
  ASSERT_TRUE(dead->Release().ok());
  EXPECT_EQ(pipe_->Status().empty, 4u);
  EXPECT_TRUE(
      Is(pipe_->TryFetchDeadLetter().status(), StatusCode::kUnavailable, "no dead letters"));
}

// It was fetched once, so attempts are left of it; all the same nobody who fetches messages gets
// it.
TEST_F(RecoveryTest, AnOverwrittenMessageStaysADeadLetterWhenWhoeverLooksAtItIsKilled) {
  pipe_ = nullptr;
  ASSERT_TRUE(SlotPipe::Remove("test").ok());
  pipe_ =
      SlotPipe::Create(
          "test", {.slots = 4, .slot_bytes = 64, .attempts_max = kAttemptsMax, .checksum = true})
          .value();
  auto slot = pipe_->TryHold();
  std::byte* const stray = slot->data();
  ASSERT_TRUE(slot->SendBytes("precious").ok());
  stray[0] ^= std::byte{1};
  EXPECT_TRUE(Is(pipe_->TryFetch().status(), StatusCode::kDataLoss, "overwritten"));
  for (uint64_t deaths = 1; deaths <= 2; ++deaths) {
    Die([](SlotPipe& own) {
      auto dead = own.TryFetchDeadLetter();
      if (dead.ok()) dead->Detach();
      return dead.ok();
    });
    ASSERT_FALSE(HasFatalFailure()) << "death " << deaths;
    EXPECT_EQ(pipe_->Recover(), 1u);
    EXPECT_EQ(pipe_->Status().recovered_slots, deaths);
    EXPECT_TRUE(Is(pipe_->TryFetch().status(), StatusCode::kUnavailable, "no message"));
  }
  const PipeStatus status = pipe_->Status();
  EXPECT_EQ(status.dead_letters, 1u);
  EXPECT_EQ(status.dead_lettered, 1u);
  EXPECT_EQ(status.redelivered, 0u);
  ASSERT_TRUE(pipe_->TryFetchDeadLetter()->Release().ok());
  EXPECT_EQ(pipe_->Status().empty, 4u);
}

TEST_F(RecoveryTest, RecoverTellsHowManyDeadThereWereAndEmptiesWhatTheyHeld) {
  EXPECT_EQ(pipe_->Recover(), 0u);
  Die(&HoldAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  PipeStatus status = pipe_->Status();
  EXPECT_EQ(status.writing, 1u);
  ASSERT_EQ(status.participants.size(), 2u);
  EXPECT_FALSE(status.participants[1].alive);

  EXPECT_EQ(pipe_->Recover(), 1u);
  status = pipe_->Status();
  EXPECT_EQ(status.empty, 4u);
  EXPECT_EQ(status.participants.size(), 1u);
  EXPECT_EQ(status.recovered_participants, 1u);
  EXPECT_EQ(status.recovered_slots, 1u);
  EXPECT_EQ(pipe_->Recover(), 0u);

  // It can be held: a hint leads to it.
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(HoldAndKeep(*pipe_)) << i;
}

// Who works long on each message, and has a backlog, never waits and comes here seldom. So it looks
// whenever it comes and a look is due, not after so many operations.
TEST_F(RecoveryTest, WhoNeverWaitsAndWorksLongRecoversAtItsNextOperation) {
  const auto work_until_a_look_is_due = [] {
    const Deadline done = Deadline::After(absl::Nanoseconds(2 * slot_pipe_internal::kLookAgainNs));
    while (!done.passed()) {
    }
  };
  ASSERT_TRUE(pipe_->SendBytes("first").ok());
  ASSERT_TRUE(pipe_->SendBytes("backlog").ok());
  Die(&FetchAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  work_until_a_look_is_due();
  ASSERT_TRUE(pipe_->TryFetch()->Release().ok());
  EXPECT_EQ(pipe_->Status().recovered_participants, 1u) << "by a fetch";

  Die(&HoldAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  work_until_a_look_is_due();
  ASSERT_TRUE(pipe_->TryHold()->GiveBack().ok());
  EXPECT_EQ(pipe_->Status().recovered_participants, 2u) << "by a hold";

  Die(&HoldAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  work_until_a_look_is_due();
  ASSERT_TRUE(pipe_->Fetch()->Release().ok());
  EXPECT_EQ(pipe_->Status().recovered_participants, 3u) << "by a fetch that could have waited";

  Die(&HoldAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  work_until_a_look_is_due();
  ASSERT_TRUE(pipe_->Hold()->GiveBack().ok());
  EXPECT_EQ(pipe_->Status().recovered_participants, 4u) << "by a hold that could have waited";
}

// A forked child has its parent's locks in its hands until it closes the descriptor.
TEST_F(RecoveryTest, AParentThatIsKilledIsDeadThoughItsForkedChildLives) {
  int lives[2];  // the forked child, until the other end is closed
  ASSERT_EQ(::pipe2(lives, O_CLOEXEC), 0);
  Die([&lives](SlotPipe& own) {
    int forked[2];
    if (!HoldAndKeep(own) || ::pipe2(forked, O_CLOEXEC) != 0) return false;
    const pid_t child = ::fork();
    char byte = 0;
    if (child == 0) {
      ::close(lives[1]);
      if (::write(forked[1], &byte, 1) != 1) ::_exit(1);
      while (::read(lives[0], &byte, 1) > 0) {
      }
      ::_exit(0);
    }
    return child > 0 && ::read(forked[0], &byte, 1) == 1;
  });
  EXPECT_EQ(pipe_->Recover(), 1u);
  EXPECT_EQ(pipe_->Status().empty, 4u);
  ::close(lives[0]);
  ::close(lives[1]);
}

// One descriptor would do: the locks that its parent takes through it would be the child's, too.
TEST_F(RecoveryTest, AChildForkedWhileAnotherThreadConnectsOrCreatesHasNoDescriptorOfThePipe) {
  std::atomic<bool> stop{false};
  std::thread other([&stop] {
    while (!stop.load()) {
      EXPECT_TRUE(SlotPipe::Connect("test").ok());
      EXPECT_TRUE(SlotPipe::Create("another", PipeOptions::Small()).ok());
      EXPECT_TRUE(SlotPipe::Remove("another", true).ok());
    }
  });
  const std::string pipes = directory_.File("");
  for (int i = 0; i < 300; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      // Without the heap, which the other thread may have been in the middle of.
      for (int fd = 0; fd < 64; ++fd) {
        char link[32];
        std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        char target[4096];
        const ssize_t size = ::readlink(link, target, sizeof(target));
        if (size <= 0) continue;
        if (absl::StartsWith({target, static_cast<size_t>(size)}, pipes)) ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "a descriptor is left to child " << i;
  }
  stop = true;
  other.join();
}

// No descriptor to spare is as good as no /dev/null: the numbers of its parent's descriptors are
// free in the child, and what it opens itself gets them.
TEST_F(RecoveryTest, AForkedChildThatHasNothingToPutInItsPlaceClosesItOnce) {
  auto other = SlotPipe::Connect("test").value();
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const pid_t child = ::fork();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  if (child == 0) {
    ::alarm(30);  // it hangs no longer
    if (Possessions::Count().descriptors != before_.descriptors) ::_exit(1);
    int own[2];
    if (::pipe2(own, O_CLOEXEC) != 0) ::_exit(2);
    // A child of it does not take them for its parent's either.
    const pid_t grandchild = ::fork();
    if (grandchild == 0) ::_exit(::write(own[1], "x", 1) == 1 ? 0 : 1);
    int status = 0;
    if (::waitpid(grandchild, &status, 0) != grandchild || status != 0) ::_exit(3);
    pipe_.reset();
    other.reset();
    char byte = 0;
    ::_exit(::read(own[0], &byte, 1) == 1 && ::write(own[1], "y", 1) == 1 ? 0 : 4);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "exit " << WEXITSTATUS(status);
}

// It has the memory, but not the locks, nor the threads that its parent had: it tells what it can,
// and soon, whatever they were doing.
TEST_F(RecoveryTest, TheStatusInAForkedChildTakesNobodyForDead) {
  auto other = SlotPipe::Connect("test").value();
  std::atomic<bool> stop{false};
  std::thread recovers([&] {
    while (!stop.load()) pipe_->Recover();
  });
  for (int i = 0; i < 100; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(30);  // it hangs no longer
      const PipeStatus status = pipe_->Status();
      ::_exit(status.participants.size() == 2 && status.participants[0].alive &&
                      status.participants[1].alive
                  ? 0
                  : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "child " << i;
  }
  stop = true;
  recovers.join();
}

// A program that is executed has no part in the pipe, nor keeps anybody in it alive.
TEST_F(RecoveryTest, NoDescriptorIsLeftToAProgramThatIsExecuted) {
  auto connected = SlotPipe::Connect("test").value();
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    if (target.rfind(directory_.path(), 0) != 0) continue;
    const int fd = ::atoi(entry.path().filename().c_str());
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd << " is " << target;
    ++found;
  }
  EXPECT_EQ(found, 2) << "the one that created it, and the one that connected";
}

// As many as there can be of both: the last participant has all slots, and dies.
TEST_F(RecoveryTest, TheLastPlaceAndTheLastSlotAreAsGoodAsTheFirst) {
  constexpr uint32_t kPlaces = 4094;
  constexpr uint32_t kSlots = 16'384;
  auto pipe =
      SlotPipe::Create("limits", {.slots = kSlots, .slot_bytes = 8, .participants = kPlaces})
          .value();
  // All places but the last are taken: one lock is as good as thousands of participants.
  const int others = ::open(directory_.File("limits").c_str(), O_RDWR | O_CLOEXEC);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = 1;
  lock.l_len = kPlaces - 2;
  ASSERT_EQ(::fcntl(others, F_OFD_SETLK, &lock), 0);
  std::unique_ptr<SlotPipe> own;
  Doomed last([&own] {
    own = SlotPipe::Connect("limits").value();
    for (uint32_t i = 0; i < kSlots; ++i) {
      if (!own->TrySendBytes("x").ok()) return false;
    }
    for (uint32_t i = 0; i < kSlots; ++i) {
      auto message = own->TryFetch();
      if (!message.ok()) return false;
      message->Detach();
    }
    return !own->TryHold().ok();
  });
  ASSERT_TRUE(last.ready());
  PipeStatus status = pipe->Status();
  ASSERT_EQ(status.participants.size(), 2u);
  EXPECT_EQ(status.participants[1].index, kPlaces - 1);
  EXPECT_TRUE(status.participants[1].alive);
  EXPECT_EQ(status.participants[1].slots_owned, kSlots);
  EXPECT_TRUE(
      Is(SlotPipe::Connect("limits").status(), StatusCode::kResourceExhausted, "all 4094 places"));
  last.Kill();
  EXPECT_EQ(pipe->Recover(), 1u);
  EXPECT_EQ(pipe->Status().recovered_slots, kSlots);
  std::vector<bool> came(kSlots);
  for (uint32_t i = 0; i < kSlots; ++i) {
    auto message = pipe->TryFetch();
    ASSERT_TRUE(message.ok()) << i << ": " << message.status();
    EXPECT_EQ(message->attempt(), 2u);
    came[message->index()] = true;
    ASSERT_TRUE(message->Release().ok());
  }
  EXPECT_EQ(std::count(came.begin(), came.end(), true), kSlots);
  ::close(others);
}

// Who sweeps a dead one has its place locked, as if somebody were alive in it. Most times at least
// the sweep is seen to end: this machine may have something else to do.
TEST_F(RecoveryTest, APlaceThatIsBeingSweptIsWaitedFor) {
  constexpr int kRounds = 20;
  auto pipe = SlotPipe::Create("swept", {.slots = 4, .slot_bytes = 64, .participants = 2}).value();
  const int sweeper = ::open(directory_.File("swept").c_str(), O_RDWR | O_CLOEXEC);
  const auto ask = [sweeper](int command, short type, off_t byte) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_start = byte;
    lock.l_len = 1;
    EXPECT_EQ(::fcntl(sweeper, command, &lock), 0);
    return lock.l_type;
  };
  int joined = 0;
  for (int round = 0; round < kRounds; ++round) {
    ask(F_OFD_SETLK, F_WRLCK, 1);
    std::atomic<bool> ended{false};
    std::thread joins([&] {
      if (SlotPipe::Connect("swept").ok()) ++joined;
      ended = true;
    });
    // While it looks for a place it has locked one more byte.
    for (int looks = 0; looks < 100 && !ended.load();) {
      if (ask(F_OFD_GETLK, F_WRLCK, slot_pipe_internal::kJoinByte) == F_RDLCK) ++looks;
    }
    ask(F_OFD_SETLK, F_UNLCK, 1);
    joins.join();
  }
  EXPECT_GE(joined, kRounds / 2);
  ::close(sweeper);
}

TEST_F(RecoveryTest, APipeOfTheDeadCanBeRemoved) {
  Die(&HoldAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_TRUE(Is(SlotPipe::Remove("test"), StatusCode::kFailedPrecondition, "takes part in it"));
  pipe_.reset();
  Die(&HoldAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  const auto status = SlotPipe::Inspect("test");
  ASSERT_TRUE(status.ok()) << status.status();
  ASSERT_GE(status->participants.size(), 1u);
  EXPECT_FALSE(status->participants[0].alive);
  EXPECT_TRUE(SlotPipe::Remove("test").ok());
  EXPECT_TRUE(Is(SlotPipe::Connect("test").status(), StatusCode::kNotFound, "there is none"));
}

TEST_F(RecoveryTest, AMessageThatADeadOneHadIsFetchedAgain) {
  ASSERT_TRUE(pipe_->SendBytes("again").ok());
  Die(&FetchAndKeep);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(pipe_->Recover(), 1u);
  auto message = pipe_->TryFetch();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "again");
  EXPECT_EQ(message->attempt(), 2u);
}

}  // namespace
}  // namespace mi7
