// What is done with dead letters: looking at all of them changes nothing, redriving all makes
// messages of them, and whoever is killed in the middle of either loses none. (At every
// instruction: crash/.)

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Doomed;
using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

constexpr uint32_t kAttemptsMax = 2;

class DeadLettersTest : public testing::Test {
 protected:
  DeadLettersTest()
      : pipe_(SlotPipe::Create(
                  "test",
                  {.slots = 8, .slot_bytes = 64, .attempts_max = kAttemptsMax, .checksum = true})
                  .value()) {}

  // Makes dead letters of messages with these texts.
  void Bury(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) ASSERT_TRUE(pipe_->SendBytes(text).ok());
    // Fetched and dropped.
    for (size_t i = 0; i < kAttemptsMax * texts.size(); ++i) ASSERT_TRUE(pipe_->TryFetch().ok());
    ASSERT_EQ(pipe_->Status().dead_letters, texts.size());
  }
  void BuryOverwritten(const std::string& text) {
    auto slot = pipe_->TryHold();
    std::byte* const stray = slot->data();
    ASSERT_TRUE(slot->SendBytes(text).ok());
    stray[0] ^= std::byte{1};
    ASSERT_TRUE(Is(pipe_->TryFetch().status(), StatusCode::kDataLoss, "overwritten"));
  }
  static std::vector<std::string> Look(SlotPipe& pipe) {
    std::vector<std::string> texts;
    auto letters = pipe.DeadLetters();
    for (const ReadSlot& letter : letters) texts.emplace_back(letter.text());
    EXPECT_TRUE(Is(letters.status(), StatusCode::kUnavailable, "dead letters"));
    return texts;
  }
  std::vector<std::string> FetchAll() {
    std::vector<std::string> texts;
    for (auto message = pipe_->TryFetch(); message.ok(); message = pipe_->TryFetch()) {
      EXPECT_EQ(message->attempt(), 1u) << "its attempts are forgotten";
      texts.emplace_back(message->text());
      EXPECT_TRUE(message->Release().ok());
    }
    return texts;
  }

  TestDirectory directory_;
  std::unique_ptr<SlotPipe> pipe_;
};

TEST_F(DeadLettersTest, ALookAtAllChangesNothing) {
  EXPECT_THAT(Look(*pipe_), ElementsAre());
  Bury({"one", "two", "three"});
  for (int look = 0; look < 10; ++look) {
    std::vector<std::string> texts;
    uint32_t next = 0;
    for (const ReadSlot& letter : pipe_->DeadLetters()) {
      EXPECT_GE(letter.index(), next) << "in the order of their slots";
      next = letter.index() + 1;
      EXPECT_EQ(letter.attempt(), kAttemptsMax) << "a look is no attempt";
      EXPECT_FALSE(letter.overwritten());
      EXPECT_EQ(pipe_->Status().reading, 1u) << "one at a time";
      EXPECT_EQ(pipe_->Status().dead_letters, 2u);
      texts.emplace_back(letter.text());
    }
    EXPECT_THAT(texts, UnorderedElementsAre("one", "two", "three"));
  }
  // Also one that ends early.
  for (const ReadSlot& letter : pipe_->DeadLetters()) {
    EXPECT_TRUE(letter);
    break;
  }
  const PipeStatus status = pipe_->Status();
  EXPECT_EQ(status.dead_letters, 3u);
  EXPECT_EQ(status.dead_lettered, 3u);
  EXPECT_EQ(status.redelivered, 3u) << "before they were dead letters, each once";
  EXPECT_EQ(status.received, 0u);
  EXPECT_TRUE(Is(pipe_->TryFetch().status(), StatusCode::kUnavailable, "no message"));
}

TEST_F(DeadLettersTest, EachCanBeReleasedOrRedrivenByItself) {
  Bury({"release", "redrive", "return", "leave"});
  for (ReadSlot& letter : pipe_->DeadLetters()) {
    const std::string text(letter.text());
    absl::Status done;
    if (text == "release") done = letter.Release();
    if (text == "redrive") done = letter.Redrive();
    if (text == "return") done = letter.ReturnUnseen();
    ASSERT_TRUE(done.ok()) << done;
  }
  EXPECT_THAT(FetchAll(), ElementsAre("redrive"));
  EXPECT_THAT(Look(*pipe_), UnorderedElementsAre("return", "leave"));
  EXPECT_EQ(pipe_->Status().received, 2u);
}

TEST_F(DeadLettersTest, AllAreRedrivenButWhatWasOverwritten) {
  EXPECT_EQ(pipe_->RedriveDeadLetters().value(), 0u);
  Bury({"one", "two"});
  BuryOverwritten("three");
  for (const ReadSlot& letter : pipe_->DeadLetters()) {
    EXPECT_EQ(letter.overwritten(), letter.text() != "one" && letter.text() != "two");
  }
  // Also through the index form.
  for (int i = 0; i < 3; ++i) {
    ReadSlot letter = *pipe_->TryFetchDeadLetter();
    const bool overwritten = letter.overwritten();
    ReadSlot again = *pipe_->Reading(letter.Detach());
    EXPECT_EQ(again.overwritten(), overwritten);
    ASSERT_TRUE(again.Return().ok());
  }
  EXPECT_EQ(pipe_->RedriveDeadLetters().value(), 2u);
  EXPECT_EQ(pipe_->Status().ready, 2u);
  EXPECT_EQ(pipe_->Status().dead_letters, 1u) << "the one that was overwritten";
  EXPECT_THAT(FetchAll(), UnorderedElementsAre("one", "two"));

  // As many attempts as before.
  ASSERT_TRUE(pipe_->TryFetchDeadLetter()->Release().ok());
  Bury({"again"});
  EXPECT_EQ(pipe_->RedriveDeadLetters().value(), 1u);
  EXPECT_TRUE(pipe_->TryFetch().ok());
  EXPECT_EQ(pipe_->Status().dead_letters, 0u) << "after one of two attempts";
}

TEST_F(DeadLettersTest, WhoIsKilledWhileItLooksLosesNone) {
  Bury({"one", "two", "three"});
  for (uint32_t which = 0; which < 3; ++which) {
    Doomed looks([which] {
      static auto own = SlotPipe::Connect("test").value();
      static auto letters = own->DeadLetters();
      uint32_t seen = 0;
      // The range keeps the one at which it stands.
      for (const ReadSlot& letter : letters) {
        if (letter && seen++ == which) break;
      }
      return seen == which + 1;
    });
    ASSERT_TRUE(looks.ready());
    EXPECT_EQ(pipe_->Status().reading, 1u) << "it has it in its hands";
    EXPECT_EQ(Look(*pipe_).size(), 2u);
    looks.Kill();
    EXPECT_EQ(pipe_->Recover(), 1u);
    EXPECT_THAT(Look(*pipe_), UnorderedElementsAre("one", "two", "three"));
    EXPECT_EQ(pipe_->TryFetchDeadLetter()->attempt(), kAttemptsMax);
  }
}

TEST_F(DeadLettersTest, WhoIsKilledBetweenTwoThatItRedrivesHasRedrivenOne) {
  Bury({"one", "two", "three"});
  Doomed redrives([] {
    static auto own = SlotPipe::Connect("test").value();
    static auto letters = own->DeadLetters();
    auto letter = letters.begin();
    if (!letter->Redrive().ok()) return false;
    ++letter;
    return static_cast<bool>(*letter);
  });
  ASSERT_TRUE(redrives.ready());
  redrives.Kill();
  EXPECT_EQ(pipe_->Recover(), 1u);
  EXPECT_EQ(pipe_->Status().ready, 1u);
  EXPECT_EQ(pipe_->RedriveDeadLetters().value(), 2u);
  EXPECT_THAT(FetchAll(), UnorderedElementsAre("one", "two", "three"));
}

}  // namespace
}  // namespace mi7
