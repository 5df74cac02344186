// What a death can hide of the hints (free_hints.h), in a pipe with so many slots that nobody comes
// upon a hidden one by chance: recovery brings it to light, and until then a hold that finds
// nothing stays short.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/layout.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using slot_pipe_internal::Is;
using slot_pipe_internal::TestDirectory;

constexpr PipeOptions kOptions = {.slots = 2048, .slot_bytes = 64, .participants = 4};
// The word of hints whose slots alone are empty.
constexpr uint32_t kWord = 24;

class HintsTest : public testing::Test {
 protected:
  // All slots are in use but the 64 of kWord.
  HintsTest() {
    const auto layout = slot_pipe_internal::MakeLayout({.slots = kOptions.slots,
                                                        .slot_bytes = kOptions.slot_bytes,
                                                        .participants = kOptions.participants,
                                                        .attempts_max = kOptions.attempts_max});
    bytes_ = layout->file_bytes;
    const int fd = ::open(directory_.File("test").c_str(), O_RDWR | O_CLOEXEC);
    memory_ =
        static_cast<char*>(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    ::close(fd);
    for (uint32_t i = 0; i < kOptions.slots; ++i) held_.push_back(*pipe_->TryHold());
    for (WriteSlot& slot : held_) {
      EXPECT_TRUE(slot.index() / 64 != kWord || slot.GiveBack().ok());
    }
    // The warmest, that of kWord which was emptied last, is found without a hint.
    held_.push_back(*pipe_->TryHold());
  }
  ~HintsTest() override { ::munmap(memory_, bytes_); }

  // As one leaves it that dies in the middle of FreeHints::Clear or ClearSummary.
  void HideSlots() { std::memset(memory_ + slot_pipe_internal::kHintsOffset + 8 * kWord, 0, 8); }
  void HideWord() {
    std::memset(memory_ + slot_pipe_internal::kSharedWordsOffset +
                    offsetof(slot_pipe_internal::SharedWords, hint_summary),
                0, sizeof(slot_pipe_internal::SharedWords::hint_summary));
  }
  static testing::AssertionResult Finds(SlotPipe& pipe, uint32_t looks_max) {
    auto slot = pipe.TryHold();
    if (!slot.ok()) return testing::AssertionFailure() << slot.status();
    if (slot->index() / 64 != kWord) {
      return testing::AssertionFailure() << "slot " << slot->index();
    }
    const uint32_t looks = pipe.last_hold_probes();
    slot->Detach();  // so that it is not the warmest of the next
    if (looks <= looks_max) return testing::AssertionSuccess();
    return testing::AssertionFailure() << looks << " looks";
  }

  TestDirectory directory_;
  std::unique_ptr<SlotPipe> pipe_ = SlotPipe::Create("test", kOptions).value();
  std::vector<WriteSlot> held_;
  char* memory_ = nullptr;
  uint64_t bytes_ = 0;
};

TEST_F(HintsTest, AHintLeadsToTheSlotsThatAreEmpty) {
  // The cursor, the summary, the word, the slot; and bits of slots in use, once.
  ASSERT_TRUE(pipe_->TryHold().ok());
  auto other = SlotPipe::Connect("test").value();
  EXPECT_TRUE(Finds(*other, kOptions.slots + 100));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Finds(*other, 6)) << i;
}

TEST_F(HintsTest, RecoveryBringsHiddenSlotsToLight) {
  auto other = SlotPipe::Connect("test").value();
  EXPECT_TRUE(Finds(*other, kOptions.slots + 100));
  HideSlots();
  // Nobody is dead, which an attempt may have found out: then it has repaired as well.
  EXPECT_TRUE(Is(other->TryHold().status(), absl::StatusCode::kResourceExhausted, "in use"));
  const uint32_t words = kOptions.slots / 64;
  EXPECT_LE(other->last_hold_probes(), 2 * words);
  EXPECT_EQ(pipe_->Recover(), 0u);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Finds(*other, 6)) << i;
}

TEST_F(HintsTest, AHiddenWordIsFoundByALookAtEach) {
  auto other = SlotPipe::Connect("test").value();
  EXPECT_TRUE(Finds(*other, kOptions.slots + 100));
  HideWord();
  const uint32_t words = kOptions.slots / 64;
  EXPECT_TRUE(Finds(*other, words + 6));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Finds(*other, 6)) << i;
}

// Whoever waits comes to know of them as soon as somebody looks for the dead, though nobody wakes
// it.
TEST_F(HintsTest, WhoWaitsGetsAHiddenSlot) {
  auto other = SlotPipe::Connect("test").value();
  EXPECT_TRUE(Finds(*other, kOptions.slots + 100));
  HideSlots();
  auto slot = other->Hold(Deadline::After(absl::Seconds(30)));
  ASSERT_TRUE(slot.ok()) << slot.status();
  EXPECT_EQ(slot->index() / 64, kWord);
}

}  // namespace
}  // namespace mi7
