// What participants that were killed leave, one after the other, and who comes next finds. That
// nothing is lost whenever they die is seen in crash/.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
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
